"""Semantic IDs: the code tuples of a catalogue, their collisions and their quality."""

import heapq
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from .codebooks_fair import ENCODE_CHUNK, Codebooks
from .hash_index_fair import HashIndex, hash_rows
from .streaming_fair import ItemVectors

ALTERNATIVES = 512  # cheapest single changes that are combined to pairs once every single change is taken


def equal_codes(codes: np.ndarray) -> list[np.ndarray]:
    """Groups of rows that hold equal codes, each in catalogue order; items with codes of their own are in none.

    Args:
        codes: (items, num_codebooks).
    """
    rows = HashIndex(hash_rows(codes)).repeated()
    if len(rows) == 0:
        return []
    _, inverse, counts = np.unique(codes[rows], axis=0, return_inverse=True, return_counts=True)
    order = rows[np.argsort(inverse, kind="stable")]
    groups = np.split(order, np.cumsum(counts)[:-1])
    return [group for group in groups if len(group) > 1]


def _changes(distances: np.ndarray, codes: np.ndarray) -> Iterator[np.ndarray]:
    """Code tuples near `codes`, in order of added distance: all with one code changed, then pairs of changes."""
    added = distances - distances[np.arange(len(codes)), codes][:, None]
    added[np.arange(len(codes)), codes] = np.inf
    nearest = codes.copy()
    digit, value = np.unravel_index(added.argmin(), added.shape)
    nearest[digit] = value
    yield nearest  # mostly free: the others are sorted only where it is not
    order = np.argsort(added, axis=None, kind="stable")[: added.size - len(codes)]
    digits, values = np.unravel_index(order, added.shape)
    for digit, value in zip(digits[1:], values[1:], strict=True):
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
    codes: np.ndarray, codebooks: Codebooks, vectors: np.ndarray | ItemVectors, first_new: int = 0
) -> tuple[np.ndarray, int]:
    """Give items with equal codes codes of their own: the first of a group (or the one that had them before) keeps
    them, each other one takes the free tuple nearest to its vector.

    Args:
        codes: of the whole catalogue, (items, num_codebooks).
        codebooks: what encoded them.
        vectors: `vectors[rows]` of the rows from `first_new` on, (items - first_new, dim); only those of items that
            may be moved are read.
        first_new: rows below it are never changed.

    Returns:
        The codes (a copy) and how many items were moved. An item keeps codes it shares where no free tuple is near,
        as in codebooks too small for the catalogue.
    """
    resolved = codes.copy()
    moved = 0
    groups = [group[1:][group[1:] >= first_new] for group in equal_codes(codes)]
    rows = np.concatenate([np.zeros(0, np.int64), *groups])
    group_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    # Codes stay taken: the first of a group keeps them.
    index = HashIndex(hash_rows(codes) if len(rows) else np.zeros(0, np.uint64))
    given: set[bytes] = set()

    def is_free(changed: np.ndarray) -> bool:
        held_by = index.rows(hash_rows(changed[None])[0])
        return changed.tobytes() not in given and not (codes[held_by] == changed).all(axis=1).any()

    # Alternatives are made for each item, but items of (nearly) the same vector go on where the one before them
    # stopped, or large groups of equal texts would take quadratic time.
    previous: tuple[int, np.ndarray, Iterator[np.ndarray]] | None = None
    for start in range(0, len(rows), ENCODE_CHUNK):
        chunk = rows[start : start + ENCODE_CHUNK]
        for row, group, vector in zip(chunk, group_of[start:], vectors[chunk - first_new], strict=False):
            distances = codebooks.distances(codebooks.rotate(vector[None]))[0]
            if previous is None or previous[0] != group or not np.allclose(previous[1], distances, rtol=1e-3):
                previous = (group, distances, _changes(distances.copy(), codes[row].copy()))
            free = next(filter(is_free, previous[2]), None)
            if free is not None:
                resolved[row] = free
                given.add(free.tobytes())
                moved += 1
    return resolved, moved


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
