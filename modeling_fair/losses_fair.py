"""Two of the objectives of FAIR, loss = MTP + alpha NRT + beta MIM (arXiv 2512.11254); MTP is in heads_fair.py.

Each function returns a SUM over what it is given, so that sums over micro-batches and processes, divided once by the
whole batch's count, are exact under gradient accumulation and data parallelism.
"""

import torch
from torch import nn


def noise_robustness_loss(
    clean: torch.Tensor, noisy: torch.Tensor, negatives: torch.Tensor, own_negative: torch.Tensor, margin: float
) -> torch.Tensor:
    """NRT: a triplet loss that keeps the state of a noisy history nearer to the state of the clean one than the
    nearest state of another user is, by a margin:

        sum over positions of max(0, |clean - noisy| - min over negatives |clean - negative| + margin)

    on states scaled to unit length (distances from 0 to 2), so that it cannot be met by growing the states. The paper
    states a triplet loss; distance, margin and negatives are this package's choice.

    Args:
        clean, noisy: states of the same positions, (positions, hidden_size).
        negatives: states of other histories, (negatives, hidden_size).
        own_negative: for each position, the row of `negatives` of its own history, which is left out; (positions,).
        margin: in units of distance between unit vectors.

    Returns:
        The sum over positions; 0 for those without any other history, or only histories of the same state.
    """
    if len(negatives) < 2:
        return clean.sum() * 0.0
    clean, noisy, negatives = (nn.functional.normalize(x.float(), dim=-1) for x in (clean, noisy, negatives))
    own = own_negative[:, None] == torch.arange(len(negatives), device=clean.device)
    # The nearest negative is the one of the largest cosine; the distance itself is computed for that one alone. The
    # same state is no negative: it is that of the same items, and a distance of 0 has no direction to grow in.
    cosines = clean.detach() @ negatives.detach().T
    cosines = cosines.masked_fill(own | (cosines > 1 - 1e-6), -2.0)
    best, nearest = cosines.max(dim=1)
    to_noisy = nn.functional.pairwise_distance(clean, noisy)
    to_negative = nn.functional.pairwise_distance(clean, negatives.index_select(0, nearest))
    return ((to_noisy - to_negative + margin).relu() * (best > -2.0)).sum()


def mutual_information_loss(
    sequences: torch.Tensor,
    targets: torch.Tensor,
    own_target: torch.Tensor,
    same_item: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """MIM: InfoNCE between the mean-pooled states of a history and the vector of its target item, with the other
    targets of the batch as negatives; a bound on their mutual information (InfoNCE: arXiv 1807.03748).

        sum over sequences of -log( exp(cos(s_i, t_i) / temperature) / sum_j exp(cos(s_i, t_j) / temperature) )

    Args:
        sequences: (sequences, hidden_size).
        targets: (targets, hidden_size), those of `sequences` among them.
        own_target: for each sequence the row of its own target, (sequences,).
        same_item: (sequences, targets), true where a target is the same item as the sequence's own: such a target is
            no negative.
        temperature: what cosines are divided by.

    Returns:
        The sum over sequences.
    """
    sequences, targets = (nn.functional.normalize(x.float(), dim=-1) for x in (sequences, targets))
    logits = sequences @ targets.T / temperature
    rows = torch.arange(len(sequences), device=logits.device)
    false_negative = same_item.clone()
    false_negative[rows, own_target] = False
    logits = logits.masked_fill(false_negative, torch.finfo(logits.dtype).min)
    return nn.functional.cross_entropy(logits, own_target, reduction="sum")
