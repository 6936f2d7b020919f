"""The prior: how often items stood near each other in training, how alike they are, and whether users come back for
an item, kept as part of a model."""

from typing import Any

import torch
from torch import nn

from .configuration_fair import FairConfig


class CoOccurrencePrior(nn.Module):
    """A sparse matrix M of counts, known items by known items, that scores items for a history:

        count(u, i) = sum over the newest items h of u of decay^age(h) M[h, i]
        term(u, i) = weight log(1 + count(u, i) / floor) + repeat [i is among the items of u that the model reads]

    The newest item has age 0. With the logarithm the term adds to log-probabilities as those of a product of experts.
    `repeat` is below 0 where users do not take an item twice, and above where they do.

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

    def forward(self, known_ids: torch.Tensor, of_items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            known_ids: the histories' items, oldest first, -1 for items that are not known and for padding on either
                side, (batch, items).
            of_items: number of each of the catalogue's items, -1 for those that are not known, (catalogue,).

        Returns:
            Catalogue rows that the prior adds to, each once a user, -1 for none, and what it adds, (batch, n) each.
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
        first = lengths.cumsum(0) - lengths
        entries = self.offsets[rows][of_entry] + torch.arange(len(of_entry), device=device) - first[of_entry]
        weights = (self.config.prior_decay ** ages.float())[of_entry] * self.counts[entries].float()
        catalogue_rows = row_of[self.columns[entries].long()]
        there = catalogue_rows >= 0  # items that were taken out of the catalogue are not
        keys = users[of_entry][there] * len(of_items) + catalogue_rows[there]
        keys, place = torch.cat([keys, own_keys]).unique(return_inverse=True)
        counted, own = place.split([len(place) - len(own_keys), len(own_keys)])
        summed = torch.zeros(len(keys), device=device).index_add_(0, counted, weights[there])
        terms = self.config.prior_weight * torch.log1p(summed / self.config.prior_floor)
        terms[own.unique()] += self.config.prior_repeat
        users = keys // max(len(of_items), 1)
        starts = torch.searchsorted(users, torch.arange(batch, device=device))
        places = torch.arange(len(keys), device=device) - starts[users]
        width = int(places.max()) + 1 if len(keys) else 0
        out_rows = torch.full((batch, width), -1, dtype=torch.long, device=device)
        scores = torch.zeros(batch, width, device=device)
        out_rows[users, places], scores[users, places] = keys % max(len(of_items), 1), terms
        return out_rows, scores


__all__ = ["CoOccurrencePrior"]
