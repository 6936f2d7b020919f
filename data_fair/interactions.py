"""Reads interaction logs of any size into one time-ordered sequence a user, sorted by DuckDB on disk."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import datasets
import duckdb

from data_fair.caching import cache_folder, file_stamps, fingerprint
from data_fair.files import StrPath, as_paths, column_names
from data_fair.grouping import group_sorted_rows
from data_fair.staging import filter_k_core, load_log, write_sorted


def read_interactions(
    paths: StrPath | Sequence[StrPath],
    *,
    user_column: str = "user_id",
    item_column: str = "item_id",
    timestamp_column: str | None = "timestamp",
    k_core: int = 0,
    extra_columns: Sequence[str] = (),
    cache_dir: StrPath | None = None,
) -> datasets.Dataset:
    """Reads one or more files of (user, item, time) rows, in any order, into one sequence a user, oldest first.

    Rows with equal times keep the order they have in the file (files: the order given), which matters where times
    have day resolution. Rows that stand twice are kept twice: a user may meet an item again. Sorting spills to disk.
    The result is cached under a fingerprint of the files and of every argument.

    Args:
        paths: CSV (also .tsv; comma, tab, semicolon or bar), JSON lines (.json, .jsonl, .ndjson), each plain or .gz,
            or Parquet.
        user_column, item_column: the names of the id columns; ids given as numbers become strings.
        timestamp_column: numbers in any unit (kept as they are), or ISO dates and times (become seconds since 1970,
            UTC where no zone is given). None: the order of the rows is the order in time.
        k_core: keep only users and items with at least this many rows, repeated until nothing more falls away.
        extra_columns: carried along, one list a user parallel to `item_ids`, as integers, floats or booleans where
            every value is one, else as strings; missing values stay None.
        cache_dir: where to keep the result; default: the cache of `datasets`.

    Returns:
        A Dataset with `user_id` (string), `item_ids` (list of strings), `timestamps` (list of int64 where all are
        whole, else float64; left out without a timestamp column) and a list for each extra column. Users stand in the
        order of their first (kept) row.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: unknown extension, missing columns, empty or damaged file, a user, item or time that is missing or
            unreadable (file and line are named), or a k-core that leaves nothing.
    """
    files = as_paths(paths)
    extras = list(extra_columns)
    reserved = sorted({"user_id", "item_ids", "timestamps"}.intersection(extras))
    if reserved:
        raise ValueError(f"extra_columns must not hold {reserved[0]!r}, the name of a column of the result.")
    if k_core < 0:
        raise ValueError(f"k_core is {k_core}: give 0 for no filter, or the least number of rows a user and an item.")
    columns = {"user_column": user_column, "item_column": item_column}
    if timestamp_column is not None:
        columns["timestamp_column"] = timestamp_column
    name = fingerprint("interactions", file_stamps(files), columns, extras, k_core)
    folder = cache_folder(cache_dir)
    target = folder / f"sequences-{name}.parquet"
    if not target.exists():
        for path in files:
            _check_columns(path, columns, extras)
        with tempfile.TemporaryDirectory(prefix="reading-", dir=folder) as work:
            finished = _sort_and_group(Path(work), files, columns, extras, k_core)
            os.replace(finished, target)
    return datasets.Dataset.from_parquet(str(target), cache_dir=str(folder))


def _check_columns(path: Path, columns: dict[str, str], extras: Sequence[str]) -> None:
    found = column_names(path)
    for argument, name in [*columns.items(), *(("extra_columns", extra) for extra in extras)]:
        if name not in found:
            or_none = ", or to None (--timestamp_column none) if rows are in order of time"
            raise ValueError(
                f"{path} has no column {name!r} but {found}: set {argument} to one of these"
                f"{or_none if argument == 'timestamp_column' else ''}."
            )


def _sort_and_group(
    work: Path, files: Sequence[Path], columns: dict[str, str], extras: Sequence[str], k_core: int
) -> Path:
    """Makes the Parquet file of sequences in the folder `work`; what DuckDB spills lies there too."""
    rows = work / "sorted.parquet"
    with duckdb.connect(str(work / "log.duckdb")) as database:
        database.execute("SET temp_directory = $1", [str(work / "spill")])
        database.execute("SET preserve_insertion_order = true")
        database.execute("SET TimeZone = 'UTC'")
        # DuckDB draws its bar on stdout, where a file or a pipe must stay clean.
        database.execute("SET enable_progress_bar = $1", [sys.stdout.isatty()])
        load_log(database, files, list(columns.values()), extras, has_time="timestamp_column" in columns)
        filter_k_core(database, k_core, files)
        write_sorted(database, rows)
    finished = work / "sequences.parquet"
    group_sorted_rows(rows, finished, has_time="timestamp_column" in columns, extras=extras)
    return finished
