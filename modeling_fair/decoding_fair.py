"""Code logits -> item scores -> the best items: the parts that the item index and evaluation share.

An item's score is the mean over codebooks of the log-probability of its code, plus what a model knows of the item
beside its codes ([`ItemTerms`]); a model that predicts items makes this their cosine with the state. Higher scores
come first and equal scores in catalogue order: one rule, which knows nothing of targets, for serving and evaluation.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import nn
from transformers.utils import ModelOutput, is_torchdynamo_exporting

from .row_terms_fair import RowTerms

CHUNK_ITEMS = 8_192  # buffers of 1 MB at 32 users; from 2 MB on, fresh pages were seen to double the time
USERS = 32  # a table of more users leaves a core's cache: 64 users were seen to take 9 times as long as 32


@dataclass
class RecommendOutput(ModelOutput):
    """Args:
    item_ids: catalogue rows, best first, (batch, top_k); -1 where fewer items were left.
    scores: their mean code log-probabilities, (batch, top_k); -inf where `item_ids` is -1.
    """

    item_ids: torch.Tensor | None = None
    scores: torch.Tensor | None = None


@dataclass
class ItemTerms:
    """What scores of items are made of beside their codes.

    Args:
        lengths: of the items' vectors, (catalogue,). With them an item's score is not the mean of its codes'
            log-probabilities but the sum of its codes' logits and its own product, divided by its length: a cosine.
        known_ids: number of each item of the catalogue among those a model knows, -1 for others, (catalogue,).
        queries, vectors: the sum of a known item gains the product of the user's query, (batch, width), with the
            item's vector, (known + 1, width), whose last row is 0 and stands for all items that are not known.
        prior: what the scores of some items gain in the end.
    """

    lengths: torch.Tensor | None = None
    known_ids: torch.Tensor | None = None
    queries: torch.Tensor | None = None
    vectors: torch.Tensor | None = None
    prior: RowTerms | None = None

    def to(self, device: torch.device) -> "ItemTerms":
        """The terms on a device."""
        parts = (getattr(self, spec.name) for spec in fields(self))
        return ItemTerms(*(None if part is None else part.to(device) for part in parts))

    def of_users(self, users: slice | torch.Tensor) -> "ItemTerms":
        """The terms of some users."""
        queries = None if self.queries is None else self.queries[users]
        prior = None if self.prior is None else self.prior.of_users(users)
        return replace(self, queries=queries, prior=prior)

    def of_chunk(self, sums: torch.Tensor, items: torch.Tensor | slice) -> torch.Tensor:
        """Sums of codes (items, users) -> scores (items, users), of catalogue rows that all users share."""
        if self.queries is not None:
            sums = sums + self._vectors_of(items) @ self.queries.T
        return sums if self.lengths is None else sums / self.lengths[items][:, None]

    def of_rows(self, sums: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The same of each user's own rows: (users, n) -> (users, n)."""
        if self.queries is not None:
            sums = sums + (self._vectors_of(rows) @ self.queries[:, :, None])[..., 0]
        return sums if self.lengths is None else sums / self.lengths[rows]

    def _vectors_of(self, rows: torch.Tensor | slice) -> torch.Tensor:
        assert self.vectors is not None and self.known_ids is not None
        known = self.known_ids[rows]
        return nn.functional.embedding(torch.where(known < 0, len(self.vectors) - 1, known), self.vectors)


