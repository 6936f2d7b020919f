"""New items borrow vectors and counts of those that they are like, and nothing else changes."""

import copy
import sys

import numpy as np
import pytest
import torch
from scipy import sparse
from transformers import pipeline

from modeling_fair import FairForGenerativeRecommendation, FairTokenizer, ItemIndex, new_items_fair
from modeling_fair.cooccurrence_fair import cooccurrence
from modeling_fair.embeddings_fair import FairEmbeddings
from modeling_fair.new_items_fair import LENDERS, lenders_of, lent_counts, lent_vectors
from modeling_fair.prior_fair import CoOccurrencePrior

HISTORIES = [["p3", "p1", "p4"], ["p9"], ["p8", "p20"]]


def test_lenders_are_the_nearest_by_cosine(monkeypatch):
    monkeypatch.setattr("modeling_fair.new_items_fair.CHUNK_CELLS", 90)
    rng = np.random.default_rng(0)
    new, known = (rng.normal(size=(count, 6)).astype(np.float32) for count in (7, 30))
    known[4], new[2] = 0, 0
    rows, shares = lenders_of(new, known)
    assert rows.shape == shares.shape == (7, LENDERS)
    for item in set(range(7)) - {2}:
        cosines = [vector @ new[item] / max(np.linalg.norm(vector), 1e-9) for vector in known]
        cosines = np.array(cosines) / np.linalg.norm(new[item])
        nearest = np.argsort(-cosines)[:LENDERS]
        assert set(rows[item]) == set(nearest)
        wanted = cosines[rows[item]] ** 3
        np.testing.assert_allclose(shares[item], wanted / wanted.sum(), rtol=1e-4)
    assert not shares[2].any(), "it is like none"
    assert lenders_of(new, known[:3])[0].shape == (7, 3)


def test_what_is_lent_is_the_mean_of_what_lenders_have():
    rng = np.random.default_rng(0)
    own, lenders = torch.from_numpy(rng.normal(size=(10, 4))), np.array([[1, 3], [9, 0], [2, 2]])
    shares = np.array([[0.25, 0.75], [1, 0], [0, 0]], np.float32)
    torch.testing.assert_close(
        lent_vectors(own, lenders, shares), torch.stack([own[1] / 4 + own[3] * 3 / 4, own[9], own[9] * 0])
    )
    counts = cooccurrence([rng.integers(0, 10, 6) for _ in range(8)], 10)
    full = lent_counts((counts.data, counts.indices, counts.indptr), lenders, shares).toarray()
    known, lent = counts.toarray(), np.zeros((3, 10), np.float32)
    for item in range(3):
        np.add.at(lent[item], lenders[item], shares[item])
    np.testing.assert_array_equal(full[:10, :10], known)
    columns = np.hstack([known, (known + np.diag(known.max(axis=1))) @ lent.T])
    np.testing.assert_allclose(full[:10], columns, rtol=1e-5)
    rows = lent @ columns
    rows[:, 10:][np.diag_indices(3)] = 0
    np.testing.assert_allclose(full[10:], rows, rtol=1e-5)
    assert not full[12].any() and not full[:, 12].any(), "what nothing is like borrows nothing"


@pytest.fixture
def tokenizer(items, embeddings) -> FairTokenizer:
    """Of 40 items, of which 30 were met."""
    counts = np.array([1] * 30 + [0] * 10)
    fitted = FairTokenizer.fit(items, embeddings=embeddings, item_counts=counts, num_codebooks=4, codebook_size=8)
    fitted.model_max_length = 12
    return fitted


def made(make_model, tokenizer, level: float | None, residuals: bool = True) -> FairForGenerativeRecommendation:
    model = make_model(prediction="items", num_known_items=tokenizer.num_known_items, item_residuals=residuals)
    rng = np.random.default_rng(0)
    model.set_prior(cooccurrence([rng.permutation(30)[:12] for _ in range(9)], 30), 1.5, -2.0, level)
    return model


def scores(model, tokenizer, histories=HISTORIES):
    index = ItemIndex(tokenizer.item_codes, known_ids=tokenizer.known_ids, backend="exact")
    batch = tokenizer(histories, return_tensors="pt")
    found = model.recommend(**batch, index=index, top_k=len(tokenizer.item_codes), remove_seen=False)
    return torch.zeros_like(found.scores).scatter_(1, found.item_ids, found.scores)


@pytest.mark.parametrize("level", [None, 4.0])
def test_adopted_items_have_what_was_lent_and_others_what_they_had(make_model, tokenizer, embeddings, level):
    model = made(make_model, tokenizer, level)
    tokenizer.add_items([{"item_id": "twin", "title": "a twin of p4"}], embeddings[4:5])
    before, own = scores(model, tokenizer), model.model.embeddings.residuals.weight.clone()
    assert model.adopt_new_items(tokenizer) == 11 and model.adopt_new_items(tokenizer) == 0
    assert tokenizer.num_known_items == model.config.num_known_items == 41 == len(set(tokenizer.known_ids))
    after = scores(model, tokenizer)
    met = torch.arange(30)
    torch.testing.assert_close(after[:, met], before[:, met])
    twin = int(tokenizer.catalogue.rows_of(["twin"])[0])
    assert (after[:, twin] != before[:, twin]).all()
    weight = model.model.embeddings.residuals.weight
    assert torch.equal(weight[:30], own[:30]) and not weight[-1].any() and len(weight) == 42
    of_new, of_known = (tokenizer.codebooks.decode(tokenizer.item_codes[rows]) for rows in ([twin], range(30)))
    lenders, shares = lenders_of(of_new, of_known)
    assert 4 in lenders[0]
    torch.testing.assert_close(weight[tokenizer.known_ids[twin]], lent_vectors(own, lenders, shares)[0])
    assert not torch.allclose(scores(model, tokenizer, [["twin"]]), scores(model, tokenizer, [["p9"]]))


