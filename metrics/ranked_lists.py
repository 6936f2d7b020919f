"""What the metrics of this folder share: ranked lists as inputs, the checks of these, and where the hits are."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

PREDICTIONS = """
    predictions: a list of item ids a user, best first, all ids strings or all whole numbers. A list may be shorter
        than k, and empty where nothing was recommended. Padding such as -1 is an item like any other: leave it out.
"""
REFERENCES = """
    references: a list of one or more relevant item ids a user, in the same order of users.
"""


class RankedListsMetric(evaluate.Metric, ABC):
    """A metric of ranked lists, with its `texts` (description, citation, what its inputs are) and the names of its
    `inputs`. `evaluate` takes the first class of a file that is not abstract, so this one is."""

    texts: tuple[str, str, str]
    inputs: tuple[str, ...]

    def _info(self) -> evaluate.MetricInfo:
        description, citation, inputs_description = self.texts
        return evaluate.MetricInfo(
            description=description,
            citation=citation,
            inputs_description=inputs_description,
            features=[  # lists of item ids, strings or whole numbers
                datasets.Features({name: [datasets.Value(kind)] for name in self.inputs})
                for kind in ("string", "int64")
            ],
        )

    @abstractmethod
    def _compute(self, **inputs: Any) -> dict[str, float]: ...

    def add_batch(self, *, predictions: Any = None, **inputs: Any) -> None:
        """As any metric's; `evaluate` itself has no clear words for no user at all."""
        if predictions is not None and len(predictions) == 0:
            raise ValueError("predictions holds no user: give one list of item ids a user.")
        super().add_batch(predictions=predictions, **inputs)


def check_whole_number(name: str, value: Any) -> None:
    """Raises ValueError for anything but a whole number of at least 1."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}: give a whole number of at least 1.")


def check_each_once(name: str, lists: Sequence[Sequence[Any]]) -> None:
    """Raises ValueError naming the user (from 0) and an item that stands twice in that user's list."""
    for user, items in enumerate(lists):
        if len(set(items)) < len(items):
            twice = next(item for item in items if items.count(item) > 1)
            raise ValueError(f"{name}[{user}] holds item {twice!r} twice: give each item once, and no padding.")


def hits_of(
    predictions: Sequence[Sequence[Any]], references: Sequence[Sequence[Any]], k: int | None
) -> list[np.ndarray]:
    """Places (from 0) of the relevant items among the best `k` (None: all) of each user's list.

    Raises:
        ValueError: for `k` below 1, an item that stands twice in a list, and a user without a relevant item.
    """
    if k is not None:
        check_whole_number("k", k)
    check_each_once("predictions", predictions)
    check_each_once("references", references)
    if [] in references:
        raise ValueError(
            f"references[{references.index([])}] is empty: give a relevant item, or leave the user out of both lists."
        )
    wanted = map(set, references)
    return [
        np.flatnonzero([item in relevant for item in ranked[:k]])
        for ranked, relevant in zip(predictions, wanted, strict=True)
    ]
