"""Exported models answer as the model itself, through torch.export and onnxruntime, for all batches and lengths."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import pipeline

onnxruntime = pytest.importorskip("onnxruntime", reason="the export extra is not installed")

from examples.export_onnx import (  # noqa: E402
    CodeLogits,
    FixedWidthPrior,
    Recommender,
    first_best,
    load,
    main,
    to_onnx,
    to_program,
)
from modeling_fair import ItemIndex  # noqa: E402
from modeling_fair.cooccurrence_fair import cooccurrence  # noqa: E402
from modeling_fair.decoding_fair import best_of  # noqa: E402

KNOWN, TOP_K, LONGEST = 30, 10, 12
ITEMS = {"prediction": "items", "item_residuals": True, "num_known_items": KNOWN}
VARIANTS = {
    "codes, focused": ({}, False),
    "codes, standard attention, prior": ({"attention_type": "standard", "num_known_items": KNOWN}, True),
    "items, own vectors, prior": (ITEMS, True),
    "items, relu, bias of positions": ({**ITEMS, "attention_norm": "relu", "relative_position_bias": True}, False),
}
SHAPES = [(1, 1), (1, 7), (6, 1), (5, LONGEST), (3, 4)]


def make_index() -> ItemIndex:
    """Known items with one taken out, and new ones: some share all codes with a known one, some with each other."""
    random = np.random.default_rng(0)
    codes = random.integers(0, 8, (KNOWN + 3, 4)).astype(np.uint8)
    known = np.concatenate([random.permutation(KNOWN), [-1] * 3])
    index = ItemIndex(codes, known_ids=known, backend="exact")
    index.remove([7])
    index.add(np.concatenate([codes[:4], codes[-3:], codes[-3:]]))
    return index


def make_prior(model) -> None:
    random = np.random.default_rng(1)
    counts = cooccurrence([random.integers(0, KNOWN, random.integers(2, 9)) for _ in range(30)], KNOWN)
    model.set_prior(counts, 1.3, -2.5, 3.0 if model.config.prediction == "items" else None)
    model.config.prior_history = 3


def make_batch(index, users, length, side, seed=0) -> dict[str, torch.Tensor]:
    """Histories of random items and lengths, the last user's empty where there are several."""
    random = np.random.default_rng(seed)
    rows = random.integers(0, len(index), (users, length))
    lengths = random.integers(1, length + 1, users)
    lengths[-1] = lengths[-1] if users == 1 else 0
    places = np.arange(length)
    mask = places >= length - lengths[:, None] if side == "left" else places < lengths[:, None]
    rows = torch.from_numpy(np.where(mask, rows, -1))
    real = rows >= 0
    return {
        "input_ids": index.item_codes[rows].long() * real[..., None],
        "attention_mask": real.long(),
        "item_ids": rows,
        "known_ids": index.known_ids[rows].masked_fill(~real, -1),
    }


def run(session, batch) -> list[torch.Tensor]:
    names = [given.name for given in session.get_inputs()]
    return [torch.from_numpy(output) for output in session.run(None, {name: batch[name].numpy() for name in names})]


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda name: name.replace(", ", "-"))
def exported(request, tmp_path_factory, make_model):
    """A model, its catalogue, and both of its exports in both forms."""
    fields, with_prior = VARIANTS[request.param]
    model, index = make_model(**fields), make_index()
    if with_prior:
        make_prior(model)
    popularity = torch.arange(len(index)).remainder(4).float()  # with ties
    folder = tmp_path_factory.mktemp("onnx")
    parts = {"model": model, "index": index, "popularity": popularity}
    for name, module in (
        ("code_logits", CodeLogits(model)),
        ("recommend", Recommender(model, index, TOP_K, popularity)),
    ):
        parts[f"{name}_program"] = to_onnx(module, folder / f"{name}.onnx").module()
        parts[name] = onnxruntime.InferenceSession(folder / f"{name}.onnx")
    return SimpleNamespace(**parts)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_they_answer_as_the_model(exported, shape, side):
    model, index = exported.model, exported.index
    batch = make_batch(index, *shape, side)
    wanted = model.recommend(**batch, index=index, top_k=TOP_K, empty_history_scores=exported.popularity)
    of_program = exported.recommend_program(**batch)
    for rows, scores in (of_program.values(), run(exported.recommend, batch)):
        assert torch.equal(rows, wanted.item_ids)
        torch.testing.assert_close(scores, wanted.scores, rtol=1e-4, atol=1e-4)
    histories = {name: batch[name] for name in ("input_ids", "attention_mask", "known_ids")}
    with torch.no_grad():
        logits = model(**histories).logits[:, 0]
    real = batch["attention_mask"].any(dim=1)
    for found in (exported.code_logits_program(**histories)["logits"], *run(exported.code_logits, batch)):
        torch.testing.assert_close(found[real], logits[real], rtol=1e-4, atol=1e-4)


