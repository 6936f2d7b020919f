"""The prior: how often items stood near each other in training, how alike they are, and whether users come back for
an item, kept as part of a model."""

from typing import Any

import numpy as np
import torch
from torch import nn

from .configuration_fair import FairConfig
from .row_terms_fair import RowTerms


class CoOccurrencePrior(nn.Module):
    """A sparse matrix M of counts, known items by known items, that scores items for a history:

        count(u, i) = sum over the newest items h of u of decay^age(h) M[h, i]

    The newest item has age 0. Beside a model that predicts codes, whose scores are sure of themselves, an item's score
    gains that of a product of experts:

        weight log(1 + count(u, i) / floor)

    Beside one that predicts items (`prior_level` is given) the two are a mixture. With share(u, i) = count(u, i) / the
    sum of count(u, .), a score s becomes

        weight log( exp(s / weight) + exp(level / weight) share(u, i) )

    so that what either of them is sure of comes first; `level` stands for the sum over all items of what the model
    gives them, which differs little between users, and for how much the prior is believed. Items that were taken out
    of the catalogue keep their counts in the sum, and those that were adopted have none in it, so that no other score
    changes.

    Either way `repeat` is added for the items of u that the model reads: below 0 where users do not take an item
    twice, and above where they do.

    The counts' rows lie one after the other (compressed sparse rows) in buffers of the model, so that they are saved,
    loaded and moved with its weights.
    """

    offsets: torch.Tensor
    columns: torch.Tensor
    counts: torch.Tensor

    def __init__(self, config: FairConfig):
        super().__init__()
        self.known, self.config = config.num_known_items, config
        self.register_buffer("offsets", torch.zeros(config.num_known_items + 1, dtype=torch.int64))
        self.register_buffer("columns", torch.zeros(config.prior_size, dtype=torch.int32))
        self.register_buffer("counts", torch.zeros(config.prior_size))

    def fill(self, counts: Any) -> None:
        """Take over a scipy sparse array, (known, known).

        Raises:
            ValueError: for another number of items.
        """
        rows = counts.tocsr()
        if rows.shape != (self.known, self.known):
            raise ValueError(f"The counts are {rows.shape} but the model knows {self.known} items: count those.")
        rows.sort_indices()
        for buffer, values in ((self.offsets, rows.indptr), (self.columns, rows.indices), (self.counts, rows.data)):
            buffer.copy_(torch.from_numpy(values))

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts, their columns and the offsets of the rows, as scipy's `csr_array` takes them."""
        return tuple(part.cpu().numpy() for part in (self.counts.float(), self.columns, self.offsets))  # type: ignore

    def forward(self, known_ids: torch.Tensor, of_items: torch.Tensor) -> RowTerms:
        """
        Args:
            known_ids: the histories' items, oldest first, -1 for items that are not known and for padding on either
                side, (batch, items).
            of_items: number of each of the catalogue's items, -1 for those that are not known, (catalogue,).

        Returns:
            What the catalogue rows gain that were counted or are in the history, (batch, n).
        """
        batch, device = len(known_ids), known_ids.device
        row_of = torch.full((self.known,), -1, dtype=torch.long, device=device)
        row_of[of_items[of_items >= 0]] = (of_items >= 0).nonzero()[:, 0]
        users, items = (known_ids >= 0).nonzero(as_tuple=True)
        own_rows = row_of[known_ids[users, items]]
        own_keys = (users * len(of_items) + own_rows)[own_rows >= 0]
        # From the newest known item: padding and items that are not known cannot be told apart.
        newest = torch.where(known_ids >= 0, torch.arange(known_ids.shape[1], device=device), -1)
        ages = newest.amax(dim=1)[users] - items if len(users) else items
        near = ages < self.config.prior_history
        users, ages, rows = users[near], ages[near], known_ids[users[near], items[near]]
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        of_entry = torch.repeat_interleave(torch.arange(len(rows), device=device), lengths)
        first = self.offsets[rows] - (lengths.cumsum(0) - lengths)
        # index_select takes a third of the time of [], of what are millions of entries.
        entries = first.index_select(0, of_entry) + torch.arange(len(of_entry), device=device)
        users = users.index_select(0, of_entry)
        weights = (self.config.prior_decay ** ages.float()).index_select(0, of_entry)
        weights = weights * self.counts.index_select(0, entries).float()
        columns = self.columns.index_select(0, entries)
        catalogue_rows = row_of.index_select(0, columns)
        there = catalogue_rows >= 0
        keys, summands = users * len(of_items) + catalogue_rows, weights
        if not there.all():  # items that were taken out of the catalogue are not
            keys, summands = keys[there], weights[there]
        keys, place = torch.cat([keys, own_keys]).unique(return_inverse=True)
        counted, own = place.split([len(place) - len(own_keys), len(own_keys)])
        summed = torch.zeros(len(keys), device=device).index_add_(0, counted, summands)
        own_counts = columns < self.known - self.config.num_adopted_items
        totals = torch.zeros(batch, device=device).index_add_(0, users, weights * own_counts)
        users = keys // max(len(of_items), 1)
        added, rival = self.scores(summed, totals[users])
        added[own.unique()] += self.config.prior_repeat
        starts = torch.searchsorted(users, torch.arange(batch, device=device))
        places = torch.arange(len(keys), device=device) - starts[users]
        width = int(places.max()) + 1 if len(keys) else 0
        out_rows = torch.full((batch, width), -1, dtype=torch.long, device=device)
        out_added, rivals = torch.zeros(batch, width, device=device), None
        out_rows[users, places], out_added[users, places] = keys % max(len(of_items), 1), added
        if rival is not None:
            rivals = torch.full((batch, width), -torch.inf, device=device)
            rivals[users, places] = rival
        return RowTerms(out_rows, out_added, rivals, self.config.prior_weight)

    def scores(self, counts: torch.Tensor, totals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Counts of items and the sums of their users' counts -> what is added to the items' scores, and what they are
        worth by the prior alone, in a mixture."""
        weight, level = self.config.prior_weight, self.config.prior_level
        if level is None:
            return weight * torch.log1p(counts / self.config.prior_floor), None
        shares = counts / totals.clamp(min=torch.finfo(totals.dtype).tiny)
        return torch.zeros_like(counts), level + weight * shares.log()


__all__ = ["CoOccurrencePrior"]
