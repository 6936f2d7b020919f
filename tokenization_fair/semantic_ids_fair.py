"""Semantic IDs: the code tuples of a catalogue, their collisions and their quality."""

import heapq
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from .codebooks_fair import Codebooks

ALTERNATIVES = 512  # cheapest single changes that are combined to pairs once every single change is taken


def equal_codes(codes: np.ndarray) -> list[np.ndarray]:
    """Groups of rows that hold equal codes, each in catalogue order; items with codes of their own are in none.

    Args:
        codes: (items, num_codebooks).
    """
    if len(codes) == 0:
        return []
    _, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    groups = np.split(order, np.cumsum(counts)[:-1])
    return [group for group in groups if len(group) > 1]


def _changes(distances: np.ndarray, codes: np.ndarray) -> Iterator[np.ndarray]:
    """Code tuples near `codes`, in order of added distance: all with one code changed, then pairs of changes."""
    added = distances - distances[np.arange(len(codes)), codes][:, None]
    added[np.arange(len(codes)), codes] = np.inf
    order = np.argsort(added, axis=None, kind="stable")[: added.size - len(codes)]
    digits, values = np.unravel_index(order, added.shape)
    for digit, value in zip(digits, values, strict=True):
        changed = codes.copy()
        changed[digit] = value
        yield changed
    pairs = (
        (added[digits[i], values[i]] + added[digits[j], values[j]], i, j)
        for i, j in combinations(range(min(ALTERNATIVES, len(order))), 2)
        if digits[i] != digits[j]
    )
    for _, i, j in heapq.nsmallest(ALTERNATIVES**2 // 2, pairs):
        changed = codes.copy()
        changed[digits[i]], changed[digits[j]] = values[i], values[j]
        yield changed


def resolve_collisions(
    codes: np.ndarray, codebooks: Codebooks, vectors: np.ndarray, first_new: int = 0
) -> tuple[np.ndarray, int]:
    """Give items with equal codes codes of their own: the first of a group (or the one that had them before) keeps
    them, each other one takes the free tuple nearest to its vector.

    Args:
        codes: of the whole catalogue, (items, num_codebooks).
        codebooks: what encoded them.
        vectors: of the rows from `first_new` on, (items - first_new, dim).
        first_new: rows below it are never changed.

    Returns:
        The codes (a copy) and how many items were moved. An item keeps codes it shares where no free tuple is near,
        as in codebooks too small for the catalogue.
    """
    codes = codes.copy()
    moved = 0
    taken: set[bytes] | None = None
    for group in equal_codes(codes):
        taken = taken if taken is not None else {row.tobytes() for row in codes}
        # Alternatives are made for each item, but items of (nearly) the same vector go on where the one before them
        # stopped, or large groups of equal texts would take quadratic time.
        previous: tuple[np.ndarray, Iterator[np.ndarray]] | None = None
        for row in group[1:]:
            if row < first_new:
                continue
            distances = codebooks.distances(codebooks.rotate(vectors[row - first_new][None]))[0]
            if previous is None or not np.allclose(previous[0], distances, rtol=1e-3):
                previous = (distances, _changes(distances.copy(), codes[row].copy()))
            free = next((changed for changed in previous[1] if changed.tobytes() not in taken), None)
            if free is not None:
                codes[row] = free
                taken.add(free.tobytes())
                moved += 1
    return codes, moved


def id_quality(codes: np.ndarray, codebook_size: int) -> dict[str, float | int]:
    """How well codes tell items apart.

    Args:
        codes: (items, num_codebooks).
        codebook_size: codes a codebook has.

    Returns:
        items; `shared_ids`, items whose codes another item has too; `largest_group`, items with the same codes at the
        most; `code_use`, the share of each codebook's codes that some item has, mean and least over codebooks;
        `entropy_bits`, of the codes of each codebook, mean and least (log2 of the codebook's size at the most).
    """
    groups = equal_codes(codes)
    use, entropy = [], []
    for column in codes.T:
        counts = np.bincount(column, minlength=codebook_size)
        shares = counts[counts > 0] / max(len(codes), 1)
        use.append((counts > 0).mean())
        entropy.append(-(shares * np.log2(shares)).sum())
    return {
        "items": len(codes),
        "shared_ids": sum(len(group) for group in groups),
        "largest_group": max((len(group) for group in groups), default=1 if len(codes) else 0),
        "code_use_mean": float(np.mean(use)),
        "code_use_least": float(np.min(use)),
        "entropy_bits_mean": float(np.mean(entropy)),
        "entropy_bits_least": float(np.min(entropy)),
    }
