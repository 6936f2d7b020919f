"""Tokenising in batches: the same codes whatever the batches, after interruptions too, and memory that they bound."""

import json

import numpy as np
import pytest
from datasets import Dataset

from tokenization_fair import FairTokenizer, codebooks_fair, streaming_fair, tokenization_fair
from tokenization_fair.codebooks_fair import fit_codebooks, sample_rows
from tokenization_fair.semantic_ids_fair import resolve_collisions
from tokenization_fair.streaming_fair import WorkFolder
from tokenization_fair.text_encoders_fair import TfidfEncoder

ITEMS = 100
SMALL = {"num_codebooks": 4, "codebook_size": 8, "show_progress": False}


@pytest.fixture(scope="module")
def shelf() -> list[dict[str, str]]:
    """100 items, some of equal text."""
    words = [f"word{n} kind{n % 7} shelf{n % 9}" for n in range(60)]
    return [{"item_id": f"p{i}", "title": f"t{i}", "text": words[i % 60]} for i in range(ITEMS)]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    drawn = np.random.default_rng(0).normal(size=(ITEMS, 16)).astype(np.float32)
    drawn[::5] = drawn[1::5]
    return drawn


class CountingEncoder:
    """Encodes as TfidfEncoder does; notes the texts of every call and breaks down where it is told to."""

    def __init__(self, texts):
        self.encoder, self.calls, self.breaks_at = TfidfEncoder.fit(texts), [], None

    def encode(self, texts):
        if len(self.calls) == self.breaks_at:
            raise KeyboardInterrupt
        self.calls.append(list(texts))
        return self.encoder.encode(texts)

    def tensors(self):
        return {}


@pytest.fixture
def encoder(shelf, monkeypatch) -> CountingEncoder:
    """Stands in for the sentence encoder of any name."""
    made = CountingEncoder([item["text"] for item in shelf])
    monkeypatch.setattr(tokenization_fair, "SentenceEncoder", lambda name: made)
    return made


def sample_of(monkeypatch, count: int) -> None:
    for module in (codebooks_fair, tokenization_fair):
        monkeypatch.setattr(module, "FIT_SAMPLE", count)


def test_small_catalogues_get_the_codes_of_all_vectors_at_once(shelf, vectors):
    """What a fit did before there were batches, step by step."""
    train = np.arange(0, ITEMS, 2)
    codebooks = fit_codebooks(vectors[train], 4, 8, 128, True, 0)
    expected, moved = resolve_collisions(codebooks.encode(vectors), codebooks, vectors)
    for batch_size in (1, 7, ITEMS, 8_192):
        tokenizer = FairTokenizer.fit(
            shelf, embeddings=vectors, fit_item_ids=[f"p{row}" for row in train], batch_size=batch_size, **SMALL
        )
        assert np.array_equal(tokenizer.item_codes, expected) and moved
        assert tokenizer.id_quality["moved"] == moved
        assert tokenizer.id_quality["reconstruction_error"] == codebooks.reconstruction_error(
            vectors, codebooks.encode(vectors)
        )


@pytest.mark.parametrize("sample", [200_000, 30])
def test_batches_change_nothing(shelf, monkeypatch, sample):
    sample_of(monkeypatch, sample)
    fits = [FairTokenizer.fit(shelf, text_encoder="tfidf", batch_size=size, **SMALL) for size in (3, ITEMS)]
    assert np.array_equal(fits[0].item_codes, fits[1].item_codes)
    assert fits[0].id_quality == fits[1].id_quality and fits[0].id_quality["moved"]
    more = [{"item_id": f"new{i}", "text": item["text"]} for i, item in enumerate(shelf)]
    for tokenizer, size in zip(fits, (7, ITEMS), strict=True):
        tokenizer.add_items(more, batch_size=size)
    assert np.array_equal(fits[0].item_codes, fits[1].item_codes) and len(fits[0]) == 2 * ITEMS


