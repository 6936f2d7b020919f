"""The prior adds what counting by plain loops says, keeps to the catalogue as it is, and is saved with the model."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_fair import FairForGenerativeRecommendation, ItemIndex
from modeling_fair.configuration_fair import FairConfig
from modeling_fair.cooccurrence_fair import cooccurrence
from modeling_fair.prior_fair import CoOccurrencePrior

KNOWN = 6
SEQUENCES = st.lists(st.lists(st.integers(-1, KNOWN - 1), max_size=8), min_size=1, max_size=5)


def make_prior(train, **fields) -> CoOccurrencePrior:
    counts = cooccurrence(train, KNOWN)
    fields = {"prior_weight": 0.7, "prior_floor": 0.01, "prior_history": 3, **fields}
    prior = CoOccurrencePrior(FairConfig(num_known_items=KNOWN, prior_size=counts.nnz, **fields))
    prior.fill(counts)
    return prior


def terms_by_loops(train, history, repeat):
    matrix = cooccurrence(train, KNOWN).toarray()
    known = [item for item in history if item >= 0]
    newest = max((place for place, item in enumerate(history) if item >= 0), default=0)
    counts = np.zeros(KNOWN)
    for place, item in enumerate(history):
        if item >= 0 and newest - place < 3:
            counts += 0.5 ** (newest - place) * matrix[item]
    assert known or not counts.any()
    return 0.7 * np.log1p(counts / 0.01) + repeat * np.isin(np.arange(KNOWN), known)


@settings(deadline=None)
@given(
    train=SEQUENCES,
    histories=SEQUENCES,
    removed=st.sets(st.integers(0, KNOWN - 1)),
    new=st.integers(0, 2),
    repeat=st.sampled_from([0.0, -5.0, 3.0]),
)
def test_the_prior_is_its_formula(train, histories, removed, new, repeat):
    prior = make_prior(train, prior_repeat=repeat)
    length = max(1, *map(len, histories))
    known_ids = torch.tensor([[-1] * (length - len(history)) + history for history in histories])
    of_items = torch.tensor([item for item in range(KNOWN) if item not in removed] + [-1] * new, dtype=torch.long)
    rows, scores = prior(known_ids, of_items)
    assert rows.shape == scores.shape and len(rows) == len(histories)
    for of_rows, of_scores, history in zip(rows.tolist(), scores.tolist(), histories, strict=True):
        found = {row: score for row, score in zip(of_rows, of_scores, strict=True) if row >= 0}
        assert len(found) == sum(row >= 0 for row in of_rows)  # each once
        wanted = terms_by_loops(train, history, repeat)
        for row, item in enumerate(of_items.tolist()):
            assert found.get(row, 0.0) == pytest.approx(wanted[item] if item >= 0 else 0.0, rel=1e-4, abs=1e-6)


def test_counts_of_unknown_items_are_refused_and_those_below_0_left_out():
    with pytest.raises(ValueError, match="item 6: items are 0 to 5"):
        cooccurrence([[0, 6]], KNOWN)
    assert cooccurrence([[0, -1, 1]], KNOWN)[0, 1] > 0  # the distance between them is 2
    with pytest.raises(ValueError, match="the model knows 6"):
        make_prior([[0, 1]]).fill(cooccurrence([[0, 1]], KNOWN + 1))


def test_a_prior_is_saved_with_the_model_and_changes_its_answers(make_model, fitted, tmp_path):
    model = make_model(num_known_items=fitted.num_known_items)
    index = ItemIndex(fitted.item_codes, known_ids=fitted.known_ids)
    batch = fitted([["p3", "p4"], ["p9"]], return_tensors="pt")
    before = model.recommend(**batch, index=index, top_k=5)
    model.set_prior(cooccurrence([[3, 20], [3, 20], [8, 30]], fitted.num_known_items), 50.0)
    after = model.recommend(**batch, index=index, top_k=5)
    # known item 20 is row 21: p0 was not met in training
    assert after.item_ids[0, 0] == 21 and after.item_ids[1, 0] == 31
    model.save_pretrained(tmp_path)
    loaded = FairForGenerativeRecommendation.from_pretrained(tmp_path).eval()
    again = loaded.recommend(**batch, index=index, top_k=5)
    assert torch.equal(again.item_ids, after.item_ids) and torch.equal(again.scores, after.scores)
    model.set_prior(cooccurrence([[3]], fitted.num_known_items), 1.0, -5.0)
    assert model.prior is None, "it counts nothing"
    assert torch.equal(model.recommend(**batch, index=index, top_k=5).item_ids, before.item_ids)
    assert not any("prior" in name for name in model.state_dict())


@pytest.mark.parametrize("prediction", ["codes", "items"])
def test_a_history_s_own_items_are_held_back_or_put_first(make_model, fitted, prediction):
    """In every search, of one user and of two; items that are not known, as p0, are left alone."""
    model = make_model(num_known_items=fitted.num_known_items, prediction=prediction)
    batch = fitted([["p3", "p0", "p4", "p3"], ["p9"]], return_tensors="pt")
    counts = cooccurrence([[3, 20], [8, 30]], fitted.num_known_items)
    items = len(fitted.item_codes)
    for backend, users in itertools.product(("exact", "auto", "pq"), ([0, 1], [1])):
        index = ItemIndex(fitted.item_codes, known_ids=fitted.known_ids, backend=backend)
        answers = {}
        for repeat in (0.0, -200.0, 200.0):
            model.set_prior(counts, 1.0, repeat)
            found = model.recommend(
                **{name: of_all[users] for name, of_all in batch.items()}, index=index, top_k=items, remove_seen=False
            )
            for scores, rows in zip(found.scores, found.item_ids, strict=True):
                assert (scores.diff() <= 0).all()
                answers.setdefault(repeat, []).append(torch.zeros(items).scatter_(0, rows, scores))
        share = 1 / (1 if prediction == "items" else model.config.num_codebooks)
        for user, own in enumerate([([3, 4], [9])[user] for user in users]):
            mine = torch.zeros(items)
            mine[own] = 200.0 * share
            for repeat, sign in ((-200.0, -1), (200.0, 1)):
                torch.testing.assert_close(
                    answers[repeat][user], answers[0.0][user] + sign * mine, atol=1e-4, rtol=1e-5
                )


def test_a_model_that_knows_items_asks_which_they_are(make_model, fitted):
    model = make_model(num_known_items=fitted.num_known_items)
    model.set_prior(cooccurrence([[3, 20]], fitted.num_known_items), 1.0)
    batch = fitted([["p3"]], return_tensors="pt")
    with pytest.raises(ValueError, match="known_ids=tokenizer.known_ids"):
        model.recommend(**batch, index=ItemIndex(fitted.item_codes))
    with pytest.raises(ValueError, match="known_ids has shape"):
        ItemIndex(fitted.item_codes, known_ids=fitted.known_ids[:3])