def test_more_items_are_adopted_later_and_all_is_saved(make_model, tokenizer, embeddings, tmp_path):
    model = made(make_model, tokenizer, 4.0)
    model.adopt_new_items(tokenizer)
    before = scores(model, tokenizer)
    tokenizer.remove_items(["p3"])
    tokenizer.add_items([{"item_id": "late", "title": "late"}], embeddings[7:8])
    assert model.adopt_new_items(tokenizer) == 1 and model.config.num_adopted_items == 11
    after = scores(model, tokenizer, HISTORIES[1:])
    torch.testing.assert_close(after[:, :-1], torch.cat([before[1:, :3], before[1:, 4:]], dim=1))
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    again = FairForGenerativeRecommendation.from_pretrained(tmp_path)
    torch.testing.assert_close(scores(again, FairTokenizer.from_pretrained(tmp_path), HISTORIES[1:]), after)
    assert (tmp_path / "new_items_fair.py").exists(), "a checkpoint loads without this package"


def test_a_pipeline_serves_what_was_adopted(make_model, tokenizer, embeddings, tmp_path):
    for part in (made(make_model, tokenizer, 4.0), tokenizer):
        part.save_pretrained(tmp_path)
    recommender = pipeline("recommendation", model=str(tmp_path))
    request = {"history": ["p3", "p1"]}
    recommender(request)
    recommender.tokenizer.add_items([{"item_id": "new", "title": "new"}], embeddings[3:4])
    (alone,) = recommender(request, allow=["new"])
    recommender.model.adopt_new_items(recommender.tokenizer)
    (adopted,) = recommender(request, allow=["new"])
    assert adopted["score"] != alone["score"]
    recommender.save_pretrained(tmp_path / "again")
    (again,) = pipeline("recommendation", model=str(tmp_path / "again"))(request, allow=["new"])
    assert again == adopted


def test_what_is_borrowed_does_not_hang_on_when_an_item_came(make_model, tokenizer, embeddings):
    twins = [{"item_id": name, "title": name} for name in ("first", "second")]
    together, models = copy.deepcopy(tokenizer), [made(make_model, tokenizer, 4.0) for _ in range(2)]
    together.add_items(twins, embeddings[[4, 4]])
    models[0].adopt_new_items(together)
    for number in (0, 1):
        tokenizer.add_items([twins[number]], embeddings[[4]])
        models[1].adopt_new_items(tokenizer)
    vectors = [model.model.embeddings.residuals.weight for model in models]
    torch.testing.assert_close(*vectors)


@pytest.mark.parametrize("fails", ["with_known_items", "fill"])
def test_a_failure_changes_nothing(make_model, tokenizer, monkeypatch, fails):
    model = made(make_model, tokenizer, 4.0)
    before, config = scores(model, tokenizer), copy.deepcopy(model.config.to_dict())

    def raises(*_):
        raise MemoryError("full")

    with monkeypatch.context() as patched:
        patched.setattr(FairEmbeddings if fails == "with_known_items" else CoOccurrencePrior, fails, raises)
        with pytest.raises(MemoryError):
            model.adopt_new_items(tokenizer)
    assert model.config.to_dict() == config and tokenizer.num_known_items == 30
    torch.testing.assert_close(scores(model, tokenizer), before)
    assert model.adopt_new_items(tokenizer) == 10


def test_a_frozen_model_stays_frozen_and_adopts_anywhere(make_model, tokenizer):
    model = made(make_model, tokenizer, 4.0).requires_grad_(False)
    with torch.inference_mode():
        model.adopt_new_items(tokenizer)
    weight = model.model.embeddings.residuals.weight
    assert not weight.requires_grad and not weight.is_inference()


def test_what_is_lent_is_bounded(monkeypatch):
    monkeypatch.setattr(new_items_fair, "COUNTED_ITEMS", 4)
    counts = sparse.csr_array(np.random.default_rng(0).random((30, 30)).astype(np.float32))
    lenders, shares = np.array([[1, 2], [5, 6]]), np.full((2, 2), 0.5, np.float32)
    full = lent_counts((counts.data, counts.indices, counts.indptr), lenders, shares).toarray()
    assert ((full[30:] > 0).sum(axis=1) == 4).all() and ((full[:30, 30:] > 0).sum(axis=0) == 4).all()
    np.testing.assert_array_equal(full[:30, :30], counts.toarray())


def test_models_adopt_what_they_can(make_model, tokenizer):
    assert make_model().adopt_new_items(tokenizer) == 0 and tokenizer.num_known_items == 30
    of_counts = made(make_model, tokenizer, None, residuals=False)
    with pytest.raises(ValueError, match="knows 30 items but this tokenizer 31"):
        tokenizer._num_known_items = 31
        of_counts.adopt_new_items(tokenizer)
    assert of_counts.config.num_known_items == 30
    tokenizer._num_known_items = 30
    assert of_counts.adopt_new_items(tokenizer) == 10 and of_counts.model.embeddings.residuals is None


def test_without_scipy_nothing_changes(make_model, tokenizer, monkeypatch):
    model = made(make_model, tokenizer, 4.0)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ImportError, match="needs scipy"):
        model.adopt_new_items(tokenizer)
    assert model.config.num_known_items == tokenizer.num_known_items == 30
