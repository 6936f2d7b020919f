# Copyright 2026 The FAIR for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Sparse arrays of counts, as scipy has them, without importing it: serving does without."""

from itertools import pairwise
from typing import Any

import numpy as np

COUNTED_ITEMS = 1000  # largest counts kept of an item: of Beauty's sum .9999, of Sports' .999


def largest(matrix: Any, count: int) -> Any:
    """The `count` largest entries of each row of a scipy `csr_array`, no zeros among them."""
    kept = matrix.copy()
    for begin, end in pairwise(matrix.indptr):
        if end - begin > count:
            row = kept.data[begin:end]
            row[np.argpartition(row, -count)[:-count]] = 0
    kept.eliminate_zeros()
    return kept
