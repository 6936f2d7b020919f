"""Reads item files into one row an item: its id, its title and the text that is encoded."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets

from data_fair.caching import dataset_from_records
from data_fair.files import StrPath, as_paths, column_names, place, read_records
from data_fair.item_text import DEFAULT_TEXT_FIELDS, field_text, item_text, short_title
from data_fair.repeats import first_repeat

ID_COLUMNS = ("item_id", "id", "asin", "parent_asin")
ITEM_FEATURES = datasets.Features({name: datasets.Value("string") for name in ("item_id", "title", "text")})


def read_items(
    paths: StrPath | Sequence[StrPath],
    *,
    id_column: str | None = None,
    title_column: str = "title",
    text_fields: Sequence[str] | None = None,
    allow_items_without_text: bool = False,
    cache_dir: StrPath | None = None,
) -> datasets.Dataset:
    """Reads one or more item files; rows keep the order of the files.

    The text is the non-empty fields joined with ". ", HTML entities resolved and white space collapsed. Lists are
    joined: a path of categories with " > ", anything else with ", ".

    Args:
        paths: CSV, JSON lines (each plain or .gz) or Parquet.
        id_column: default: the first of item_id, id, asin, parent_asin that the file has; numbers become strings.
        title_column: what names an item in results; where it is empty, the first words (80 characters) of the text.
        text_fields: which fields make the text, in this order; default: those of `DEFAULT_TEXT_FIELDS` that exist.
        allow_items_without_text: keep such items with the text "" instead of raising an error.
        cache_dir: where to keep the result; default: the cache of `datasets`.

    Returns:
        A Dataset with `item_id`, `title` and `text`, all strings.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: unknown extension, empty or damaged file, missing columns, an id that stands twice, an item without
            id or without text (file and line are named).
    """
    files = as_paths(paths)
    id_columns, columns = [], set()
    for path in files:
        found = column_names(path)
        columns.update(found)
        id_columns.append(choose_id_column(path, found, id_column))
        check_text_columns(path, found, title_column, text_fields, allow_items_without_text)
    if nowhere := [name for name in text_fields or () if name not in columns]:
        raise ValueError(
            f"No items file has {', '.join(nowhere)}, but {sorted(columns)}: set text_fields to some of these."
        )
    return dataset_from_records(
        _items,
        files,
        ITEM_FEATURES,
        cache_dir,
        id_columns=tuple(id_columns),
        title_column=title_column,
        text_fields=default_fields(title_column) if text_fields is None else tuple(text_fields),
        allow_items_without_text=allow_items_without_text,
    )


def choose_id_column(path: Path, found: Sequence[str], wanted: str | None) -> str:
    """The id column of a file with the columns `found`."""
    for name in ID_COLUMNS if wanted is None else (wanted,):
        if name in found:
            return name
    looked_for = repr(wanted) if wanted else f"{', '.join(ID_COLUMNS)}"
    raise ValueError(
        f"{path} has no id column ({looked_for}) but {list(found)}: set id_column (--item_id_column) to one of these."
    )


def check_text_columns(
    path: Path,
    found: Sequence[str],
    title_column: str,
    fields: Sequence[str] | None,
    allow_items_without_text: bool = False,
) -> None:
    """Raises a ValueError where the file has none of the text fields, or no title column of a name someone chose."""
    if title_column != "title" and title_column not in found:
        raise ValueError(f"{path} has no column {title_column!r} but {list(found)}: set title_column to one of these.")
    wanted = default_fields(title_column) if fields is None else fields
    if not allow_items_without_text and not set(wanted).intersection(found):
        raise ValueError(f"{path} has none of the text fields {list(wanted)} but {list(found)}: set text_fields.")


def default_fields(title_column: str) -> tuple[str, ...]:
    """`DEFAULT_TEXT_FIELDS` with the title under the name it has in the file."""
    return tuple(title_column if name == "title" else name for name in DEFAULT_TEXT_FIELDS)


def make_item(
    where: str,
    record: dict[str, Any],
    id_column: str,
    title_column: str,
    text_fields: Sequence[str],
    allow_items_without_text: bool,
) -> dict[str, str]:
    """One row of the result; `where` names the record in errors."""
    item_id = record.get(id_column)
    if item_id is None or isinstance(item_id, bool | list | dict) or not str(item_id).strip():
        raise ValueError(f"{where} has no item id in {id_column!r}: fill it in or leave the record out.")
    text = item_text(record, text_fields)
    if not text and not allow_items_without_text:
        raise ValueError(
            f"{where}: the item {str(item_id)!r} has no text in {list(text_fields)}: set text_fields, or pass "
            "allow_items_without_text."
        )
    title = field_text(title_column, record.get(title_column)) or short_title(text) or str(item_id)
    return {"item_id": str(item_id), "title": title, "text": text}


def _items(paths: Sequence[Path], id_columns: Sequence[str], **arguments: Any) -> Iterator[dict[str, str]]:
    hashes = array("q")
    for path, id_column in zip(paths, id_columns, strict=True):
        for number, record in read_records(path):
            item = make_item(place(path, number), record, id_column, **arguments)
            hashes.append(hash(item["item_id"]))
            yield item

    def again() -> Iterator[tuple[str, str]]:
        for path, id_column in zip(paths, id_columns, strict=True):
            yield from ((str(record[id_column]), place(path, number)) for number, record in read_records(path))

    if repeat := first_repeat(hashes, again):
        item_id, where, first = repeat
        raise ValueError(f"{where} has the item id {item_id!r} again, first in {first}: keep one.")
