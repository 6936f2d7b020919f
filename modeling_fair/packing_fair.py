"""Histories of a padded batch, packed without their padding.

Items stand one after the other, histories in order of length, so that all layers but attention run on items alone and
attention runs on groups of histories of one length, causal and without a mask.
"""

from collections.abc import Callable

import torch

# Arguments of a model's call for packed states alone, whatever the configuration asks for otherwise.
PACKED = {
    "packed": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "output_branch_attentions": False,
    "return_dict": True,
}
MOST_GROUPS_ON_ACCELERATORS = 8  # a kernel call a group costs a CPU little, an accelerator much


class Packing:
    """Where the items of a padded batch stand in its packed form.

    Args:
        attention_mask: 1 for items, 0 for padding anywhere, (batch, items).

    Attributes:
        cells: for every packed cell the item's place in the flattened batch, (packed,); where histories of different
            lengths share a group, the cells behind the shorter ones hold padding, marked with batch * items.
        groups: (histories, length) of each group; their products add up to the number of packed cells.
        packed_cells: for every place of the flattened batch its packed cell, (batch * items,); 0 for padding.
        last_cells: packed cell of the last item of each history, (batch,); 0 for an empty one.
        order: rows of the histories that have items, as they stand in the packed form.
    """

    def __init__(self, attention_mask: torch.Tensor):
        mask = attention_mask.bool()
        batch, items = mask.shape
        device = mask.device
        lengths = mask.sum(dim=1)
        order = lengths.argsort(stable=True)
        in_order = lengths[order].tolist()
        self.groups = _groups(in_order, None if device.type == "cpu" else MOST_GROUPS_ON_ACCELERATORS)
        # The k-th item of a history stands in its k-th cell, wherever its padding is.
        places = torch.arange(batch * items, device=device).view(batch, items)
        by_rank = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        places = places.gather(1, by_rank)
        ranks = torch.arange(items, device=device)
        places = places.masked_fill(ranks >= lengths[:, None], batch * items)[order]
        parts, first = [], len(order) - sum(histories for histories, _ in self.groups)  # empty histories have no cell
        for histories, length in self.groups:
            parts.append(places[first : first + histories, :length].reshape(-1))
            first += histories
        if not parts:  # no item at all: one cell of padding, so that there is a state to look at
            self.groups, parts = [(1, 1)], [places.new_full((1,), batch * items)]
        self.cells = torch.cat(parts)
        self.shape = (batch, items)
        self.order = order[len(order) - sum(map(bool, in_order)) :]
        packed = torch.arange(len(self.cells), device=device)
        self.packed_cells = places.new_zeros(batch * items + 1).scatter_(0, self.cells, packed)[:-1]
        last = (mask * (ranks + 1)).argmax(dim=1) + torch.arange(batch, device=device) * items
        self.last_cells = self.packed_cells[last]

    @property
    def is_item(self) -> torch.Tensor:
        """Which packed cells hold items, (packed,)."""
        return self.cells < self.shape[0] * self.shape[1]

    @property
    def histories(self) -> torch.Tensor:
        """For every packed cell the row of its history in the batch, (packed,); `batch` for padding."""
        return self.cells // self.shape[1]

    def positions(self) -> torch.Tensor:
        """For every packed cell the number of items before it in its history, (packed,)."""
        parts = [torch.arange(length, device=self.cells.device).repeat(histories) for histories, length in self.groups]
        return torch.cat(parts)

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """(batch, items, ...) -> (packed, ...); cells of padding hold any item's values."""
        cells = self.cells.clamp(max=self.shape[0] * self.shape[1] - 1)
        return padded.flatten(0, 1).index_select(0, cells)

    def sum_histories(self, packed: torch.Tensor) -> torch.Tensor:
        """(packed, width) -> sums over the items of each history, (batch, width), float32 at the least."""
        wide = packed.to(torch.promote_types(packed.dtype, torch.float32))
        sums = wide.new_zeros(self.shape[0] + 1, packed.shape[1])
        return sums.index_add(0, self.histories, wide)[:-1]

    @property
    def is_even(self) -> bool:
        """Whether all groups are of one length, without any padding, as they are on a CPU."""
        return len(self.order) > 0 and bool(self.is_item.all())

    def in_groups(
        self, attend: Callable[..., torch.Tensor], query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Attend group by group.

        Args:
            attend: called with the query, key and value of each group, (histories, items, width); returns (histories,
                items of the query, ...).
            query: (packed, width), or (histories, width) in `order` for the last items alone.
            key, value: (packed, width).

        Returns:
            (rows of `query`, ...).
        """
        sizes = [histories * length for histories, length in self.groups]
        of_queries = sizes if len(query) == len(key) else [histories for histories, _ in self.groups]
        parts = zip(self.groups, query.split(of_queries), key.split(sizes), value.split(sizes), strict=True)
        outputs = [
            attend(*(part.view(group[0], -1, part.shape[-1]) for part in of_group)) for group, *of_group in parts
        ]
        return torch.cat([output.flatten(0, 1) for output in outputs])


def _groups(lengths: list[int], most: int | None) -> list[tuple[int, int]]:
    """Ascending lengths of histories -> (histories, length of the longest) of each group: one a length, or at the most
    `most` of about as many histories."""
    lengths = [length for length in lengths if length]
    fewest = 1 if most is None else -(-len(lengths) // most)
    groups: list[tuple[int, int]] = []
    for length in lengths:
        if groups and (groups[-1][1] == length or groups[-1][0] < fewest):
            groups[-1] = (groups[-1][0] + 1, length)
        else:
            groups.append((1, length))
    return groups
