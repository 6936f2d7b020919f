"""Rank items by how often they were bought: the least that a recommender must beat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


class Popularity:
    """Score every item by its number of interactions in the training sequences, the same for every user."""

    def fit(self, train_sequences: Iterable[Sequence[int]], num_items: int) -> Popularity:
        """Count the items.

        Args:
            train_sequences: One sequence of catalogue rows (0 .. num_items - 1) a user.
            num_items: Size of the catalogue.

        Returns:
            This model, fitted.

        Raises:
            ValueError: If a row lies outside the catalogue.
        """
        rows = np.concatenate([np.zeros(0, np.int64), *(np.asarray(s, np.int64) for s in train_sequences)])
        if rows.size and (rows.min() < 0 or rows.max() >= num_items):
            raise ValueError(f"train_sequences hold item rows {rows.min()}..{rows.max()}, not 0..{num_items - 1}.")
        self.counts = np.bincount(rows, minlength=num_items).astype(np.float32)
        return self

    def scores(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """Return the counts once a history, float32 of shape (users, num_items); histories are not looked at."""
        return np.tile(self.counts, (len(histories), 1))
