"""Similar items are those of a plain sort by cosine; what is added to counts keeps its share."""

import numpy as np
import pytest
from datasets import Dataset
from scipy import sparse

from modeling_fair import cooccurrence_fair
from modeling_fair.cooccurrence_fair import (
    MIXTURE_WEIGHT,
    REPEATS,
    add_similar,
    borrowed_counts,
    choose_prior,
    cooccurrence,
    prior_parts,
    prior_users,
    similar_items,
    with_lent_counts,
)
from modeling_fair.new_items_fair import lenders_of, lent_counts


def test_the_largest_counts_of_an_item_are_kept(monkeypatch, fitted):
    monkeypatch.setattr(cooccurrence_fair, "COUNTED_ITEMS", 3)
    known = np.flatnonzero(fitted.known_ids >= 0).tolist()
    first, *others = known[:9]
    pairs = [[first, other] for times, other in enumerate(others, 1) for _ in range(times)]
    pairs += [[item] for item in known]  # none borrows
    counts, _ = prior_parts(Dataset.from_dict({"item_ids": pairs}), fitted)
    counts, (first, *others) = counts.toarray(), fitted.known_ids[[first, *others]]
    assert set(counts[first].nonzero()[0]) == set(others[-3:]) and (counts[others, first] > 0).all()


def test_similar_items_are_the_nearest_by_cosine():
    vectors = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    vectors[3] = 0  # an item that is no longer there
    similar = similar_items(vectors, count=4, power=2.0).toarray()
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -1)
    for item in range(30):
        nearest = [other for other in np.argsort(-cosines[item])[:4] if cosines[item, other] > 0]
        expected = np.zeros(30)
        expected[nearest] = cosines[item, nearest] ** 2
        np.testing.assert_allclose(similar[item], expected, atol=1e-5)
    assert not similar[3].any() and not similar[:, 3].any()


def test_of_many_items_most_similar_ones_are_found(monkeypatch):
    centres = np.random.default_rng(0).normal(size=(20, 16))
    vectors = np.repeat(centres, 50, axis=0) + np.random.default_rng(1).normal(size=(1000, 16)) * 0.3
    exact = similar_items(vectors.astype(np.float32), count=10).toarray() > 0
    monkeypatch.setattr(cooccurrence_fair, "EXACT_ITEMS", 500)
    found = similar_items(vectors.astype(np.float32), count=10).toarray() > 0
    assert (found & exact).sum() > 0.7 * exact.sum()


def test_borrowed_counts_are_the_means_of_similar_items(monkeypatch):
    rng = np.random.default_rng(0)
    counts = cooccurrence([rng.integers(0, 30, 12) for _ in range(20)], 30)
    vectors = rng.normal(size=(30, 4)).astype(np.float32)
    vectors[3] = 0
    similar = similar_items(vectors, count=5)
    dense, likeness = counts.toarray(), similar.toarray()
    assert (borrowed_counts(counts, similar, 30, lenders=2) != borrowed_counts(counts, _of_two(likeness), 30)).nnz == 0
    means = likeness @ dense / np.maximum(likeness.sum(axis=1, keepdims=True), 1e-12)
    np.fill_diagonal(means, 0)
    np.testing.assert_allclose(borrowed_counts(counts, similar, 30).toarray(), means, atol=1e-5)
    monkeypatch.setattr(cooccurrence_fair, "BORROWING_ITEMS", 7)
    few = borrowed_counts(counts, similar, 4).toarray()
    for of_item, mean in zip(few, means, strict=True):
        kept = np.flatnonzero(of_item)
        assert len(kept) == min(4, (mean > 0).sum()) and set(mean[kept]) == set(np.sort(mean)[::-1][: len(kept)])
        np.testing.assert_allclose(of_item[kept], mean[kept], atol=1e-5)
    assert not few[3].any()


def _of_two(likeness):
    """The two largest of each row."""
    smaller = np.argsort(-likeness, axis=1)[:, 2:]
    of_two = likeness.copy()
    np.put_along_axis(of_two, smaller, 0, axis=1)
    return sparse.csr_array(of_two)


