"""Score every item of a catalogue and keep the best: the exact search, in torch, of many users at once."""

from dataclasses import dataclass

import torch

from .decoding_fair import ItemTerms, best_of, sum_rows, table_rows
from .filters_fair import contains, position_in
from .row_terms_fair import RowTerms

BLOCK = 16  # smaller ones make the first pass of a search slower, larger ones the second


@dataclass
class ScoreTable:
    """What users' scores are made of: the entries of all codes, (num_codebooks * codebook_size, users), what all items
    have beside them, and what some gain in the end."""

    entries: torch.Tensor
    terms: ItemTerms | None = None
    prior: RowTerms | None = None

    @property
    def users(self) -> int:
        return self.entries.shape[1]

    def of_user(self, user: int) -> "ScoreTable":
        """That of one user alone."""
        entries = self.entries[:, user : user + 1].clone(memory_format=torch.contiguous_format)
        of_user = slice(user, user + 1)
        terms = None if self.terms is None else self.terms.of_users(of_user)
        return ScoreTable(entries, terms, None if self.prior is None else self.prior.of_users(of_user))


def scan(
    item_codes: torch.Tensor,
    table: ScoreTable,
    allowed: torch.Tensor | None,
    hidden: torch.Tensor,
    hidden_from: torch.Tensor,
    top_k: int,
    chunk_items: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score every allowed item, chunk by chunk.

    Args:
        item_codes: (catalogue, num_codebooks).
        table: what the users' scores are made of.
        allowed: catalogue rows in order, (n,), the only ones looked at; `None` for all.
        hidden, hidden_from: rows never to return, (n,), and each user's own, (users, n), -1 for none.
        top_k: items wanted.
        chunk_items: items scored at once, a multiple of `BLOCK`.

    Returns:
        (scores, rows), (users, at most top_k) each, best first; items that may not be returned have -inf.

    The `top_k` best lie in the `top_k` blocks of consecutive items whose maxima come first, blocks of equal maxima
    in their order: each of these holds an item that goes before all of any other block. So a first pass keeps the
    maxima of blocks, and a second ranks the items of the best blocks."""
    users, entries = table.users, table.entries
    codebook_size = len(entries) // item_codes.shape[1]
    items = len(item_codes) if allowed is None else len(allowed)
    user = torch.arange(users, device=entries.device)
    cells = torch.cat([
        (position_in(allowed, hidden_from) * users + user[:, None]).flatten(),
        (position_in(allowed, hidden)[:, None] * users + user).flatten(),
    ])  # fmt: skip
    cells = cells[cells >= 0].sort().values
    starts = range(0, items, chunk_items)
    first_cells = torch.tensor([*starts, items], device=entries.device) * users
    ends, gains, gain_ends = torch.searchsorted(cells, first_cells).tolist(), None, []
    if table.prior is not None:
        gains = table.prior.by_cell(position_in(allowed, table.prior.rows) * users + user[:, None])
        gain_ends = torch.searchsorted(gains.rows, first_cells).tolist()
    maxima = [entries.new_empty(0, users)]
    for part, start in enumerate(starts):
        here = slice(start, start + chunk_items)
        of_chunk = here if allowed is None else allowed[here]
        scores = sum_rows(entries, table_rows(item_codes[of_chunk], codebook_size))
        if table.terms is not None:
            scores = table.terms.of_chunk(scores, of_chunk)
        if gains is not None:
            here_gains = gains.of_users(slice(gain_ends[part], gain_ends[part + 1]))
            places = here_gains.rows - start * users
            scores.view(-1)[places] = here_gains.final(scores.view(-1)[places])
        scores.view(-1).index_fill_(0, cells[ends[part] : ends[part + 1]] - start * users, -torch.inf)
        maxima += block_maxima(scores)
    of_blocks = torch.cat(maxima).T.contiguous()
    _, blocks = best_of(of_blocks, torch.arange(of_blocks.shape[1], device=entries.device).expand(users, -1), top_k)
    places = (blocks[..., None] * BLOCK + torch.arange(BLOCK, device=entries.device)).flatten(1)
    rows = places.masked_fill(places >= items, -1)
    if allowed is not None and items:
        rows = torch.where(rows < 0, rows, allowed[rows])
    scores = scores_of(item_codes, table, rows)
    if gains is not None:
        scores = gains.look_up(places * users + user[:, None], scores)
    banned = contains(hidden_from, rows) | torch.isin(rows, hidden) | (rows < 0)
    return best_of(scores.masked_fill(banned, -torch.inf), rows, top_k)


def scores_of(item_codes: torch.Tensor, table: ScoreTable, rows: torch.Tensor) -> torch.Tensor:
    """Scores of each user's rows (users, n) before what some gain, (users, n); those of row -1 mean nothing."""
    users, entries = table.users, table.entries
    codes = item_codes[rows.flatten()]
    user = torch.arange(users, dtype=torch.int32, device=entries.device).repeat_interleave(rows.shape[1])
    places = table_rows(codes, len(entries) // codes.shape[1]) * users + user[:, None]
    scores = sum_rows(entries.view(-1, 1), places).view(rows.shape)
    return scores if table.terms is None else table.terms.of_rows(scores, rows)


def block_maxima(scores: torch.Tensor) -> list[torch.Tensor]:
    """Scores (items, users) -> the maxima of blocks of items, (blocks, users), and that of what is left over."""
    users = scores.shape[1]
    whole = len(scores) // BLOCK * BLOCK
    maxima, width = scores[:whole].view(-1, BLOCK * users), BLOCK * users
    while width > users:  # halves, compared whole: fast for any number of users, which amax over a middle axis is not
        width //= 2
        maxima = torch.maximum(maxima[:, :width], maxima[:, width:])
    return [maxima] if whole == len(scores) else [maxima, scores[whole:].amax(dim=0, keepdim=True)]