def test_items_from_disk_and_memory_mapped_vectors(shelf, vectors, tmp_path):
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    Dataset.from_list(shelf).to_parquet(str(tmp_path / "items.parquet"))
    items = Dataset.from_parquet(str(tmp_path / "items.parquet"), cache_dir=str(tmp_path))
    expected = FairTokenizer.fit(shelf, embeddings=vectors, **SMALL)
    for source in (items, iter(shelf)):
        tokenizer = FairTokenizer.fit(source, embeddings=mapped, batch_size=9, work_dir=tmp_path / "work", **SMALL)
        assert np.array_equal(tokenizer.item_codes, expected.item_codes)
        assert list(tokenizer.catalogue.titles) == [item["title"] for item in shelf]
    no_rows = FairTokenizer.fit(items.select(range(40)), text_encoder="tfidf", **SMALL)
    assert np.array_equal(no_rows.item_codes, FairTokenizer.fit(shelf[:40], text_encoder="tfidf", **SMALL).item_codes)


@pytest.mark.parametrize("sample, breaks_at", [(200_000, 4), (30, 1), (30, 2), (30, 7)])
def test_an_interrupted_fit_goes_on_where_it_stopped(shelf, encoder, tmp_path, monkeypatch, sample, breaks_at):
    sample_of(monkeypatch, sample)
    options = {"text_encoder": "some-model", "batch_size": 15, "collisions": "keep", **SMALL}
    whole = FairTokenizer.fit(shelf, **options)
    calls = encoder.calls
    encoder.calls, encoder.breaks_at = [], breaks_at
    with pytest.raises(KeyboardInterrupt):
        FairTokenizer.fit(shelf, work_dir=tmp_path / "work", **options)
    encoder.breaks_at = None
    resumed = FairTokenizer.fit(shelf, work_dir=tmp_path / "work", **options)
    assert encoder.calls == calls, "every batch was encoded once, in the same order"
    assert sum(map(len, calls)) == ITEMS, "every text was encoded once, those of the sample too"
    assert np.array_equal(resumed.item_codes, whole.item_codes)
    assert resumed.codebook_fingerprint == whole.codebook_fingerprint and resumed.id_quality == whole.id_quality
    FairTokenizer.fit(shelf, work_dir=tmp_path / "work", **options)
    assert encoder.calls == calls, "a finished folder is read, not made again"
    assert not list((tmp_path / "work").glob("*.tmp"))


def test_interrupted_adding_goes_on_where_it_stopped(shelf, encoder, tmp_path):
    tokenizer = FairTokenizer.fit(shelf[:50], text_encoder="some-model", **SMALL)
    encoder.calls, encoder.breaks_at = [], 2
    with pytest.raises(KeyboardInterrupt):
        tokenizer.add_items(shelf[50:], batch_size=20, work_dir=tmp_path)
    assert len(tokenizer) == 50
    encoder.breaks_at = None
    tokenizer.add_items(shelf[50:], batch_size=20, work_dir=tmp_path)
    assert [len(call) for call in encoder.calls[:3]] == [20, 20, 10], "then those of colliding items"
    assert len(tokenizer) == ITEMS and tokenizer.quality()["shared_ids"] == 0


def test_only_colliding_items_are_encoded_again(shelf, encoder, monkeypatch):
    sample_of(monkeypatch, 30)
    tokenizer = FairTokenizer.fit(shelf, text_encoder="some-model", batch_size=10, **SMALL)
    again = sum(map(len, encoder.calls)) - ITEMS
    assert 0 < again <= tokenizer.id_quality["moved"]


