"""Noise for NRT, keyed by seed, step and example: the same on one process as on two, and after a resume as without
one, because no generator's state is involved."""

import torch

_STREAM = {"kind": 1, "code": 2}


def _mix(x: torch.Tensor) -> torch.Tensor:
    """The finaliser of splitmix64 (Steele et al., 2014): int64 -> int64, wrapping. The masks make the arithmetic
    shifts of signed integers logical ones."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * -4658895280553007687
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * -7723592293110705685
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def keyed_uniform(
    stream: str, seed: int, step: int, example_ids: torch.Tensor, items: int, num_codebooks: int
) -> torch.Tensor:
    """Uniform numbers in [0, 1), (examples, items, num_codebooks), float64. A number hangs on the key, the item's
    position and the codebook alone, so padding and batching change nothing."""
    key = torch.tensor([_STREAM[stream]], dtype=torch.long, device=example_ids.device)
    for part in (seed, step):
        key = _mix(key * 31 + part)
    of_example = _mix(key + _mix(example_ids.long()))[:, None, None]
    position = torch.arange(items * num_codebooks, device=example_ids.device).view(1, items, num_codebooks)
    return ((_mix(of_example + _mix(position)) >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def add_noise(
    codes: torch.Tensor,
    example_ids: torch.Tensor,
    *,
    codebook_size: int,
    mask_probability: float,
    replace_probability: float,
    seed: int,
    step: int,
) -> torch.Tensor:
    """Mask or replace single codes of histories (NRT, arXiv 2512.11254).

    Args:
        codes: (examples, items, num_codebooks).
        example_ids: a number for each example that stays its own, (examples,).
        codebook_size: also the mask code.
        mask_probability, replace_probability: share of codes that become the mask code, or another code of the same
            codebook, each with the same probability.
        seed, step: further parts of the key.

    Returns:
        The noisy codes, same shape.
    """
    key = (seed, step, example_ids, codes.shape[1], codes.shape[2])
    kind = keyed_uniform("kind", *key)
    shift = 1 + (keyed_uniform("code", *key) * (codebook_size - 1)).long()
    noisy = torch.where(kind < mask_probability + replace_probability, (codes + shift) % codebook_size, codes)
    return torch.where(kind < mask_probability, codebook_size, noisy)