def test_a_prior_knows_what_similar_items_stand_beside():
    """Items 0 and 1 are alike, and 0 stands beside 2: so 1 says something of 2, too."""

    class Tokenizer:
        num_known_items, known_ids = 4, np.arange(4)
        item_codes = np.arange(4)[:, None]

        def known_ids_of(self, rows):
            return rows

        class codebooks:
            @staticmethod
            def decode(codes):
                return np.array([[1, 0.1, 0], [1, -0.1, 0], [0, 0, 1], [0, 0, -1]], np.float32)[codes[:, 0]]

    counts, similar = prior_parts({"item_ids": [[0, 2], [3], [1]]}, Tokenizer())
    assert counts[1, 2] == 0 < similar[1, 2] and similar[1, 3] == 0
    alike = similar[0, 1] + similar[1, 0]
    assert np.isclose(similar.sum(), 1.5 * alike)
    assert prior_parts({"item_ids": [[3]]}, Tokenizer())[1].nnz == 2, "without counts, likeness alone"
    borrowed, _ = prior_parts({"item_ids": [[0, 2], [3]]}, Tokenizer())
    assert np.isclose(borrowed[1, 2], counts[0, 2]) and borrowed[0, 2] == counts[0, 2], "1 was never met"


def test_items_that_were_never_met_borrow_counts_and_change_no_others():
    rng = np.random.default_rng(0)
    met, vectors = rng.permutation(30) < 20, rng.normal(size=(30, 6)).astype(np.float32)
    sequences = [rng.permutation(np.flatnonzero(met))[:5] for _ in range(12)]
    counts = cooccurrence(sequences, 30)
    full = with_lent_counts(counts, met, vectors).toarray()
    np.testing.assert_array_equal(full[np.ix_(met, met)], counts.toarray()[np.ix_(met, met)])
    assert full[~met].any(axis=1).all() and full[:, ~met].any(axis=0).all() and not np.diag(full)[~met].any()
    order = np.r_[np.flatnonzero(met), np.flatnonzero(~met)]
    of_met = counts[order[:20]][:, order[:20]]
    lenders = lenders_of(vectors[~met], vectors[met])
    expected = lent_counts((of_met.data, of_met.indices, of_met.indptr), *lenders).toarray()
    np.testing.assert_array_equal(full[np.ix_(order, order)], expected)
    assert with_lent_counts(counts, np.ones(30, bool), vectors) is counts


def test_the_share_of_similar_items():
    counts = cooccurrence([[0, 1, 2], [2, 3]], 5)
    similar = similar_items(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))
    both = add_similar(counts, similar, 2.0)
    added = (both - counts).toarray()
    np.testing.assert_allclose(added / 2 / counts.data.mean(), similar.toarray() / similar.data.mean(), atol=1e-5)
    assert (add_similar(counts, similar, 0.0) != counts).nnz == 0
    nothing = cooccurrence([], 5)
    assert add_similar(nothing, similar, 2.0).nnz == 0


def test_of_many_users_some_choose_the_prior(monkeypatch):
    users = Dataset.from_dict({"user": range(50)})
    assert prior_users(users) is users
    monkeypatch.setattr(cooccurrence_fair, "PRIOR_USERS", 20)
    some = prior_users(users)["user"][:]
    assert len(set(some)) == 20 and max(some) >= 20 and prior_users(users)["user"][:] == some


