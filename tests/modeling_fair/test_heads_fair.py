"""The fused loss against the plain form of its logits."""

import pytest
import torch
from torch import nn

from modeling_fair import FairConfig
from modeling_fair.heads_fair import FairPredictionHeads

CODEBOOKS, CODES, WIDTH, TARGETS = 3, 7, 8, 11


@pytest.fixture
def parts():
    torch.manual_seed(0)
    config = FairConfig(num_codebooks=CODEBOOKS, codebook_size=CODES, hidden_size=WIDTH, num_attention_heads=1)
    heads = FairPredictionHeads(config)
    with torch.no_grad():
        heads.weight.normal_(std=0.5)
        heads.bias.normal_(std=0.5)
    states = torch.randn(TARGETS, WIDTH, requires_grad=True)
    codebooks = torch.randn(CODEBOOKS, CODES, WIDTH, requires_grad=True)
    labels = torch.randint(0, CODES, (TARGETS, CODEBOOKS))
    labels[1, 2] = labels[4, 0] = -100
    return heads, states, codebooks, labels


def plain_loss(heads, states, codebooks, labels):
    logits = heads(states, codebooks)
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")


def gradients(loss, leaves):
    return torch.autograd.grad(3.0 * loss, leaves)


def test_loss_and_gradients_are_those_of_the_logits(parts):
    heads, states, codebooks, labels = parts
    leaves = [states, heads.weight, heads.bias, codebooks]
    ours, reference = heads(states, codebooks, labels), plain_loss(*parts)
    torch.testing.assert_close(ours, reference)
    for mine, theirs in zip(gradients(ours, leaves), gradients(reference, leaves), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_gradients_in_float64(parts):
    heads, states, codebooks, labels = parts
    heads.double()
    leaves = (states.detach().double().requires_grad_(), codebooks.detach().double().requires_grad_())
    assert torch.autograd.gradcheck(lambda s, c: heads(s, c, labels), leaves)


def test_bf16_is_float32_within_rounding(parts):
    heads, states, codebooks, labels = parts
    leaves = [states, heads.weight, heads.bias, codebooks]
    reference = plain_loss(*parts)
    with torch.autocast("cpu", torch.bfloat16):
        ours = heads(states, codebooks, labels)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, reference, rtol=1e-2, atol=0)
    for mine, theirs in zip(gradients(ours, leaves), gradients(reference, leaves), strict=True):
        assert mine.dtype == theirs.dtype
        assert (mine - theirs).norm() < 0.03 * theirs.norm()


def test_no_label_at_all_is_no_loss(parts):
    heads, states, codebooks, labels = parts
    for count in (0, TARGETS):
        loss = heads(states[:count], codebooks, torch.full_like(labels[:count], -100))
        loss.backward()
        assert loss == 0 and (heads.weight.grad == 0).all() and torch.isfinite(states.grad).all()


def test_without_gradients_none_are_made(parts):
    heads, states, codebooks, labels = parts
    with torch.no_grad():
        loss = heads(states, codebooks, labels)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain_loss(*parts).detach())
