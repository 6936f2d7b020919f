"""What the scores of some items gain for a user, such as by the prior."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class RowTerms:
    """Scores s of some of each user's items become

        weight log( exp(s / weight) + exp(rival / weight) ) + added

    a sum of two probabilities (a mixture) where a rival is given, and s + added, a product, where none is. All scores
    of a user's items are first divided by `weight`, so that those of items without a rival stay as they are.

    Args:
        rows: catalogue rows, each once a user, -1 for none, (batch, n).
        added: what is added in the end, (batch, n).
        rivals: what the items are worth by the prior alone, -inf for nothing, (batch, n); `None` for nothing at all.
        weight: how far two scores have to be apart for the lower one to count for little.
    """

    rows: torch.Tensor
    added: torch.Tensor
    rivals: torch.Tensor | None = None
    weight: float = 1.0

    def final(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores of the rows, (batch, n) -> what they become."""
        if self.rivals is not None:
            scores = scores + self.weight * nn.functional.softplus((self.rivals - scores) / self.weight)
        return scores + self.added

    def into(self, scores: torch.Tensor, start: int = 0) -> torch.Tensor:
        """Scores of consecutive catalogue rows from `start` on, (batch, items) -> what they become, a tensor of its
        own."""
        local, items = self.rows - start, scores.shape[1]
        inside = (local >= 0) & (local < items) & (self.rows >= 0)
        places = torch.where(inside, local, items)  # the last column is that of all other rows
        padded = nn.functional.pad(scores, (0, 1))
        return padded.scatter_(1, places, self.final(padded.gather(1, places)))[:, :-1]

    def by_cell(self, cells: torch.Tensor) -> "RowTerms":
        """All users' terms in one row, by a number of each, (batch, n), and in the order of these; those of numbers
        below 0 are left out."""
        there = (cells.flatten() >= 0).nonzero()[:, 0]
        in_order, order = cells.flatten()[there].sort()
        rivals = None if self.rivals is None else self.rivals.flatten()[there[order]]
        return RowTerms(in_order, self.added.flatten()[there[order]], rivals, self.weight)

    def look_up(self, cells: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Of terms that `by_cell` gave: scores of any cells -> what they become."""
        if not len(self.rows):
            return scores
        at = torch.searchsorted(self.rows, cells.contiguous()).clamp(max=len(self.rows) - 1)
        return torch.where(self.rows[at] == cells, self.of_users(at).final(scores), scores)

    def scaled(self, factor: float) -> "RowTerms":
        """The same for scores that are `factor` times as large."""
        rivals = None if self.rivals is None else self.rivals * factor
        return RowTerms(self.rows, self.added * factor, rivals, self.weight * factor)

    def of_users(self, users: slice | torch.Tensor) -> "RowTerms":
        """The terms of some users."""
        rivals = None if self.rivals is None else self.rivals[users]
        return RowTerms(self.rows[users], self.added[users], rivals, self.weight)

    def to(self, device: torch.device) -> "RowTerms":
        """The terms on a device."""
        rivals = None if self.rivals is None else self.rivals.to(device)
        return RowTerms(self.rows.to(device), self.added.to(device), rivals, self.weight)

    def plus(self, rows: torch.Tensor, added: torch.Tensor) -> "RowTerms":
        """With what is added to other rows, or to the same ones too, (batch, m) each."""
        every, order = torch.cat([self.rows, rows], dim=1).sort(dim=1)
        added = torch.cat([self.added, added], dim=1).gather(1, order)
        same = (every[:, 1:] == every[:, :-1]) & (every[:, 1:] >= 0)  # a row stands twice at the most
        added[:, 1:] += added[:, :-1].masked_fill(~same, 0)
        rivals = self.rivals
        if rivals is not None:
            nothing = torch.full_like(rows, -torch.inf, dtype=rivals.dtype)
            rivals = torch.cat([rivals, nothing], dim=1).gather(1, order)
            rivals[:, 1:] = torch.where(same, torch.maximum(rivals[:, 1:], rivals[:, :-1]), rivals[:, 1:])
        every[:, :-1].masked_fill_(same, -1)
        return RowTerms(every, added, rivals, self.weight)
