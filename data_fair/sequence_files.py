"""Reads the sequence files of the literature: one line a user, `user item item …`, oldest first."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets

from data_fair.caching import dataset_from_records
from data_fair.files import StrPath, as_paths, place, read_lines
from data_fair.repeats import first_repeat

_STRING = datasets.Value("string")
_FEATURES = datasets.Features({"user_id": _STRING, "item_ids": datasets.List(_STRING)})


def read_sequence_file(path: StrPath, cache_dir: StrPath | None = None) -> datasets.Dataset:
    """Reads `user item item …` lines (any white space between), plain or gzipped, whatever the file's extension.

    Blank lines are skipped; an item may repeat in a line.

    Args:
        path: the file; a name that ends in .gz is decompressed.
        cache_dir: where to keep the result; default: the cache of `datasets`.

    Returns:
        A Dataset with `user_id` (string) and `item_ids` (list of strings), in file order.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: an empty file, broken gzip, a line that is not UTF-8, a user without items or a user seen before
            (the line is named).
    """
    return dataset_from_records(_sequences, as_paths(path), _FEATURES, cache_dir)


def _sequences(paths: Sequence[Path]) -> Iterator[dict[str, object]]:
    hashes = array("q")
    for path in paths:
        for number, line in read_lines(path):
            user, *items = line.split()
            if not items:
                raise ValueError(f"{place(path, number)} has the user {user!r} and no item: write `user item item …`.")
            hashes.append(hash(user))
            yield {"user_id": user, "item_ids": items}

    def again() -> Iterator[tuple[str, str]]:
        for path in paths:
            yield from ((line.split()[0], place(path, number)) for number, line in read_lines(path))

    if repeat := first_repeat(hashes, again):
        user, where, first = repeat
        raise ValueError(f"{where} has the user {user!r} again, first in {first}: write one line a user.")
