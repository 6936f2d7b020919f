"""Equal rows among millions, found by sorted 64-bit hashes: 16 bytes a row where a set of Python objects takes 100."""

import numpy as np

CHUNK = 65_536  # rows hashed at once, which bounds memory


def _factors(length: int) -> np.ndarray:
    """(length,) uint64, the powers of an odd constant (of splitmix64), modulo 2**64."""
    return np.cumprod(np.full(length, 0x9E3779B97F4A7C15, dtype=np.uint64))


def hash_rows(rows: np.ndarray) -> np.ndarray:
    """Whole numbers (n, width) -> hashes (n,), uint64."""
    factors = _factors(rows.shape[1])
    hashes: np.ndarray = np.empty(len(rows), dtype=np.uint64)
    for start in range(0, len(rows), CHUNK):
        hashes[start : start + CHUNK] = rows[start : start + CHUNK].astype(np.uint64) @ factors
    return hashes


def hash_strings(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Bytes (total,) that are cut into strings, none of them empty, at `offsets` (n + 1,) -> hashes (n,), uint64."""
    count = len(offsets) - 1
    hashes: np.ndarray = np.empty(count, dtype=np.uint64)
    for first in range(0, count, CHUNK):
        cuts = offsets[first : first + CHUNK + 1]
        starts, lengths = cuts[:-1] - cuts[0], np.diff(cuts)
        position = np.arange(cuts[-1] - cuts[0]) - np.repeat(starts, lengths)
        weighted = data[cuts[0] : cuts[-1]] * _factors(int(lengths.max()))[position]
        hashes[first : first + CHUNK] = np.add.reduceat(weighted, starts)
    return hashes


class HashIndex:
    """Rows by their hashes. Different rows may have one hash: whoever asks compares the rows themselves.

    Args:
        hashes: (n,) uint64.
    """

    def __init__(self, hashes: np.ndarray):
        self.order = np.argsort(hashes, kind="stable")
        self.hashes = hashes[self.order]

    def first(self, hashes: np.ndarray) -> np.ndarray:
        """The first row of each of the hashes (m,), -1 for none."""
        if not len(self.hashes):
            return np.full(len(hashes), -1)
        place = np.searchsorted(self.hashes, hashes).clip(max=len(self.hashes) - 1)
        return np.where(self.hashes[place] == hashes, self.order[place], -1)

    def rows(self, value: np.uint64) -> np.ndarray:
        """The rows of a hash, in ascending order."""
        start, end = np.searchsorted(self.hashes, value), np.searchsorted(self.hashes, value, side="right")
        return self.order[start:end]

    def repeated(self) -> np.ndarray:
        """Rows whose hash another row has too, in ascending order."""
        equal = self.hashes[1:] == self.hashes[:-1]
        shared = np.concatenate([equal, [False]]) | np.concatenate([[False], equal])
        return np.sort(self.order[shared[: len(self.order)]])