@pytest.mark.parametrize(
    "change, named",
    [
        ({"seed": 1}, "seed 0, now 1"),
        ({"batch_size": 11}, "batch_size 10, now 11"),
        ({"codebook_size": 4}, "codebook_size 8, now 4"),
        ({"fit_item_ids": ["p1", "p2", "p3"]}, "fit_items"),
        ({"items": 99}, "items 100, now 99"),
        ({"text": "another"}, "items_sha256"),
        ({"text_encoder": "other-model"}, "text_encoder 'some-model', now 'other-model'"),
        ({"embeddings": np.eye(ITEMS, 16)}, "embeddings_sha256"),
    ],
)
def test_a_folder_of_other_items_or_settings_is_refused(shelf, encoder, tmp_path, change, named):
    options = {"text_encoder": "some-model", "batch_size": 10, "work_dir": tmp_path / "work", **SMALL}
    FairTokenizer.fit(shelf, **options)
    before = sorted((path.name, path.read_bytes()) for path in (tmp_path / "work").iterdir())
    items = shelf[: change.pop("items", ITEMS)]
    if "text" in change:
        items = [{**items[0], "text": change.pop("text")}, *items[1:]]
    with pytest.raises(ValueError, match=f"work.*{named}.*delete this one"):
        FairTokenizer.fit(items, **{**options, **change})
    assert sorted((path.name, path.read_bytes()) for path in (tmp_path / "work").iterdir()) == before


def test_a_folder_of_other_files_is_refused(shelf, vectors, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        FairTokenizer.fit(shelf, embeddings=vectors, work_dir=tmp_path, **SMALL)


def test_bad_arguments_leave_no_folder(shelf, vectors, tmp_path):
    for change in ({"pca_dim": 0}, {"codebook_size": 9}, {"batch_size": 0}, {"embeddings": vectors[1:]}):
        with pytest.raises(ValueError):
            FairTokenizer.fit(shelf, **{"embeddings": vectors, "work_dir": tmp_path / "work", **SMALL, **change})
    assert not (tmp_path / "work").exists()


def test_a_broken_step_is_named(shelf, vectors, tmp_path):
    FairTokenizer.fit(shelf, embeddings=vectors, work_dir=tmp_path, **SMALL)
    (tmp_path / "codebooks.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match="codebooks.safetensors is broken: delete it"):
        FairTokenizer.fit(shelf, embeddings=vectors, work_dir=tmp_path, **SMALL)
    assert json.loads((tmp_path / "made_for.json").read_text())["items"] == ITEMS


def test_a_step_that_fails_leaves_no_file(tmp_path):
    work = WorkFolder(tmp_path / "work", {})
    with pytest.raises(ZeroDivisionError):
        work.step("half", lambda: {"x": np.array(1 / 0)})
    assert not (tmp_path / "work").exists()


def test_vectors_that_are_not_finite_are_named_by_their_row(shelf, vectors):
    broken = vectors.copy()
    broken[77, 3] = np.nan
    with pytest.raises(ValueError, match="row 77 "):
        FairTokenizer.fit(shelf, embeddings=broken, batch_size=10, **SMALL)


def test_no_more_is_read_at_once_than_a_batch_and_the_sample(shelf, vectors, monkeypatch):
    """Flat memory, structurally: how many vectors and items are asked for at once."""
    sample_of(monkeypatch, 30)
    read: list[int] = []

    class Watched(np.ndarray):
        def __getitem__(self, rows):
            read.append(len(rows))
            return np.asarray(self)[rows]

    class OnDisk:
        def __len__(self):
            return ITEMS

        def __getitem__(self, row):
            raise AssertionError("rows are read one by one")

        def __getitems__(self, rows):
            read.append(len(rows))
            return [shelf[row] for row in rows]

    monkeypatch.setattr(streaming_fair, "BATCH_SIZE", 8)
    tokenizer = FairTokenizer.fit(OnDisk(), embeddings=vectors.view(Watched), batch_size=8, **SMALL)
    assert max(read) <= max(8, tokenizer.id_quality["moved"])
    held = set(sample_rows(np.arange(ITEMS), 0).tolist())
    assert len(held) == 30 and sum(read) < 3 * ITEMS


def test_one_bar_over_all_items(shelf, vectors, capsys, tmp_path):
    FairTokenizer.fit(shelf, embeddings=vectors, batch_size=30, work_dir=tmp_path, **{**SMALL, "show_progress": True})
    assert "Tokenising items: 100%" in capsys.readouterr().err
    FairTokenizer.fit(shelf, embeddings=vectors, batch_size=30, work_dir=tmp_path, **SMALL)
    assert "Tokenising" not in capsys.readouterr().err
