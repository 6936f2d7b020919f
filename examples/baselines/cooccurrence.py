"""Count which items are bought near each other: a simple baseline that is hard to beat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import sparse


class CoOccurrence:
    """Score items by how often they stood near the user's recent items in the training sequences.

    With `C[a, b]` the sum of 1 / distance over all pairs of an earlier item a and a later item b at most `window`
    positions apart, plus `backward` times the same for the reverse pair, and `D_row`, `D_col` the row and column sums
    of C, the model is `M = D_row^-row_power C D_col^-column_power`. A user's scores are the sum over the last
    `history` items of `decay ** age` times the item's row of M; the newest item has age 0.

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
        sequences = [np.asarray(s, np.int64) for s in train_sequences]
        rows = np.concatenate([np.zeros(0, np.int64), *sequences])
        if rows.size and (rows.min() < 0 or rows.max() >= num_items):
            raise ValueError(f"train_sequences hold item rows {rows.min()}..{rows.max()}, not 0..{num_items - 1}.")
        users = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences])
        forward = sparse.csr_array((num_items, num_items))
        for distance in range(1, self.window + 1):
            same_user = users[:-distance] == users[distance:]
            earlier, later = rows[:-distance][same_user], rows[distance:][same_user]
            weights = np.full(len(earlier), 1 / distance)
            forward = forward + sparse.coo_array((weights, (earlier, later)), shape=forward.shape).tocsr()
        counts = forward + self.backward * forward.T
        row_scale = _inverse_power(counts.sum(axis=1), self.row_power)
        column_scale = _inverse_power(counts.sum(axis=0), self.column_power)
        self.matrix = (sparse.diags_array(row_scale) @ counts @ sparse.diags_array(column_scale)).tocsr()
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


def _inverse_power(sums: np.ndarray, power: float) -> np.ndarray:
    """Return sums ** -power, and 0 where the sum is 0 (an item without a pair)."""
    return np.where(sums > 0, np.maximum(sums, 1e-12) ** -power, 0.0)
