"""Rank the catalogue with any model of catalogue rows, by the metrics that FAIR is evaluated with."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from datasets import Dataset

from modeling_fair.metrics_fair import evaluate_ranks, rank_targets

Scores = Callable[[Sequence[Sequence[int]]], np.ndarray]


def evaluate(scores: Scores, examples: Dataset, num_items: int, batch_size: int = 512) -> dict[str, float]:
    """Full ranking of all items for every user.

    Args:
        scores: histories of catalogue rows, oldest first -> (users, num_items), larger is better.
        examples: a prepared split with `target_id` and `seen_ids`.
        num_items: size of the catalogue.
        batch_size: users scored at once.

    Returns:
        The metrics of `evaluate_ranks`, seen items kept and removed.
    """
    ranked: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(examples), batch_size):
        batch = examples[start : start + batch_size]
        of_items = torch.from_numpy(scores(batch["seen_ids"]))
        targets = torch.tensor(batch["target_id"])
        seen = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(rows) for rows in batch["seen_ids"]], batch_first=True, padding_value=-1
        )
        of_targets = of_items.gather(1, targets[:, None])[:, 0]
        for name, values in rank_targets([(0, of_items)], of_targets, targets, seen).items():
            ranked.setdefault(name, []).append(values.numpy())
    return evaluate_ranks({name: np.concatenate(values) for name, values in ranked.items()}, num_items)