def test_the_prior_is_the_best_in_validation():
    """By the mean of both protocols: similar items, weight and repeat in turns. No prior where none is best."""
    counts = cooccurrence([[0, 1, 2], [2, 3]], 5)
    similar = similar_items(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))
    shares = {add_similar(counts, similar, share).sum(): share for share in (0.0, 2.0, 6.0)}

    def validate_for(best_share, best_weight, best_repeat):
        def validate(made, weight, repeat, level):
            assert level is None
            calls.append((shares[made.sum()], weight, repeat))
            value = -abs(weight - best_weight)
            if weight:
                value -= abs(shares[made.sum()] - best_share) / 100 + abs(repeat - best_repeat) / 1000
            return {"ndcg@10": value - 1, "ndcg@10_seen_removed": value + 1}

        return validate

    for share, weight, repeat in ((0.0, 3.0, -32.0), (2.0, 0.5, 8.0), (6.0, 0.0, 0.0), (0.0, 11.0, -128.0)):
        calls: list[tuple[float, ...]] = []
        validate = validate_for(share, weight, repeat)
        without, calls = validate(counts, 0.0, 0.0, None), []
        chosen = choose_prior(counts, similar, without, validate)
        assert chosen.weight == (12.0 if weight == 11.0 else weight)
        if weight:
            assert (shares[chosen.counts.sum()], chosen.repeat) == (share, repeat)
            best = max(chosen.tried, key=lambda one: one["validation"]["ndcg@10"])
            assert (best["prior_weight"], best["prior_repeat"]) == (chosen.weight, chosen.repeat)
            assert best["validation"] == chosen.validation
        else:
            assert chosen.validation is without
        # What is known already is not evaluated again: no prior at all, and no setting twice.
        assert all(weight for _, weight, _ in calls) and len(set(calls)) == len(calls) == len(chosen.tried)

    def of_a_sure_model(made, weight, repeat, level):  # a small prior changes nothing, so neither do its similar items
        value = -abs(weight - 12.0) - abs(shares[made.sum()] - 2.0) * (weight > 3)
        return {"ndcg@10": value, "ndcg@10_seen_removed": value}

    chosen = choose_prior(counts, similar, of_a_sure_model(counts, 0.0, 0.0, None), of_a_sure_model)
    assert (chosen.weight, shares[chosen.counts.sum()]) == (12.0, 2.0)

    def of_two_that_help_together(made, weight, repeat, level):  # counts alone hurt, and so does a small repeat
        value = (0.5 * (shares[made.sum()] == 2.0) - 0.2) * (weight > 0) + 0.1 * (repeat < -8) - 0.01 * (repeat == -2)
        return {"ndcg@10": value, "ndcg@10_seen_removed": value}

    without = {"ndcg@10": 0.0, "ndcg@10_seen_removed": 0.0}
    chosen = choose_prior(counts, similar, without, of_two_that_help_together)
    assert shares[chosen.counts.sum()] == 2.0 and chosen.weight > 0 and chosen.repeat == -32.0, (
        "the smallest of those that help as much"
    )
    calls = []
    chosen = choose_prior(counts, similar, without, validate_for(2.0, 0.5, 2.0), weight=1.7)
    assert chosen.weight == 1.7 and shares[chosen.counts.sum()] == 2.0 and {weight for _, weight, _ in calls} == {1.7}
    chosen = choose_prior(counts, similar, without, validate_for(2.0, 0.5, 2.0), repeat=-3.5)
    assert (chosen.weight, chosen.repeat) == (0.5, -3.5)


@pytest.mark.parametrize("levels", [None, (1.0, 1.5, 2.0, 3.0, 6.0)])
def test_less_of_similar_items_and_more_of_the_prior_are_tried_together(levels):
    """Where a step of either alone is worse."""
    counts = cooccurrence([[0, 1, 2], [2, 3]], 5)
    similar = similar_items(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))
    shares = {add_similar(counts, similar, share).sum(): share for share in (0.0, 2.0, 6.0)}
    values = {(0.0, 1.0): 1, (0.0, 1.5): 2, (0.0, 2.0): 3, (2.0, 3.0): 4, (2.0, 6.0): 5}

    def validate(made, weight, repeat, level):
        value = values.get((shares[made.sum()], level or weight), 0) - abs(repeat) / 1e6
        return {"ndcg@10": value, "ndcg@10_seen_removed": value}

    chosen = choose_prior(counts, similar, {"ndcg@10": 0, "ndcg@10_seen_removed": 0}, validate, levels=levels)
    assert (shares[chosen.counts.sum()], chosen.level or chosen.weight) == (2.0, 6.0)


@pytest.mark.parametrize("best_level", [-3.0, 1.0, 5.0])
def test_the_level_of_a_mixture_is_the_best_in_validation(best_level):
    counts = cooccurrence([[0, 1, 2], [2, 3]], 5)
    similar = similar_items(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))
    levels, calls = [float(level) for level in range(-6, 7)], []

    def validate(made, weight, repeat, level):
        calls.append((made.sum(), weight, repeat, level))
        value = 1 - abs(level - best_level) / 10 - abs(repeat + 8) / 1000 - (weight != MIXTURE_WEIGHT)
        return {"ndcg@10": value, "ndcg@10_seen_removed": value}

    without = {"ndcg@10": 0.0, "ndcg@10_seen_removed": 0.0}
    chosen = choose_prior(counts, similar, without, validate, levels=levels)
    assert (chosen.weight, chosen.repeat, chosen.level) == (MIXTURE_WEIGHT, -8.0, best_level)
    assert len(set(calls)) == len(calls) == len(chosen.tried) < len(levels) + len(REPEATS) + 4
    assert {one["prior_level"] for one in chosen.tried} <= set(levels)
    better = {"ndcg@10": 2.0, "ndcg@10_seen_removed": 2.0}
    none = choose_prior(counts, similar, better, validate, levels=levels)
    assert (none.weight, none.level) == (0.0, None) and none.validation is better
    given = choose_prior(counts, similar, better, validate, 0.0, 0.0, [2.5])
    assert given.level == 2.5 and given.weight == MIXTURE_WEIGHT
