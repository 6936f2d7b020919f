"""Normalisation, and the precision that sums and products are made in."""

import torch
from torch import nn


def compute_dtype(tensor: torch.Tensor) -> torch.dtype:
    """What matrix products of `tensor` are computed in: autocast's type where it is on, else the tensor's own."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


class FairRMSNorm(nn.Module):
    """Root-mean-square normalisation with a learned scale, in float32 whatever the precision around it. Its output is
    in the type of the matrix products that read it, so that it is converted once, not once a product."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        normed = nn.functional.rms_norm(hidden_states.float(), self.weight.shape, self.weight.float(), self.eps)
        return normed.to(compute_dtype(hidden_states))
