"""What the models return, and the arguments that say which of it."""

from dataclasses import dataclass
from typing import TypedDict

import torch
from transformers.utils import ModelOutput

from .packing_fair import Packing


class OutputsWanted(TypedDict, total=False):
    """Arguments of every forward that say what is returned, each the configuration's where it is not given."""

    output_hidden_states: bool | None
    output_attentions: bool | None
    output_branch_attentions: bool | None
    return_dict: bool | None


@dataclass
class FairModelOutput(ModelOutput):
    """Output of [`FairModel`].

    Args:
        last_hidden_state: states, (batch, items, hidden_size); those of padding mean nothing. Packed, (packed,
            hidden_size), or (batch, hidden_size) where only the last items' were wanted.
        packing: on `packed=True`, where each history's items stand among the packed states.
        hidden_states: on `output_hidden_states=True`, the item vectors and the states after each layer.
        attentions: on `output_attentions=True`, for each layer the map that multiplied V, (batch, heads, items,
            items): the normalised difference for focused attention, which may hold negative weights.
        branch_attentions: on `output_branch_attentions=True`, for each layer the softmax maps before the subtraction,
            (batch, branches, heads, items, items).
    """

    last_hidden_state: torch.Tensor | None = None
    packing: Packing | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    branch_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class FairRecommendationOutput(ModelOutput):
    """Output of [`FairForGenerativeRecommendation`].

    Args:
        loss: MTP, where labels were given.
        logits: of the next item's codes, (batch, positions, num_codebooks, codebook_size).
        last_hidden_state, packing, hidden_states, attentions, branch_attentions: as in [`FairModelOutput`].
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    packing: Packing | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    branch_attentions: tuple[torch.Tensor, ...] | None = None
