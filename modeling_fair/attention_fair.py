"""Focused attention (FAM): the normalised difference of two attention maps, arXiv 2512.11254.

    A1 = softmax(Q1 K1^T / sqrt(d_h))      A2 = softmax(Q2 K2^T / sqrt(d_h))
    A  = Norm(lambda1 A1 - lambda2 A2)     output = A V

Q and K are projected to two branches of `num_attention_heads` heads each, stacked on the head axis. The eager form
computes the maps, subtracts them, and returns the difference. Where `Norm` is applied to the output of a head instead
of to the map (`attention_norm="rms_output"`), any fused kernel serves: one call over the 2H heads, combined afterwards
by linearity, (lambda1 A1 - lambda2 A2) V = lambda1 A1 V - lambda2 A2 V.
"""

import math

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_fair import FairConfig
from .norm_fair import FairRMSNorm
from .packing_fair import Packing
from .relative_positions_fair import RelativePositionBias


def normalise_map(difference: torch.Tensor, visible: torch.Tensor, norm: str, eps: float) -> torch.Tensor:
    """Normalise each row of a map over its visible keys; what is not visible stays exactly 0.

    Args:
        difference: `lambda1 A1 - lambda2 A2`, (batch, heads, queries, keys), 0 where not visible.
        visible: which keys a query may read, boolean, (batch or 1, 1, queries, keys).
        norm: one of the score norms of [`FairConfig`], or `"rms_output"`, which leaves the map as it is.
        eps: added to divisors (and to the variance) where they could be 0.

    Returns:
        The attention map, same shape. A layer norm or softmax would put weight on invisible (future) keys unless
        the mask is applied again after it: this function does.
    """
    if norm == "relu":
        positive = difference.relu()
        return positive / (positive.sum(-1, keepdim=True) + eps)
    if norm == "l1":
        return difference / (difference.abs().sum(-1, keepdim=True) + eps)
    if norm == "layer_norm":
        count = visible.sum(-1, keepdim=True).clamp(min=1)
        centred = (difference - difference.sum(-1, keepdim=True) / count) * visible
        return centred / (centred.square().sum(-1, keepdim=True) / count + eps).sqrt()
    if norm in ("softmax", "softmax_abs"):
        scores = difference.abs() if norm == "softmax_abs" else difference
        return torch.softmax(scores.masked_fill(~visible, torch.finfo(scores.dtype).min), dim=-1) * visible
    return difference


