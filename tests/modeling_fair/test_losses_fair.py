"""Values and gradients of every loss against plain torch, written out differently."""

import pytest
import torch
from torch import nn

from modeling_fair.losses_fair import (
    mutual_information_loss,
    noise_robustness_loss,
)


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64).float().requires_grad_()


def assert_same_with_gradients(ours: torch.Tensor, reference: torch.Tensor, leaves: list[torch.Tensor]) -> None:
    torch.testing.assert_close(ours, reference)
    for mine, theirs in zip(
        torch.autograd.grad(ours, leaves, allow_unused=True),
        torch.autograd.grad(reference, leaves, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_nrt(margin):
    clean, noisy, negatives = leaf(6, 8), leaf(6, 8), leaf(4, 8)
    own = torch.tensor([0, 0, 1, 1, 2, 3])
    ours = noise_robustness_loss(clean, noisy, negatives, own, margin)
    reference = torch.zeros(())
    for i in range(6):
        unit = [x / x.norm() for x in (clean[i], noisy[i])]
        to_noisy = nn.functional.pairwise_distance(unit[0], unit[1])
        to_others = [
            nn.functional.pairwise_distance(unit[0], negatives[j] / negatives[j].norm())
            for j in range(4)
            if j != own[i]
        ]
        reference = reference + (to_noisy - min(to_others) + margin).clamp(min=0)
    assert reference > 0
    assert_same_with_gradients(ours, reference, [clean, noisy, negatives])


def test_nrt_cannot_be_met_by_growing_the_states():
    clean, noisy, negatives = leaf(6, 8), leaf(6, 8), leaf(4, 8)
    own = torch.zeros(6, dtype=torch.long)
    once = noise_robustness_loss(clean, noisy, negatives, own, 1.0)
    torch.testing.assert_close(noise_robustness_loss(9 * clean, 9 * noisy, 9 * negatives, own, 1.0), once)


def test_nrt_takes_no_equal_state_for_a_negative():
    """Two users with the same items have the same state: it is no negative, and one alone gives nothing."""
    clean, noisy, other = leaf(1, 8), leaf(1, 8), leaf(1, 8)
    own = torch.tensor([0])
    three = noise_robustness_loss(clean, noisy, torch.cat([clean, clean.detach() * 2, other]), own, 1.0)
    two = noise_robustness_loss(clean, noisy, torch.cat([clean, other]), own, 1.0)
    assert_same_with_gradients(three, two, [clean, noisy, other])
    assert noise_robustness_loss(clean, noisy, torch.cat([clean, clean.detach() * 2]), own, 1.0) == 0


def test_nrt_without_another_history_is_zero_and_has_a_gradient():
    clean = leaf(3, 8)
    loss = noise_robustness_loss(clean, clean, leaf(1, 8), torch.zeros(3, dtype=torch.long), 1.0)
    assert loss == 0
    assert torch.autograd.grad(loss, clean)[0].abs().sum() == 0


def test_mim():
    sequences, targets = leaf(3, 8), leaf(5, 8)
    own = torch.tensor([1, 2, 4])
    same = torch.zeros(3, 5, dtype=torch.bool)
    same[0, 1] = same[1, 2] = same[2, 4] = True
    same[0, 3] = True  # the same item again: no negative
    ours = mutual_information_loss(sequences, targets, own, same, 0.1)
    reference = torch.zeros(())
    for i in range(3):
        similarity = torch.cosine_similarity(sequences[i][None], targets, dim=-1) / 0.1
        negatives = [j for j in range(5) if not same[i, j]]
        reference = reference - (
            similarity[own[i]] - torch.logsumexp(similarity[torch.tensor([int(own[i]), *negatives])], 0)
        )
    assert_same_with_gradients(ours, reference, [sequences, targets])
