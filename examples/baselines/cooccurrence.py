"""Count which items are bought near each other: a simple baseline that is hard to beat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import sparse

from modeling_fair.cooccurrence_fair import cooccurrence


class CoOccurrence:
    """Score items by how often they stood near the user's recent items in the training sequences.

    The model is the matrix M of `modeling_fair.cooccurrence_fair`, which explains the first four parameters. A user's
    scores are the sum over the last `history` items of `decay ** age` times the item's row of M; the newest item has
    age 0.

    Args:
        window: Largest distance in positions at which a pair counts. Defaults to 8.
        backward: Weight of the reverse pair (later -> earlier). Defaults to 0.5.
        row_power: How much frequent history items are held back, 0 (not) to 1. Defaults to 0.3.
        column_power: How much frequent recommendations are held back, 0 (not) to 1. Defaults to 0.2.
        history: Number of newest history items used. Defaults to 20.
        decay: Weight of an item relative to the next newer one. Defaults to 0.7.
    """

    def __init__(
        self,
        window: int = 8,
        backward: float = 0.5,
        row_power: float = 0.3,
        column_power: float = 0.2,
        history: int = 20,
        decay: float = 0.7,
    ) -> None:
        self.window = window
        self.backward = backward
        self.row_power = row_power
        self.column_power = column_power
        self.history = history
        self.decay = decay

    def fit(self, train_sequences: Iterable[Sequence[int]], num_items: int) -> CoOccurrence:
        """Count pairs and normalise them.

        Args:
            train_sequences: One sequence of catalogue rows (0 .. num_items - 1) a user, oldest first.
            num_items: Size of the catalogue.

        Returns:
            This model, fitted.

        Raises:
            ValueError: If a row lies outside the catalogue.
        """
        sequences = [np.asarray(sequence, np.int64) for sequence in train_sequences]
        rows = np.concatenate([np.zeros(0, np.int64), *sequences])
        if rows.size and (rows.min() < 0 or rows.max() >= num_items):
            raise ValueError(f"train_sequences hold item rows {rows.min()}..{rows.max()}, not 0..{num_items - 1}.")
        self.matrix = cooccurrence(
            sequences,
            num_items,
            window=self.window,
            backward=self.backward,
            row_power=self.row_power,
            column_power=self.column_power,
        )
        return self

    def scores(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """Score all items for each history; call it on batches of users, since the result is dense.

        Args:
            histories: Catalogue rows per user, oldest first; an empty history scores zero everywhere.

        Returns:
            float32 array of shape (users, num_items), larger is better. Seen items are scored like all others.
        """
        recent = [np.asarray(h[-self.history :], np.int64) for h in histories]
        lengths = np.array([len(h) for h in recent], np.int64)
        users = np.repeat(np.arange(len(recent)), lengths)
        rows = np.concatenate([np.zeros(0, np.int64), *recent])
        weights = np.concatenate([np.zeros(0), *(self.decay ** np.arange(n - 1, -1, -1) for n in lengths)])
        shape = (len(recent), self.matrix.shape[0])
        weighted = sparse.coo_array((weights, (users, rows)), shape=shape).tocsr()
        return (weighted @ self.matrix).toarray().astype(np.float32)
