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
    ours = ItemSoftmax.apply(states, vectors[targets], vectors, targets, torch.arange(ITEMS), None, ITEMS, True)
    plain = nn.functional.cross_entropy(states @ vectors.T, targets, reduction="sum")
    torch.testing.assert_close(ours, plain)
    for one, other in zip(*(torch.autograd.grad(loss, (states, vectors)) for loss in (ours, plain)), strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_with_drawn_candidates(parts):
    states, vectors, targets = parts
    drawn = torch.randperm(ITEMS)[:6]
    leaves = (states, *(vectors[rows].detach().requires_grad_() for rows in (targets, drawn)))
    assert torch.autograd.gradcheck(lambda *x: ItemSoftmax.apply(*x, targets, drawn, None, ITEMS, True), leaves)


def seen_by(targets):
    """Histories of padding, items twice and the target itself, and which items are left out."""
    seen = torch.randint(-1, ITEMS, (len(targets), 6), generator=torch.Generator().manual_seed(0))
    seen[0], seen[1, :2], seen[2, 3] = -1, seen[1, 2], targets[2]
    removed = torch.zeros(len(targets), ITEMS + 1, dtype=torch.bool).scatter_(1, seen % (ITEMS + 1), True)[:, :-1]
    again = removed.gather(1, targets[:, None])
    assert 0 < again.sum() < len(targets)
    return seen, removed & ~again


@pytest.mark.parametrize("logits_at_once", [8_000_000, 60])
def test_seen_items_are_no_candidates(parts, monkeypatch, logits_at_once):
    monkeypatch.setattr(item_loss_fair, "LOGITS", logits_at_once)
    states, vectors, targets = parts
    seen, removed = seen_by(targets)
    ours = ItemSoftmax.apply(states, vectors[targets], vectors, targets, torch.arange(ITEMS), seen, ITEMS, True)
    logits = (states @ vectors.T).masked_fill(removed, -torch.inf)
    plain = nn.functional.cross_entropy(logits, targets, reduction="sum")
    torch.testing.assert_close(ours, plain)
    for one, other in zip(*(torch.autograd.grad(loss, (states, vectors)) for loss in (ours, plain)), strict=True):
        torch.testing.assert_close(one, other)


def test_where_all_others_were_seen_nothing_is_lost(parts):
    states, vectors, _ = parts
    targets, every = torch.full((7,), 3), torch.arange(ITEMS)
    others = every[every != 3].expand(7, -1)
    loss = ItemSoftmax.apply(states, vectors[targets], vectors, targets, every, others, ITEMS, True)
    assert loss == 0 and not any(gradient.any() for gradient in torch.autograd.grad(loss, (states, vectors)))


@pytest.mark.parametrize("removes", [False, True])
def test_drawn_candidates_estimate_the_sum_over_all_others(parts, removes):
    states, vectors, targets = (x.detach() for x in parts)
    states = states * 0.3
    seen, removed = seen_by(targets)
    seen, removed = seen if removes else seen.fill_(-1), removed & removes
    of_all = (states @ vectors.T).exp().masked_fill(removed, 0)
    others = of_all.sum(1) - (states * vectors[targets]).sum(1).exp()
    own = (states * vectors[targets]).sum(1)
    estimates = []
    for seed in range(400):
        drawn = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(seed))[:8]
        each = [
            ItemSoftmax.apply(
                states[[i]], vectors[targets[[i]]], vectors[drawn], targets[[i]], drawn, seen[[i]], ITEMS, False
            )
            for i in range(len(states))
        ]
        estimates.append((torch.stack(each) + own).exp() - own.exp())
    torch.testing.assert_close(torch.stack(estimates).mean(0), others, rtol=0.05, atol=0)
