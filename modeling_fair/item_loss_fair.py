"""The prediction of the next item itself: a softmax over items, without all logits ever being held at once."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .norm_fair import compute_dtype

LOGITS = 8_000_000  # held at once


class ItemSoftmax(torch.autograd.Function):
    """Cross-entropy of the next item among all items, with the gradients made on the way:

        loss = sum over targets of log( exp(h . v) + (n - 1) / m * sum over c exp(h . v_c) ) - h . v

    with m candidates c, the target left out. Of all n items that is the full softmax; of some drawn uniformly, the
    sampled one, with the sum over all others estimated from theirs. Items that a user has seen may be left out, of the
    candidates as of the n. Products run in the type of autocast, sums and
    softmax in float32 at the least.

    Args:
        states: h, (targets, hidden_size).
        of_targets: v, vectors of the targets, (targets, hidden_size).
        vectors: v_c, those of the candidates, (candidates, hidden_size).
        target_ids, candidate_ids: catalogue rows, (targets,) and (candidates,).
        seen_ids: catalogue rows that are left out, (targets, n), -1 for none; where the target is among them, none is.
            `None` for none at all.
        items: n, size of the catalogue.
        with_gradients: whether `backward` will follow.

    Returns:
        The sum over targets, a scalar.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        of_targets: torch.Tensor,
        vectors: torch.Tensor,
        target_ids: torch.Tensor,
        candidate_ids: torch.Tensor,
        seen_ids: torch.Tensor | None,
        items: int,
        with_gradients: bool,
    ) -> torch.Tensor:
        dtype, precise = compute_dtype(states), torch.promote_types(states.dtype, torch.float32)
        place = torch.full((items,), -1, dtype=torch.long, device=states.device)
        place[candidate_ids] = torch.arange(len(candidate_ids), device=states.device)
        loss = torch.zeros((), dtype=precise, device=states.device)
        gradients: list[torch.Tensor] = []
        if with_gradients:
            gradients = [torch.zeros_like(x, dtype=precise) for x in (states, of_targets, vectors)]
        with torch.autocast(states.device.type, enabled=False):
            candidates = vectors.to(dtype)
            step = max(1, LOGITS // max(1, len(vectors)))
            for start in range(0, len(states), step):
                part = slice(start, start + step)
                inputs, targets = states[part].to(dtype), of_targets[part].to(precise)
                logits = (inputs @ candidates.T).to(precise)
                own = place[target_ids[part]]
                drawn = (own >= 0).nonzero()[:, 0]
                logits[drawn, own[drawn]] = -torch.inf
                left, others = torch.full_like(own, items - 1), len(vectors) - (own >= 0).long()
                if seen_ids is not None:
                    seen = _left_out(seen_ids[part], target_ids[part])
                    columns = torch.where(seen >= 0, place[seen.clamp(min=0)], -1)
                    of_row, of_seen = (columns >= 0).nonzero(as_tuple=True)
                    logits[of_row, columns[of_row, of_seen]] = -torch.inf
                    left = left - (seen >= 0).sum(dim=1)
                    others = others - (columns >= 0).sum(dim=1)
                scale = (left.to(precise) / others.clamp(min=1)).log()  # from the candidates to all others
                of_target = torch.linalg.vecdot(states[part].to(precise), targets)
                rest = logits.logsumexp(dim=1) + scale
                total = torch.logaddexp(rest, of_target)
                loss += (total - of_target).sum()
                if not with_gradients:
                    continue
                # d loss / d logit of a candidate is its probability, that of the target its probability less 1.
                errors = logits.sub_((total - scale)[:, None]).exp_().to(dtype)
                missing = (of_target - total).exp_().sub_(1)[:, None]
                gradients[0][part] = (errors @ candidates).to(precise) + missing * targets
                gradients[1][part] = missing * states[part].to(precise)
                gradients[2] += errors.T @ inputs
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [x.dtype for x in (states, of_targets, vectors)]
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        made = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *((gradient * of_loss).to(dtype) for gradient, dtype in made), None, None, None, None, None


def _left_out(seen: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Rows (targets, n) with each row once, -1 instead. None where the target is among them: what the user took again
    has to be told from what else was seen."""
    again = (seen == targets[:, None]).any(dim=1, keepdim=True)
    seen = seen.masked_fill(again, -1).sort(dim=1).values
    return torch.cat([seen[:, :1], seen[:, 1:].masked_fill(seen[:, 1:] == seen[:, :-1], -1)], dim=1)
