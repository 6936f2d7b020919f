import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_fair.metrics_fair import evaluate_ranks, metrics_table, rank_targets, ranking_metrics


def ranked_by_sort(scores: torch.Tensor, targets: list[int], seen: list[list[int]]) -> tuple[list, list]:
    """Ranks under both protocols by sorting the catalogue in plain Python."""
    kept, removed = [], []
    for user, target in enumerate(targets):
        order = sorted(range(scores.shape[1]), key=lambda row, user=user: (-scores[user, row].item(), row))
        kept.append(order.index(target))
        unseen = [row for row in order if row not in seen[user]]
        removed.append(unseen.index(target) if target in unseen else scores.shape[1])
    return kept, removed


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), catalogue=st.integers(2, 30), chunk=st.integers(1, 40), values=st.integers(1, 5))
def test_ranks_equal_those_of_a_sort(seed, catalogue, chunk, values):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, values, (4, catalogue), generator=generator).float()
    targets = torch.randint(0, catalogue, (4,), generator=generator)
    seen = torch.randint(-1, catalogue, (4, 3), generator=generator)
    chunks = ((start, scores[:, start : start + chunk]) for start in range(0, catalogue, chunk))
    ranked = rank_targets(chunks, scores[torch.arange(4), targets], targets, seen)
    kept, removed = ranked_by_sort(scores, targets.tolist(), seen.tolist())
    assert ranked["ranks"].tolist() == kept
    assert ranked["ranks_seen_removed"].tolist() == removed
    for user in range(4):
        order = sorted(range(catalogue), key=lambda row, user=user: (-scores[user, row].item(), row))
        listed = ranked["top"][user][ranked["top"][user] >= 0].tolist()
        assert listed == order[:20]


def test_a_broken_model_ranks_last():
    scores = torch.full((1, 9), float("nan"))
    ranked = rank_targets([(0, scores)], scores[:, 3], torch.tensor([3]), torch.tensor([[-1]]))
    assert ranked["ranks"].item() == 8


def test_metrics_by_hand():
    ranks = np.array([0, 4, 9, 30, 100])
    top = np.arange(100).reshape(5, 20)
    metrics = ranking_metrics(ranks, top, catalogue=100)
    assert metrics["recall@5"] == pytest.approx(2 / 5)
    assert metrics["recall@10"] == pytest.approx(3 / 5)
    assert metrics["ndcg@5"] == pytest.approx((1 + 1 / np.log2(6)) / 5)
    assert metrics["ndcg@10"] == pytest.approx((1 + 1 / np.log2(6) + 1 / np.log2(11)) / 5)
    assert metrics["mrr"] == pytest.approx((1 + 1 / 5 + 1 / 10 + 1 / 31 + 0) / 5)
    assert metrics["coverage@10"] == pytest.approx(0.5)


def test_metrics_against_scikit_learn():
    from sklearn.metrics import ndcg_score, top_k_accuracy_score

    generator = np.random.default_rng(0)
    scores = generator.normal(size=(50, 30))
    targets = generator.integers(0, 30, 50)
    chunks = [(0, torch.from_numpy(scores))]
    of_targets = torch.from_numpy(scores[np.arange(50), targets])
    ranked = rank_targets(chunks, of_targets, torch.from_numpy(targets), torch.full((50, 1), -1))
    metrics = evaluate_ranks({name: value.numpy() for name, value in ranked.items()}, 30)
    for k in (5, 10, 20):
        assert metrics[f"ndcg@{k}"] == pytest.approx(ndcg_score(np.eye(30)[targets], scores, k=k))
        assert metrics[f"recall@{k}"] == pytest.approx(
            top_k_accuracy_score(targets, scores, k=k, labels=np.arange(30))
        )


def test_cutoffs_beyond_the_catalogue_do_not_count_a_missing_target():
    metrics = ranking_metrics(np.array([3, 2]), np.array([[0, 1, 2] + [-1] * 17] * 2), catalogue=3)
    assert metrics["recall@20"] == 0.5


def test_table_shows_both_protocols():
    table = metrics_table({"model": {"recall@10": 0.5, "recall@10_seen_removed": 0.75}})
    kept, removed = table.split("\n\n")
    assert "seen kept" in kept and "0.5000" in kept and "0.7500" in removed
