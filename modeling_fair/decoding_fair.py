"""Code logits -> item scores -> ranked items, exact over the whole catalogue.

An item's score is the mean over codebooks of the log-probability of its code. Higher scores come first and equal
scores in catalogue order: one rule, which knows nothing of targets, for serving and for evaluation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import nn
from transformers.utils import ModelOutput

CHUNK_ITEMS = 65_536
Rows = Sequence[int] | Sequence[Sequence[int]] | torch.Tensor


@dataclass
class RecommendOutput(ModelOutput):
    """Args:
    item_ids: catalogue rows, best first, (batch, top_k); -1 where fewer items were left.
    scores: their mean code log-probabilities, (batch, top_k); -inf where `item_ids` is -1.
    """

    item_ids: torch.Tensor | None = None
    scores: torch.Tensor | None = None


def last_item_states(states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """States (batch, items, hidden_size) -> that of the last item of each history, (batch, hidden_size). Padding may
    stand on either side; of an empty history it is the first position's."""
    if attention_mask is None:
        return states[:, -1]
    positions = torch.arange(states.shape[1], device=states.device)
    last = (attention_mask * (positions + 1)).argmax(dim=1)
    return states[torch.arange(len(states), device=states.device), last]


def score_items(
    code_logits: torch.Tensor, item_codes: torch.Tensor, chunk_items: int = CHUNK_ITEMS
) -> Iterator[tuple[int, torch.Tensor]]:
    """Score the catalogue chunk by chunk.

    Args:
        code_logits: (batch, num_codebooks, codebook_size).
        item_codes: (catalogue, num_codebooks).
        chunk_items: items scored at once; memory is batch x chunk_items floats.

    Yields:
        (row of the chunk's first item, scores (batch, items of the chunk)), float32.

    Raises:
        ValueError: if the catalogue has another number of codebooks than the logits.
    """
    batch, num_codebooks, codebook_size = code_logits.shape
    if item_codes.shape[1] != num_codebooks:
        raise ValueError(
            f"item_codes has {item_codes.shape[1]} codes an item but the model predicts {num_codebooks}: "
            "use the tokenizer that the checkpoint was trained with."
        )
    # A score is a sum of table look-ups: the table has one row a (codebook, code) and one column a user.
    log_probabilities = torch.log_softmax(code_logits.float(), dim=-1) / num_codebooks
    table = log_probabilities.reshape(batch, -1).T.contiguous()
    first = torch.arange(num_codebooks, device=table.device) * codebook_size
    for start in range(0, len(item_codes), chunk_items):
        rows = item_codes[start : start + chunk_items].to(table.device).long() + first
        yield start, nn.functional.embedding_bag(rows, table, mode="sum").T


