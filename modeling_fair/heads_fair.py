"""States -> code logits, and the MTP loss of them without their ever being held at once."""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from .configuration_fair import FairConfig
from .norm_fair import compute_dtype


class FairPredictionHeads(nn.Module):
    """One head a codebook: a residual SiLU block, zero at the start so that every head begins as the identity, then
    the cosine with the embeddings of that codebook's codes, divided by the temperature."""

    def __init__(self, config: FairConfig):
        super().__init__()
        self.temperature = config.cosine_temperature
        self.weight = nn.Parameter(torch.zeros(config.num_codebooks, config.hidden_size, config.hidden_size))
        self.bias = nn.Parameter(torch.zeros(config.num_codebooks, config.hidden_size))

    def forward(
        self, states: torch.Tensor, codebooks: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Args:
            states: (targets, hidden_size).
            codebooks: code embeddings, (num_codebooks, codebook_size, hidden_size): the inputs' own (tied).
            labels: codes of the targets, (targets, num_codebooks), -100 ignored, for the loss instead of logits.

        Returns:
            Logits (targets, num_codebooks, codebook_size), or MTP: the cross-entropy of every code of the next item
            (arXiv 2512.11254), summed over targets and codebooks, a float32 scalar.
        """
        if labels is not None:
            return FusedHeadsAndLoss.apply(
                states, self.weight, self.bias, codebooks, labels, self.temperature, torch.is_grad_enabled()
            )
        blocks = torch.baddbmm(self.bias[:, None], states.expand(len(self.weight), -1, -1), self.weight.mT)
        of_heads = nn.functional.normalize(states + nn.functional.silu(blocks), dim=-1)
        code_norms = torch.linalg.vector_norm(codebooks, dim=-1).clamp(min=1e-12)
        logits = of_heads @ codebooks.mT / (self.temperature * code_norms)[:, None]
        return logits.transpose(0, 1)


class TiedPrediction(nn.Module):
    """No heads: the score of an item is the cosine between state and item vector, divided by the temperature. The
    logit of a code is its share of that before the division by the length of the item's vector."""

    def __init__(self, config: FairConfig):
        super().__init__()
        self.temperature = config.cosine_temperature
        self.share = config.num_codebooks**-0.5

    def queries(self, states: torch.Tensor) -> torch.Tensor:
        """States (..., hidden_size) -> what is multiplied with item vectors."""
        return nn.functional.normalize(states, dim=-1) / self.temperature

    def forward(
        self, states: torch.Tensor, codebooks: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As [`FairPredictionHeads`]."""
        queries = self.queries(states.float()) * self.share
        logits = torch.einsum("th,csh->tcs", queries, codebooks.float())
        if labels is None:
            return logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")


class FusedHeadsAndLoss(torch.autograd.Function):
    """The heads and their cross-entropy, codebook by codebook, with the gradients made on the way: logits and hidden
    blocks of one codebook are all that is alive, and nothing is computed twice. For one codebook

        h = s W^T + b,  u = s + silu(h),  z_k = u . c_k / (|u| |c_k| T),  loss = -log softmax(z)_label

    with g = softmax(z) - onehot(label), so that dloss/du = sum_k g_k c_k / (|u| |c_k| T) - u (g . z) / |u|^2.
    Matrix products run in the type of autocast, sums and softmax in float32 at the least.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        codebooks: torch.Tensor,
        labels: torch.Tensor,
        temperature: float,
        with_gradients: bool,
    ) -> torch.Tensor:
        dtype, precise = compute_dtype(states), torch.promote_types(states.dtype, torch.float32)
        loss = torch.zeros((), dtype=precise, device=states.device)
        gradients: list[torch.Tensor] = []
        if with_gradients:
            gradients = [torch.zeros_like(states, dtype=precise)]
            gradients += [torch.empty_like(parameter) for parameter in (weight, bias, codebooks)]
        with torch.autocast(states.device.type, enabled=False):
            inputs = states.to(dtype)
            code_norms = torch.linalg.vector_norm(codebooks, dim=-1, keepdim=True).clamp(min=1e-12)
            for digit, (matrix, offset) in enumerate(zip(weight.unbind(), bias.unbind(), strict=True)):
                matrix = matrix.to(dtype)
                codes = (codebooks[digit] / code_norms[digit]).to(dtype)
                block = torch.addmm(offset.to(dtype), inputs, matrix.T)
                of_head = nn.functional.silu(block).add_(inputs)
                inverse = torch.linalg.vector_norm(of_head, dim=1).to(precise).clamp(min=1e-12).reciprocal()
                logits = (of_head @ codes.T).to(precise).mul_((inverse / temperature)[:, None])
                known = labels[:, digit] != -100
                label = labels[:, digit, None].clamp(min=0)
                log_probabilities = torch.log_softmax(logits, dim=1)
                loss -= (log_probabilities.gather(1, label)[:, 0] * known).sum()
                if not with_gradients:
                    continue
                errors = log_probabilities.exp_()
                errors.scatter_add_(1, label, errors.new_full((), -1.0).expand_as(label))
                along = torch.linalg.vecdot(errors, logits) * known * inverse.square()
                errors = errors.mul_((inverse / temperature * known)[:, None]).to(dtype)
                to_head = errors @ codes
                to_head.addcmul_(of_head, along.to(dtype)[:, None], value=-1)
                to_block = torch.ops.aten.silu_backward(to_head, block)
                gradients[0] += to_head.addmm_(to_block, matrix)
                gradients[1][digit] = to_block.T @ inputs
                gradients[2][digit] = to_block.sum(dim=0)
                gradients[3][digit] = errors.T @ of_head
            if with_gradients:  # through the normalisation of the code embeddings
                units = codebooks / code_norms
                inward = (gradients[3] * units).sum(dim=-1, keepdim=True)
                gradients[3].addcmul_(units, inward, value=-1).div_(code_norms)
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return *(gradient * of_loss for gradient in ctx.saved_tensors), None, None, None
