"""Catalogue rows that a search is told of: those seen, excluded and allowed, and those with a term of their own."""

from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import nn

Rows = Sequence[int] | Sequence[Sequence[int] | None] | torch.Tensor


def as_rows(rows: Any, batch: int, device: torch.device, name: str, catalogue: int) -> torch.Tensor:
    """One list of catalogue rows for all users -> (n,); a list a user (None: none) -> (batch, n), padded with -1.

    Raises:
        ValueError: naming the argument, for what are no row numbers, rows outside the catalogue, or another number of
            lists than users.
    """
    if isinstance(rows, (torch.Tensor, np.ndarray)):
        table = _row_numbers(rows, name)
    else:
        rows = list(rows)
        if rows and not isinstance(rows[0], Integral):
            of_users = [
                _row_numbers(of_user if isinstance(of_user, (torch.Tensor, np.ndarray)) else list(of_user or []), name)
                for of_user in rows
            ]
            table = nn.utils.rnn.pad_sequence([of_user.flatten() for of_user in of_users], True, -1)
        else:
            table = _row_numbers(rows, name)
    table = table.to(device)
    if table.dim() == 2 and len(table) != batch:
        raise ValueError(f"{name} holds lists for {len(table)} users but there are {batch} histories.")
    if table.numel() and (table.max() >= catalogue or table.min() < -1):
        raise ValueError(f"{name} holds a catalogue row outside 0 to {catalogue - 1}: take rows from the tokenizer.")
    return table


def _row_numbers(rows: Any, name: str) -> torch.Tensor:
    """Whole numbers as int64. A mask or scores given by mistake would be read as rows 0 and 1."""
    numbers = torch.as_tensor(rows)
    if numbers.numel() and (numbers.is_floating_point() or numbers.dtype == torch.bool):
        raise ValueError(f"{name} holds {numbers.dtype}, no row numbers: of a mask give mask.nonzero()[0].")
    return numbers.long()


def groups(
    allow: Any, empty: torch.Tensor, device: torch.device, catalogue: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Users who can be served together, all with or all without history (`empty`, (batch,)), and the rows allowed to
    them, sorted, or None for all rows."""
    free = torch.full((len(empty),), allow is None)
    together = None
    if allow is not None:
        if isinstance(allow, (list, tuple)) and any(of_user is None for of_user in allow):
            free = torch.tensor([of_user is None for of_user in allow])
            allow = [[] if of_user is None else of_user for of_user in allow]
        rows = as_rows(allow, len(empty), device, "allow", catalogue)
        if rows.dim() == 1:
            together, free = rows[rows >= 0].unique(), torch.ones_like(empty)
    for of_kind in (free & ~empty, free & empty):
        if of_kind.any():
            yield of_kind.nonzero()[:, 0], together
    for user in (~free).nonzero()[:, 0].tolist():
        yield torch.tensor([user]), rows[user][rows[user] >= 0].unique()


def extra_of(
    rows: torch.Tensor | None, scores: torch.Tensor | None, batch: int, device: torch.device, catalogue: int
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Check `extra_rows` and `extra_scores`."""
    if rows is None and scores is None:
        return None
    rows, scores = (x if x is None else torch.as_tensor(x) for x in (rows, scores))
    if rows is None or scores is None or rows.shape != scores.shape or rows.dim() != 2:
        raise ValueError("extra_rows and extra_scores go together, (batch, n) each.")
    rows = as_rows(rows, batch, device, "extra_rows", catalogue)
    in_order = rows.sort(dim=1).values
    if ((in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] >= 0)).any():
        raise ValueError("extra_rows holds a row twice for one user: give it once, with the sum of its extra_scores.")
    return rows, scores.to(device, torch.float32)


def contains(rows: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Which of each user's `wanted` (users, n) are among their `rows` (users, m): (users, n)."""
    if not rows.shape[1]:
        return torch.zeros_like(wanted, dtype=torch.bool)
    in_order = rows.sort(dim=1).values
    at = torch.searchsorted(in_order, wanted.contiguous()).clamp(max=rows.shape[1] - 1)
    return in_order.gather(1, at) == wanted


def position_in(allowed: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
    """Rows -> their places among the sorted `allowed` ones, far below 0 where they are not (or are -1)."""
    nowhere = -(2**31)
    if allowed is None:
        return rows.masked_fill(rows < 0, nowhere)
    if not len(allowed):
        return torch.full_like(rows, nowhere)
    at = torch.searchsorted(allowed, rows.contiguous()).clamp(max=len(allowed) - 1)
    return at.masked_fill(allowed[at] != rows, nowhere)