def best_of(scores: torch.Tensor, rows: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `top_k` best columns of `scores` (batch, n), equal scores in order of `rows` (batch, n).

    Returns:
        (scores, rows), (batch, min(top_k, n)) each, best first.
    """
    top_k = min(top_k, scores.shape[1])
    best, columns = scores.topk(top_k, dim=1)
    # topk keeps any of the items that tie for the last place; where there is such a tie, sort the whole row.
    tied = ((scores >= best[:, -1:]).sum(dim=1) > top_k).nonzero()[:, 0]
    best_rows = rows.gather(1, columns)
    by_row = best_rows.argsort(dim=1)
    best, best_rows = best.gather(1, by_row), best_rows.gather(1, by_row)
    by_score = best.argsort(dim=1, descending=True, stable=True)
    best, best_rows = best.gather(1, by_score), best_rows.gather(1, by_score)
    for user in tied.tolist():
        order = rows[user].argsort()
        order = order[scores[user, order].argsort(descending=True, stable=True)][:top_k]
        best[user], best_rows[user] = scores[user, order], rows[user, order]
    return best, best_rows


def as_rows(rows: Rows, batch: int, device: torch.device, name: str, catalogue: int) -> torch.Tensor:
    """Catalogue rows for every user or a list a user -> (batch, n), padded with -1.

    Raises:
        ValueError: naming the argument, for rows outside the catalogue or another number of lists than users.
    """
    if isinstance(rows, torch.Tensor):
        table = rows.to(device).long()
        table = table.expand(batch, -1) if table.dim() == 1 else table
    elif len(rows) and not isinstance(rows[0], Integral):
        of_users = [torch.as_tensor(list(of_user), dtype=torch.long) for of_user in rows]  # type: ignore[arg-type]
        table = nn.utils.rnn.pad_sequence(of_users, batch_first=True, padding_value=-1).to(device)
    else:
        table = torch.as_tensor(list(rows), dtype=torch.long, device=device).expand(batch, -1)
    if len(table) != batch:
        raise ValueError(f"{name} holds lists for {len(table)} users but there are {batch} histories.")
    if table.numel() and (table.max() >= catalogue or table.min() < -1):
        raise ValueError(f"{name} holds a catalogue row outside 0 to {catalogue - 1}: take rows from the tokenizer.")
    return table


def in_chunk(rows: torch.Tensor, start: int, length: int) -> torch.Tensor:
    """Which items of the chunk [start, start + length) are among each user's rows (batch, n): (batch, length)."""
    local = rows - start
    local = torch.where((local >= 0) & (local < length), local, length)
    member = torch.zeros(len(rows), length + 1, dtype=torch.bool, device=rows.device)
    return member.scatter_(1, local, True)[:, :length]


def recommend_items(
    code_logits: torch.Tensor,
    item_codes: torch.Tensor,
    *,
    seen: torch.Tensor | None = None,
    empty_history: torch.Tensor | None = None,
    top_k: int = 10,
    remove_seen: bool = True,
    exclude: Rows | None = None,
    allow: Rows | Sequence[Sequence[int] | None] | None = None,
    empty_history_scores: torch.Tensor | None = None,
    chunk_items: int = CHUNK_ITEMS,
) -> RecommendOutput:
    """Rank a catalogue for each user, exactly, chunk by chunk.

    Args:
        code_logits: (batch, num_codebooks, codebook_size).
        item_codes: (catalogue, num_codebooks).
        seen: catalogue rows of each history, (batch, n), -1 for none.
        empty_history: which users have no history, (batch,).
        top_k: how many items to return.
        remove_seen: whether items of `seen` are left out (default) or may be recommended again.
        exclude, allow: catalogue rows never to return, or the only ones to: one list for all users or one a user,
            `None` among which allows that user everything.
        empty_history_scores: (catalogue,) scores for users without history, such as popularity; by default all 0, so
            that they get the first items of the catalogue that the filters leave.
        chunk_items: items scored at once; it bounds memory.

    Raises:
        ValueError: for `top_k` or `chunk_items` below 1, rows outside the catalogue, or codes that the model lacks.
    """
    if top_k < 1 or chunk_items < 1:
        raise ValueError(f"top_k is {top_k} and chunk_items {chunk_items}: give both at least 1.")
    batch, device, catalogue = len(code_logits), code_logits.device, len(item_codes)
    if catalogue and int(item_codes.max()) >= code_logits.shape[2]:
        raise ValueError(
            f"item_codes holds code {int(item_codes.max())} but the model has codes 0 to {code_logits.shape[2] - 1}: "
            "use the tokenizer that the checkpoint was trained with."
        )
    blocked = [] if seen is None or not remove_seen else [as_rows(seen, batch, device, "item_ids", catalogue)]
    if exclude is not None:
        blocked.append(as_rows(exclude, batch, device, "exclude", catalogue))
    allowed = unlimited = None
    if isinstance(allow, (list, tuple)) and any(rows is None for rows in allow):
        unlimited = torch.tensor([rows is None for rows in allow], device=device)[:, None]
        allow = None if unlimited.all() else [rows or [] for rows in allow]  # type: ignore[misc]
    if allow is not None:
        allowed = as_rows(allow, batch, device, "allow", catalogue)  # type: ignore[arg-type]
    best_scores = torch.empty(batch, 0, device=device)
    best_rows = torch.empty(batch, 0, dtype=torch.long, device=device)
    for start, scores in score_items(code_logits, item_codes, chunk_items):
        length = scores.shape[1]
        if empty_history is not None and empty_history.any():
            other = torch.zeros(catalogue) if empty_history_scores is None else empty_history_scores
            scores = torch.where(empty_history[:, None], other[start : start + length].to(scores), scores)
        for rows in blocked:
            scores = scores.masked_fill(in_chunk(rows, start, length), float("-inf"))
        if allowed is not None:
            allowed_here = in_chunk(allowed, start, length)
            allowed_here = allowed_here if unlimited is None else allowed_here | unlimited
            scores = scores.masked_fill(~allowed_here, float("-inf"))
        rows = torch.arange(start, start + length, device=device).expand(batch, -1)
        of_chunk = best_of(scores, rows, top_k)
        best_scores, best_rows = best_of(
            torch.cat([best_scores, of_chunk[0]], dim=1), torch.cat([best_rows, of_chunk[1]], dim=1), top_k
        )
    if best_scores.shape[1] < top_k:
        missing = top_k - best_scores.shape[1]
        best_scores = nn.functional.pad(best_scores, (0, missing), value=float("-inf"))
        best_rows = nn.functional.pad(best_rows, (0, missing), value=-1)
    best_rows = best_rows.masked_fill(best_scores == float("-inf"), -1)
    return RecommendOutput(item_ids=best_rows, scores=best_scores)
