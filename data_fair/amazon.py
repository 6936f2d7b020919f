"""Reads raw Amazon review and metadata files of the 2014, 2018 and 2023 collections."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import datasets

from data_fair.caching import dataset_from_records
from data_fair.files import StrPath, as_paths, keys_of, place, read_literals, read_records
from data_fair.interactions import read_interactions
from data_fair.items import ITEM_FEATURES, check_text_columns, default_fields, make_item


@dataclass(frozen=True)
class _Collection:
    """The names one collection uses; `renamed` brings metadata fields to the names of `DEFAULT_TEXT_FIELDS`."""

    user: str
    item: str
    time: str
    renamed: dict[str, str] = field(default_factory=dict)


COLLECTIONS = {
    2014: _Collection("reviewerID", "asin", "unixReviewTime"),
    2018: _Collection("reviewerID", "asin", "unixReviewTime", {"category": "categories", "feature": "features"}),
    2023: _Collection("user_id", "parent_asin", "timestamp", {"store": "brand"}),
}


def amazon_interactions(
    path: StrPath, year: int, cache_dir: StrPath | None = None, k_core: int = 0
) -> datasets.Dataset:
    """Reads a raw review file as `read_interactions` does.

    Times are seconds since 1970 in 2014 and 2018, milliseconds in 2023. Those of 2014 and 2018 have day resolution,
    and reviews of a user on one day keep the order of the file (the published files stand in ASIN order).

    Args:
        path: JSON lines (`reviews_<Category>_5.json.gz` and the like), or the CSV files of 2023.
        year: 2014, 2018 or 2023.
        cache_dir: where to keep the result; default: the cache of `datasets`.
        k_core: as in `read_interactions`; 0, the default, for files that are filtered already.

    Raises:
        FileNotFoundError, ValueError: as `read_interactions`; another year.
    """
    names = _collection(year)
    return read_interactions(
        path,
        user_column=names.user,
        item_column=names.item,
        timestamp_column=names.time,
        k_core=k_core,
        cache_dir=cache_dir,
    )


def amazon_items(
    path: StrPath,
    year: int,
    keep: Collection[str] | None = None,
    *,
    title_column: str = "title",
    text_fields: Sequence[str] | None = None,
    allow_items_without_text: bool = False,
    cache_dir: StrPath | None = None,
) -> datasets.Dataset:
    """Reads a raw metadata file as `read_items` does; the lines of 2014 are Python literals, which are not run.

    Fields have one name in all years: `categories` (2018: category), `features` (2018: feature), `brand` (2023:
    store). Where an id stands twice, as in the files of 2018, the first line counts.

    Args:
        path: `meta_<Category>.json.gz` or `.jsonl.gz`.
        year: 2014, 2018 or 2023.
        keep: the ids to keep, others are left out (the files are far larger than a filtered catalogue); default: all.
        title_column, text_fields, cache_dir: as in `read_items`.
        allow_items_without_text: keep items without text, with the text ""; ids of `keep` without a line in the file
            are appended in sorted order, with the id for a title.

    Returns:
        A Dataset with `item_id`, `title` and `text`, in file order.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: as `read_items`; another year; ids of `keep` that the file lacks, where not allowed.
    """
    names = _collection(year)
    files = as_paths(path)
    found = keys_of(islice(_records(files[0], year), 1000))
    if names.item not in found:
        raise ValueError(f"{files[0]} has no field {names.item!r} but {found}: is it of another year than {year}?")
    check_text_columns(files[0], found, title_column, text_fields)
    return dataset_from_records(
        _items,
        files,
        ITEM_FEATURES,
        cache_dir,
        year=year,
        keep=None if keep is None else tuple(sorted(set(keep))),
        title_column=title_column,
        text_fields=default_fields(title_column) if text_fields is None else tuple(text_fields),
        allow_items_without_text=allow_items_without_text,
    )


def _collection(year: int) -> _Collection:
    if year not in COLLECTIONS:
        raise ValueError(f"year is {year!r}: give one of {list(COLLECTIONS)}.")
    return COLLECTIONS[year]


def _records(path: Path, year: int) -> Iterator[tuple[int, dict[str, Any]]]:
    renamed = COLLECTIONS[year].renamed
    for number, record in read_literals(path) if year == 2014 else read_records(path):
        for old, new in renamed.items():
            if old in record:
                record.setdefault(new, record[old])
        yield number, record


def _items(
    paths: Sequence[Path],
    year: int,
    keep: Sequence[str] | None,
    title_column: str,
    text_fields: Sequence[str],
    allow_items_without_text: bool,
) -> Iterator[dict[str, str]]:
    id_column = COLLECTIONS[year].item
    wanted = None if keep is None else set(keep)
    seen: set[str] = set()
    for path in paths:
        for number, record in _records(path, year):
            item_id = str(record.get(id_column))
            if item_id in seen or (wanted is not None and item_id not in wanted):
                continue
            item = make_item(
                place(path, number), record, id_column, title_column, text_fields, allow_items_without_text
            )
            seen.add(item["item_id"])
            yield item
    missing = sorted((wanted or set()) - seen)
    if missing and not allow_items_without_text:
        raise ValueError(
            f"{paths[0]} lacks {len(missing)} of the items to keep, {missing[0]!r} for one: pass "
            "allow_items_without_text to keep them without text."
        )
    for item_id in missing:
        yield {"item_id": item_id, "title": item_id, "text": ""}
