"""Full-ranking evaluation by item: ranks of targets, and the field's metrics of those ranks.

Every item of the catalogue is a candidate. Each metric comes twice: with the items of the user's history kept among
the candidates (the papers' protocol) and with them removed (suffix `_seen_removed`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from .decoding_fair import best_of, in_chunk
from .markdown_fair import markdown_table

CUTOFFS = (5, 10, 20)
SEEN_REMOVED = "_seen_removed"


def scores_at(chunks: Iterable[tuple[int, torch.Tensor]], targets: torch.Tensor) -> torch.Tensor:
    """The scores of targets (catalogue rows, (batch,)) among those of all items, as `score_items` yields them."""
    scores = torch.full(targets.shape, float("nan"), device=targets.device)
    for start, of_chunk in chunks:
        here = (targets >= start) & (targets < start + of_chunk.shape[1])
        scores = torch.where(here, of_chunk.gather(1, torch.where(here, targets - start, 0)[:, None])[:, 0], scores)
    return scores


def rank_targets(
    chunks: Iterable[tuple[int, torch.Tensor]],
    target_scores: torch.Tensor,
    targets: torch.Tensor,
    seen: torch.Tensor,
    top_k: int = max(CUTOFFS),
) -> dict[str, torch.Tensor]:
    """Ranks of targets among all items, chunk by chunk. Higher scores come first and equal scores in catalogue order;
    a score that is not a number counts as better than the target's, so that a broken model ranks last.

    Args:
        chunks: (row of the first item, scores (batch, items of the chunk)), as `score_items` yields them.
        target_scores: the scores of the targets among them, (batch,).
        targets: catalogue rows, (batch,).
        seen: catalogue rows of each history, (batch, n), padded with -1.
        top_k: length of the lists that coverage is counted on.

    Returns:
        `ranks` and `ranks_seen_removed` (batch,), 0 for the best; a target that the user has seen has, with seen items
        removed, the rank of an item behind the whole catalogue. `top` and `top_seen_removed` (batch, top_k): the best
        rows, -1 where there are fewer.
    """
    output: dict[str, torch.Tensor] = {}
    batch, device = len(targets), targets.device
    best: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    ranks = {name: torch.zeros(batch, dtype=torch.long, device=device) for name in ("", SEEN_REMOVED)}
    catalogue = 0
    for start, all_scores in chunks:
        length = all_scores.shape[1]
        catalogue = start + length
        rows = torch.arange(start, catalogue, device=device).expand(batch, -1)
        all_scores = all_scores.contiguous()  # as `score_items` yields them, items side by side take twice as long
        removed = in_chunk(seen, start, length)
        before = (all_scores == target_scores[:, None]) & (rows < targets[:, None])
        ahead = (~(all_scores <= target_scores[:, None]) | before) & (rows != targets[:, None])
        for name in ("", SEEN_REMOVED):
            scores = all_scores.masked_fill(removed, float("-inf")) if name else all_scores
            ranks[name] += (ahead & ~removed if name else ahead).sum(dim=1, dtype=torch.int32)
            of_chunk = best_of(scores, rows, top_k)
            if name in best:
                both_scores, both_rows = (torch.cat(pair, dim=1) for pair in zip(best[name], of_chunk, strict=True))
                of_chunk = best_of(both_scores, both_rows, top_k)
            best[name] = of_chunk
    ranks[SEEN_REMOVED].masked_fill_((seen == targets[:, None]).any(dim=1), catalogue)
    for name in ("", SEEN_REMOVED):
        scores, rows = best[name]
        rows = rows.masked_fill(scores == float("-inf"), -1)
        output[f"ranks{name}"] = ranks[name]
        output[f"top{name}"] = torch.nn.functional.pad(rows, (0, top_k - rows.shape[1]), value=-1)
    return output


def ranking_metrics(
    ranks: np.ndarray, top: np.ndarray, catalogue: int, cutoffs: Sequence[int] = CUTOFFS
) -> dict[str, float]:
    """Metrics of one target a user.

    Args:
        ranks: 0 for the best, (users,); a rank of `catalogue` means not found.
        top: the best rows of each user, (users, at least the largest cutoff), -1 for none.
        catalogue: number of items.
        cutoffs: the K of Recall@K and NDCG@K.

    Returns:
        `recall@K` (share of users whose target is among the best K), `ndcg@K` (1 / log2(rank + 2) of those, mean over
        all users), `mrr` (mean of 1 / (rank + 1)), and `coverage@K` (share of the catalogue that is among the best K
        of some user).
    """
    found = ranks < catalogue
    metrics = {}
    for k in cutoffs:
        hit = ranks < min(k, catalogue)
        metrics[f"recall@{k}"] = float(hit.mean())
        metrics[f"ndcg@{k}"] = float(np.where(hit, 1 / np.log2(ranks + 2), 0.0).mean())
    metrics["mrr"] = float(np.where(found, 1 / (ranks + 1), 0.0).mean())
    for k in cutoffs:
        shown = np.unique(top[:, :k])
        metrics[f"coverage@{k}"] = float((shown >= 0).sum() / catalogue)
    return metrics


def evaluate_ranks(ranked: dict[str, Any], catalogue: int) -> dict[str, float]:
    """Both protocols' metrics of what `rank_targets` returned, collected over all users as arrays."""
    metrics = {}
    for name in ("", SEEN_REMOVED):
        of_protocol = ranking_metrics(ranked[f"ranks{name}"], ranked[f"top{name}"], catalogue)
        metrics.update({f"{key}{name}": value for key, value in of_protocol.items()})
    return metrics


def metric_names() -> list[str]:
    """Names of what `evaluate_ranks` gives."""
    nothing = {f"ranks{name}": np.zeros(1, np.int64) for name in ("", SEEN_REMOVED)}
    nothing |= {f"top{name}": np.zeros((1, max(CUTOFFS)), np.int64) for name in ("", SEEN_REMOVED)}
    return list(evaluate_ranks(nothing, 1))


def metrics_table(results: dict[str, dict[str, float]]) -> str:
    """A Markdown table of models (rows) by Recall and NDCG under both protocols.

    Args:
        results: model name -> metrics with plain names, such as `recall@10` and `recall@10_seen_removed`.
    """
    columns = [f"{metric}@{k}" for k in CUTOFFS for metric in ("recall", "ndcg")] + ["mrr", "coverage@10"]
    tables = []
    for name, title in (("", "seen kept"), (SEEN_REMOVED, "seen removed")):
        rows = [
            [model, *(f"{metrics[column + name]:.4f}" if column + name in metrics else "" for column in columns)]
            for model, metrics in results.items()
        ]
        tables.append(markdown_table([title, *columns], rows))
    return "\n\n".join(tables)