def test_seen_items_are_removed_as_they_are_given(exported):
    model, index = exported.model, exported.index
    batch = make_batch(index, 3, 5, "left")
    nothing = {**batch, "item_ids": torch.full((3, 1), -1)}
    wanted = model.recommend(
        **batch, index=index, top_k=TOP_K, remove_seen=False, empty_history_scores=exported.popularity
    )
    assert torch.equal(run(exported.recommend, nothing)[0], wanted.item_ids)
    all_but_two = {**batch, "item_ids": torch.arange(len(index) - 2).expand(3, -1)}
    wanted = model.recommend(**all_but_two, index=index, top_k=TOP_K, empty_history_scores=exported.popularity)
    rows, scores = run(exported.recommend, all_but_two)
    assert torch.equal(rows, wanted.item_ids) and (rows[:, 2:] == -1).all()
    assert torch.equal(scores.isneginf(), wanted.scores.isneginf())


def test_equal_scores_come_in_catalogue_order(exported):
    """The last six items are three that nobody knows, twice."""
    batch = {
        **make_batch(exported.index, 4, 6, "right"),
        "item_ids": torch.arange(len(exported.index) - 6).expand(4, -1),
    }
    rows, scores = run(exported.recommend, batch)
    first = len(exported.index) - 6
    for of_user, of_scores in zip(rows[:-1].tolist(), scores[:-1].tolist(), strict=True):  # the last has no history
        for one in range(first, first + 3):
            assert of_user.index(one) + 1 == of_user.index(one + 3)
            assert of_scores[of_user.index(one)] == of_scores[of_user.index(one + 3)]


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), items=st.integers(1, 30), top_k=st.integers(1, 30), values=st.integers(1, 5))
def test_the_first_of_the_best(seed, items, top_k, values):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, values, (3, items), generator=generator).float()
    scores[0, : items // 2] = -torch.inf
    top_k = min(top_k, items)
    wanted, wanted_places = best_of(scores, torch.arange(items).expand(3, -1), top_k)
    best, places = first_best(scores, top_k)
    assert torch.equal(best, wanted)
    assert torch.equal(places[wanted.isfinite()], wanted_places[wanted.isfinite()])


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    users=st.integers(1, 4),
    length=st.integers(1, 9),
    prediction=st.sampled_from(["codes", "items"]),
    adopted=st.sampled_from([0, 5]),
)
def test_the_prior_of_fixed_width_is_the_prior(make_model, seed, users, length, prediction, adopted):
    model, index = make_model(num_known_items=KNOWN, prediction=prediction), make_index()
    make_prior(model)
    model.config.num_adopted_items = adopted
    known_ids = torch.randint(-1, KNOWN, (users, length), generator=torch.Generator().manual_seed(seed))
    fixed, sparse = FixedWidthPrior(model.prior)(known_ids, index.known_ids), model.prior(known_ids, index.known_ids)
    assert torch.equal(fixed.rows, torch.arange(len(index)).expand(users, -1))
    scores = torch.linspace(-4, 6, users * (len(index) + 1)).view(users, -1)
    places = sparse.rows.where(sparse.rows >= 0, len(index))
    wanted = scores.scatter(1, places, sparse.final(scores.gather(1, places)))[:, :-1]
    torch.testing.assert_close(fixed.final(scores[:, :-1]), wanted)


def test_a_checkpoint_is_exported_whole(make_model, fitted, tmp_path):
    model = make_model(**{**ITEMS, "num_known_items": fitted.num_known_items})
    model.set_prior(cooccurrence([[3, 20, 8], [30, 4]], fitted.num_known_items), 2.0, -1.5)
    model.save_pretrained(tmp_path / "model")
    fitted.save_pretrained(tmp_path / "model")
    found = main([str(tmp_path / "model"), "--output_dir", str(tmp_path / "onnx"), "--top_k", "5"])
    assert found["rows"] == 1 and found["logits"] < 1e-4 and found["scores"] < 1e-4
    histories = [["p3", "p4"], [], ["p9"] * 30]
    batch = fitted(histories, return_tensors="np")
    session = onnxruntime.InferenceSession(tmp_path / "onnx/recommend.onnx")
    rows, _ = session.run(None, dict(batch))
    answers = pipeline("recommendation", model=str(tmp_path / "model"))([{"history": h} for h in histories], top_k=5)
    for of_user, answer in zip(rows.tolist(), answers, strict=True):
        assert [fitted.catalogue.item_ids[row] for row in of_user] == [entry["item_id"] for entry in answer]


def test_what_cannot_be_exported_is_refused(make_model, tmp_path):
    with pytest.raises(ValueError, match="has no config.json: give the folder of a checkpoint"):
        load(str(tmp_path))
    with pytest.raises(ValueError, match="nowhere has no config.json"):
        main([str(tmp_path / "nowhere"), "--output_dir", str(tmp_path / "onnx")])
    assert not (tmp_path / "onnx").exists()
    index = make_index()
    for top_k in (0, len(index) + 1):
        with pytest.raises(ValueError, match=f"top_k is {top_k} but the catalogue has {len(index)} items"):
            Recommender(make_model(), index, top_k)
    with pytest.raises(ValueError, match="known_ids=tokenizer.known_ids"):
        to_program(Recommender(make_model(**ITEMS), ItemIndex(index.item_codes), TOP_K))
