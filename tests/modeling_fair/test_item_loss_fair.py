"""The item softmax equals PyTorch's cross-entropy, its gradients are those of its value, and drawn candidates
estimate the whole catalogue."""

import pytest
import torch
from torch import nn

from modeling_fair import item_loss_fair
from modeling_fair.item_loss_fair import ItemSoftmax

ITEMS = 20


@pytest.fixture
def parts():
    torch.manual_seed(0)
    states = torch.randn(7, 8, dtype=torch.double, requires_grad=True)
    vectors = torch.randn(ITEMS, 8, dtype=torch.double, requires_grad=True)
    return states, vectors, torch.randint(0, ITEMS, (7,))


@pytest.mark.parametrize("logits_at_once", [8_000_000, 60])
def test_of_all_items_it_is_cross_entropy(parts, monkeypatch, logits_at_once):
    monkeypatch.setattr(item_loss_fair, "LOGITS", logits_at_once)
    states, vectors, targets = parts
    ours = ItemSoftmax.apply(states, vectors[targets], vectors, targets, torch.arange(ITEMS), ITEMS, True)
    plain = nn.functional.cross_entropy(states @ vectors.T, targets, reduction="sum")
    torch.testing.assert_close(ours, plain)
    for one, other in zip(*(torch.autograd.grad(loss, (states, vectors)) for loss in (ours, plain)), strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_with_drawn_candidates(parts):
    states, vectors, targets = parts
    drawn = torch.randperm(ITEMS)[:6]
    leaves = (states, *(vectors[rows].detach().requires_grad_() for rows in (targets, drawn)))
    assert torch.autograd.gradcheck(lambda *x: ItemSoftmax.apply(*x, targets, drawn, ITEMS, True), leaves)


def test_drawn_candidates_estimate_the_sum_over_all_others(parts):
    states, vectors, targets = (x.detach() for x in parts)
    states = states * 0.3
    others = (states @ vectors.T).exp().sum(1) - (states * vectors[targets]).sum(1).exp()
    own = (states * vectors[targets]).sum(1)
    estimates = []
    for seed in range(400):
        drawn = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(seed))[:8]
        each = [
            ItemSoftmax.apply(states[[i]], vectors[targets[[i]]], vectors[drawn], targets[[i]], drawn, ITEMS, False)
            for i in range(len(states))
        ]
        estimates.append((torch.stack(each) + own).exp() - own.exp())
    torch.testing.assert_close(torch.stack(estimates).mean(0), others, rtol=0.05, atol=0)