def last_item_states(states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """States (batch, items, hidden_size) -> that of the last item of each history, (batch, hidden_size). Padding may
    stand on either side; of an empty history it is the first position's."""
    if attention_mask is None:
        return states[:, -1]
    positions = torch.arange(states.shape[1], device=states.device)
    last = (attention_mask * (positions + 1)).argmax(dim=1)
    return states[torch.arange(states.shape[0], device=states.device), last]


def score_table(code_logits: torch.Tensor, as_they_are: bool = False) -> torch.Tensor:
    """Logits (batch, num_codebooks, codebook_size) -> table (num_codebooks * codebook_size, batch), float32: an item's
    score is the sum of the rows of its codes, which is the mean of their log-probabilities, or the sum of the logits
    as they are."""
    batch, num_codebooks, _ = code_logits.shape
    of_codes = code_logits.float() if as_they_are else torch.log_softmax(code_logits.float(), dim=-1) / num_codebooks
    # Not contiguous(): it leaves a table of one user with strides that embedding_bag has no fast path for.
    return of_codes.reshape(batch, -1).T.clone(memory_format=torch.contiguous_format)


def table_rows(item_codes: torch.Tensor, codebook_size: int) -> torch.Tensor:
    """Codes (items, num_codebooks) -> their rows in the table, int32: half the bytes of int64, and faster."""
    first = torch.arange(item_codes.shape[1], dtype=torch.int32, device=item_codes.device) * codebook_size
    return item_codes.int() + first


def sum_rows(table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Table (entries, batch) and rows (items, num_codebooks) -> scores (items, batch). Sums run over the codebooks in
    their order, so that a score has the same bits in any batch."""
    if is_torchdynamo_exporting():  # embedding_bag becomes a loop over items in ONNX
        first, *others = (table.index_select(0, of_codebook) for of_codebook in rows.unbind(dim=1))
        return sum(others, first)
    return nn.functional.embedding_bag(rows, table, mode="sum")


def score_items(
    code_logits: torch.Tensor,
    item_codes: torch.Tensor,
    chunk_items: int = CHUNK_ITEMS,
    terms: ItemTerms | None = None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Score the catalogue chunk by chunk.

    Args:
        code_logits: (batch, num_codebooks, codebook_size).
        item_codes: (catalogue, num_codebooks).
        chunk_items: items scored at once; memory is batch x chunk_items floats.
        terms: what scores have beside codes.

    Yields:
        (row of the chunk's first item, scores (batch, items of the chunk)), float32.

    Raises:
        ValueError: if the catalogue has another number of codebooks than the logits.
    """
    check_codebooks(item_codes.shape[1], code_logits)
    cosines = terms is not None and terms.lengths is not None
    tables = [score_table(of_users, cosines) for of_users in code_logits.split(USERS)]
    for start in range(0, len(item_codes), chunk_items):
        codes = item_codes[start : start + chunk_items].to(code_logits.device)
        rows = table_rows(codes, code_logits.shape[2])
        sums = torch.cat([sum_rows(table, rows) for table in tables], dim=1)
        here = slice(start, start + len(codes))
        scores = (sums if terms is None else terms.of_chunk(sums, here)).T
        if terms is not None and terms.prior is not None:
            scores = terms.prior.into(scores, start)
        yield start, scores


def check_codebooks(num_codebooks: int, code_logits: torch.Tensor) -> None:
    if num_codebooks != code_logits.shape[1]:
        raise ValueError(
            f"The items have {num_codebooks} codes each but the model predicts {code_logits.shape[1]}: "
            "use the tokenizer that the checkpoint was trained with."
        )


def best_of(scores: torch.Tensor, rows: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `top_k` best columns of `scores` (batch, n), equal scores in order of `rows` (batch, n).

    Returns:
        (scores, rows), (batch, min(top_k, n)) each, best first.
    """
    top_k = min(top_k, scores.shape[1])
    best, columns = scores.topk(top_k, dim=1)
    # topk keeps any of the items that tie for the last place; where there is such a tie, sort the whole row.
    tied = ((scores >= best[:, -1:]).sum(dim=1, dtype=torch.int32) > top_k).nonzero()[:, 0]
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


def in_chunk(rows: torch.Tensor, start: int, length: int) -> torch.Tensor:
    """Which items of the chunk [start, start + length) are among each user's rows (batch, n): (batch, length)."""
    local = rows - start
    local = torch.where((local >= 0) & (local < length), local, length)
    member = torch.zeros(rows.shape[0], length + 1, dtype=torch.bool, device=rows.device)
    return member.scatter_(1, local, True)[:, :length]