def eager_attention_forward(
    module: "FairAttention",
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Attention with its maps in the open.

    Args:
        query, key: (batch, branches * heads, items, head_dim), the branches one after the other.
        value: (batch, heads, items, head_dim).
        attention_mask: additive, the type's lowest number where invisible, (batch or 1, 1 or branches * heads, items,
            items).

    Returns:
        output (batch, items, heads, head_dim), the map it was computed with (batch, heads, items, items), and the
        softmax maps of the branches (batch, branches, heads, items, items).
    """
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    maps = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    maps = nn.functional.dropout(maps, p=dropout, training=module.training)
    branches = maps.unflatten(1, (module.num_branches, module.num_heads))
    if module.num_branches == 1:
        attention_map = maps
    else:
        lambda1, lambda2 = (weight[:, None, None].to(maps.dtype) for weight in module.lambdas())
        difference = lambda1 * branches[:, 0] - lambda2 * branches[:, 1]
        if attention_mask is None:
            visible = torch.ones_like(scores[:, :1], dtype=torch.bool)
        else:
            visible = attention_mask[:, :1] > torch.finfo(attention_mask.dtype).min
        attention_map = normalise_map(difference, visible, module.attention_norm, module.eps)
    return (attention_map @ value).transpose(1, 2), attention_map, branches


class ResidualProjection(nn.Linear):
    """The last product of a block. Where codes are predicted it is 0 at the start: a state is then the item's vector,
    and what is predicted are items of similar codes. Item vectors are small at first, and blocks of random weights
    drowned them."""


class FairAttention(nn.Module):
    """Multi-head attention of one or two branches, see the top of this file."""

    def __init__(self, config: FairConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.num_branches = 2 if config.attention_type == "focused" else 1
        self.attention_norm = config.attention_norm
        self.eps = config.rms_norm_eps
        self.scaling = 1 / math.sqrt(self.head_dim)
        self.is_causal = True
        branches_width = self.num_branches * config.hidden_size
        self.q_proj = nn.Linear(config.hidden_size, branches_width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, branches_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.o_proj = ResidualProjection(config.hidden_size, config.hidden_size, bias=False)
        self.position_bias = RelativePositionBias(config) if config.relative_position_bias else None
        if self.num_branches == 2:
            self.log_lambda1 = nn.Parameter(torch.full((self.num_heads,), math.log(config.lambda1_init)))
            self.log_lambda2 = nn.Parameter(torch.full((self.num_heads,), math.log(config.lambda2_init)))
            if self.attention_norm == "rms_output":
                self.head_norm = FairRMSNorm(self.head_dim, eps=self.eps)

    def lambdas(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The weights of the two maps, (heads,) each, always positive."""
        return self.log_lambda1.exp(), self.log_lambda2.exp()

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        attn_implementation: str,
        packing: Packing | None = None,
        cells: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """States (batch, items, hidden_size) and their `position_ids` (batch, items), or (packed, hidden_size) with a
        packing -> output of the same shape, or of the last items' `cells` alone; and the maps where the eager form
        made them of an unpacked batch."""
        queried = hidden_states if cells is None else hidden_states[cells]
        projected = (self.q_proj(queried), self.k_proj(hidden_states), self.v_proj(hidden_states))
        attention_map = branches = None
        if packing is None:
            if self.position_bias is not None:
                if position_ids is None:
                    raise ValueError("Attention with relative_position_bias needs the items' position_ids.")
                queries, dtype = projected[0].shape[1], projected[0].dtype
                attention_mask = self.position_bias(position_ids, queries, attention_mask, dtype)
            output, attention_map, branches = self._attend(*projected, attention_mask, attn_implementation, **kwargs)
        else:
            output = self._attend_packed(packing, projected, attn_implementation, **kwargs)
        if self.num_branches == 2 and self.attention_norm == "rms_output":
            output = self.head_norm(output)
        return self.o_proj(output.flatten(-2)), attention_map, branches

    @torch.compiler.disable  # groups differ from batch to batch: compiled, each would be a graph of its own
    def _attend_packed(
        self, packing: Packing, projected: tuple[torch.Tensor, ...], attn_implementation: str, **kwargs
    ) -> torch.Tensor:
        # Of short histories on a CPU, the fused kernel is faster forwards, but backwards took 2 to 10 times as long.
        if projected[0].device.type == "cpu" and torch.is_grad_enabled():
            attn_implementation = "eager"

        def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            mask, items = None, query.shape[1]
            if self.position_bias is not None:
                positions = torch.arange(key.shape[1], device=key.device)[None]
                mask = self.position_bias(positions, items, None, query.dtype)
            elif attn_implementation == "eager" and items > 1:
                lowest = torch.finfo(query.dtype).min
                hidden = torch.full((items, items), lowest, dtype=query.dtype, device=query.device)
                mask = hidden.triu(1)[None, None]
            return self._attend(query, key, value, mask, attn_implementation, **kwargs)[0]

        return packing.in_groups(attend, *projected)

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        attn_implementation: str,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Projections (batch, items, width) -> outputs (batch, items, heads, head_dim), and maps of the eager form."""
        query, key, value = (
            x.unflatten(-1, (x.shape[-1] // self.head_dim, self.head_dim)).transpose(1, 2) for x in (query, key, value)
        )
        dropout = self.config.attention_dropout if self.training else 0.0
        if attn_implementation == "eager":
            return eager_attention_forward(self, query, key, value, attention_mask, self.scaling, dropout)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(attn_implementation, eager_attention_forward)
        value = value.repeat(1, self.num_branches, 1, 1)
        output, _ = attention(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
        if self.num_branches == 2:
            lambda1, lambda2 = (weight[:, None].to(output.dtype) for weight in self.lambdas())
            output = lambda1 * output[:, :, : self.num_heads] - lambda2 * output[:, :, self.num_heads :]
        return output, None, None
