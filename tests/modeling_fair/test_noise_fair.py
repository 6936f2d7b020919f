import pytest
import torch

from modeling_fair.noise_fair import add_noise, keyed_uniform

KEY = {"codebook_size": 16, "mask_probability": 0.1, "replace_probability": 0.2, "seed": 3, "step": 5}


@pytest.fixture
def codes():
    torch.manual_seed(0)
    return torch.randint(0, 16, (50, 20, 8))


def test_rates_are_those_asked_for(codes):
    noisy = add_noise(codes, torch.arange(50), **KEY)
    masked, replaced = noisy == 16, (noisy != codes) & (noisy != 16)
    assert masked.float().mean().item() == pytest.approx(0.1, abs=0.015)
    assert replaced.float().mean().item() == pytest.approx(0.2, abs=0.02)


def test_a_replacement_is_any_other_code_of_the_codebook():
    codes = torch.full((2000, 1, 1), 7)
    noisy = add_noise(codes, torch.arange(2000), **{**KEY, "mask_probability": 0.0, "replace_probability": 1.0})
    counts = torch.bincount(noisy.flatten(), minlength=17)
    assert counts[7] == 0 and counts[16] == 0
    assert (counts[:16][torch.arange(16) != 7] > 80).all()


def test_noise_hangs_on_the_key_alone(codes):
    whole = add_noise(codes, torch.arange(50), **KEY)
    assert torch.equal(whole, add_noise(codes, torch.arange(50), **KEY))
    halves = [add_noise(codes[i::2], torch.arange(50)[i::2], **KEY) for i in (0, 1)]
    assert torch.equal(halves[0], whole[0::2]) and torch.equal(halves[1], whole[1::2])
    shorter = add_noise(codes[:, :7], torch.arange(50), **KEY)
    assert torch.equal(shorter, whole[:, :7])


@pytest.mark.parametrize("part", ["seed", "step"])
def test_every_part_of_the_key_counts(codes, part):
    one, other = (add_noise(codes, torch.arange(50), **{**KEY, part: value}) for value in (1, 2))
    assert not torch.equal(one, other)
    assert not torch.equal(*(add_noise(codes[:1], torch.tensor([example]), **KEY) for example in (1, 2)))


def test_numbers_are_uniform_and_uncorrelated():
    numbers = keyed_uniform("kind", 0, 0, torch.arange(200), 25, 8)
    assert ((numbers >= 0) & (numbers < 1)).all()
    counts = torch.histc(numbers, bins=10, min=0, max=1)
    assert ((counts / numbers.numel() - 0.1).abs() < 0.01).all()
    shifted = keyed_uniform("kind", 0, 1, torch.arange(200), 25, 8)
    others = keyed_uniform("code", 0, 0, torch.arange(200), 25, 8)
    for a, b in (
        (numbers, shifted),
        (numbers, others),
        (numbers[1:], numbers[:-1]),
        (numbers[:, 1:], numbers[:, :-1]),
    ):
        correlation = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        assert abs(correlation) < 0.02


def test_no_noise_changes_nothing(codes):
    silent = {**KEY, "mask_probability": 0.0, "replace_probability": 0.0}
    assert torch.equal(add_noise(codes, torch.arange(50), **silent), codes)
