"""What the last item of a history attends to, as the model used it: each branch times its lambda, and the map that
multiplied the values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass
class Column:
    """Weights of the items that were read, and how they came about: `sign` is 1 for the branch that adds, -1 for the
    one that is subtracted, 0 for the map that was used."""

    name: str
    note: str
    weights: list[float]
    sign: int


@dataclass
class Attention:
    """The last item's attention in all layers and heads.

    Args:
        branches: (layers, branches, heads, items), softmax maps times their lambda; one branch, with a lambda of 1,
            for standard attention.
        used: (layers, heads, items), what multiplied the values.
        lambdas: (layers, branches, heads).
        norm: how the difference was normalised, `None` where it was used as it is.
    """

    branches: np.ndarray
    used: np.ndarray
    lambdas: np.ndarray
    norm: str | None

    def columns(self, layer: int, head: int | None = None) -> list[Column]:
        """The columns of the picture: both branches and their difference, or the one map of standard attention.

        Args:
            layer: from 0.
            head: from 0; by default the mean over heads.
        """

        def of_heads(values: np.ndarray) -> Any:
            return (values.mean(0) if head is None else values[head]).tolist()

        used = of_heads(self.used[layer])
        if self.branches.shape[1] == 1:
            return [Column("Attention", "softmax", used, 0)]
        lambda1, lambda2 = (of_heads(weight) for weight in self.lambdas[layer])
        first, second = (of_heads(branch) for branch in self.branches[layer])
        how = f"normalised ({self.norm})" if self.norm else "branch 1 − branch 2"
        return [
            Column("Branch 1", f"λ₁ × softmax, λ₁ = {lambda1:.2f}", first, 1),
            Column("Branch 2", f"λ₂ × softmax, λ₂ = {lambda2:.2f}", second, -1),
            Column("Difference", how, used, 0),
        ]


@torch.no_grad()
def attention_of_last_item(model: Any, tokenizer: Any, history: Sequence[str]) -> Attention:
    """
    Args:
        model: a `FairForGenerativeRecommendation`.
        tokenizer: its tokenizer, which keeps the last `model_max_length` items.
        history: item ids of the catalogue, oldest first, at least one.
    """
    batch = tokenizer([list(history)], return_tensors="pt").to(model.device)
    output = model(
        batch["input_ids"],
        batch["attention_mask"],
        known_ids=batch["known_ids"],
        output_attentions=True,
        output_branch_attentions=True,
    )
    used = torch.stack([attention[0, :, -1] for attention in output.attentions])
    branches = torch.stack([branch[0, :, :, -1] for branch in output.branch_attentions])
    lambdas = torch.ones(branches.shape[:-1])
    if branches.shape[1] == 2:
        lambdas = torch.stack([torch.stack(layer.self_attn.lambdas()) for layer in model.model.layers]).cpu()
    return Attention(
        (branches.float().cpu() * lambdas[..., None]).numpy(),
        used.float().cpu().numpy(),
        lambdas.float().numpy(),
        model.config.attention_norm if model.config.normalises_scores else None,
    )


def share(weights: Sequence[float], chosen: Sequence[bool]) -> float:
    """The share of the absolute weight that the chosen items have, 0 to 1."""
    sizes = np.abs(weights)
    return float(sizes[list(chosen)].sum() / max(sizes.sum(), 1e-12))
