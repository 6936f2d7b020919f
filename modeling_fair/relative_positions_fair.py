"""How far back an item stands, as a part of attention scores."""

import torch
from torch import nn

from .configuration_fair import FairConfig


class RelativePositionBias(nn.Module):
    """A learned bias for each head of each branch and each distance between the item that reads and the item it reads
    (T5's form, Raffel et al. 2020, with a value for every distance). Heads of the first branch start with

        - slope * distance,   slope = 1, 1/2, 1/4, ..., and 0 for the last head

    (ALiBi's form, Press et al. 2022), those of the second with 0: their difference starts as what is recent, less what
    is read at any distance."""

    def __init__(self, config: FairConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.num_branches = 2 if config.attention_type == "focused" else 1
        self.num_positions = config.max_position_embeddings
        self.weight = nn.Parameter(self.start())

    def start(self) -> torch.Tensor:
        """What the weight starts with, (branches * heads, max_position_embeddings)."""
        slopes = 0.5 ** torch.arange(self.num_heads)
        slopes[-1] = 0
        others = torch.zeros((self.num_branches - 1) * self.num_heads)
        return -torch.cat([slopes, others])[:, None] * torch.arange(self.num_positions)

    def forward(
        self, positions: torch.Tensor, queries: int, attention_mask: torch.Tensor | None, dtype: torch.dtype
    ) -> torch.Tensor:
        """The additive mask of attention, bias included.

        Args:
            positions: numbers of the items in their histories, (batch or 1, items).
            queries: how many items read, the last ones.
            attention_mask: what is visible, (batch, 1, queries, items): boolean, or additive and 0 where visible.
                `None` for all but later items.
            dtype: of the result.

        Returns:
            (batch or 1, branches * heads, queries, items), the type's lowest number where invisible.
        """
        distances = positions[:, -queries:, None] - positions[:, None]
        of_pairs = self.weight.index_select(1, distances.clamp(min=0).flatten())  # its gradient sums in one order
        bias = of_pairs.unflatten(1, distances.shape).transpose(0, 1).to(dtype)
        if attention_mask is None:
            visible = distances[:, None] >= 0
        else:
            visible = attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0
        return bias.masked_fill(~visible, torch.finfo(dtype).min)
