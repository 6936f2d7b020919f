"""Finds names that stand twice in files of any length: 8 bytes a name, and a second reading where one may."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable

import numpy as np


def first_repeat(hashes: array, read: Callable[[], Iterable[tuple[str, str]]]) -> tuple[str, str, str] | None:
    """The first name that stands twice.

    Args:
        hashes: `hash(name)` of every name, of type "q".
        read: reads the names again, as (name, where it stands); called only where two hashes are equal.

    Returns:
        (name, where it stands again, where it stood first), or None.
    """
    values, counts = np.unique(np.frombuffer(hashes, np.int64), return_counts=True)
    doubtful = set(values[counts > 1].tolist())
    first: dict[str, str] = {}
    for name, where in read() if doubtful else ():
        if name in first:
            return name, where, first[name]
        if hash(name) in doubtful:
            first[name] = where
    return None
