"""The DuckDB side of reading interactions: load files into a table, check and type it, filter it, sort it.

Tables have the columns position (row number over all files, from 0), u (user), i (item), t (time, where there is one)
and e0, e1, … (extra columns).
"""

from __future__ import annotations

import glob
from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NoReturn

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from data_fair.files import check_gzip, csv_header, format_of, is_gzip, place, read_records

_INTEGER = "'-?(0|[1-9][0-9]*)'"
# No leading zeros: "007" is a name, not a number.
_NUMBER = "'-?(0|[1-9][0-9]*)([.][0-9]*)?([eE][-+]?[0-9]+)?'"
_TIME = "coalesce(try_cast(t AS DOUBLE), epoch(try_cast(t AS TIMESTAMPTZ)))"
_EXACT_WHOLE = 2**53  # doubles hold every whole number up to here


def load_log(
    database: duckdb.DuckDBPyConnection,
    files: Sequence[Path],
    names: Sequence[str],
    extras: Sequence[str],
    has_time: bool,
) -> None:
    """Fills the table `log` from the files, in the order given; `names` are the user, item and (has_time) time column.

    Raises:
        ValueError: a damaged file, or a row without a user, item or time (file and line are named).
    """
    columns = _columns(has_time, len(extras))
    database.execute(f"CREATE TABLE raw (position BIGINT, {', '.join(f'{column} VARCHAR' for column in columns)})")
    starts = []
    rows = 0
    for path in files:
        starts.append(rows)
        _insert(database, path, rows, [*names, *extras])
        total = _one(database, "SELECT count(*) FROM raw")[0]
        if total == rows:
            _fail(path, "no row was found")
        rows = total
    _check_rows(database, files, starts, names, has_time)
    typed = [f"{_time_type(database)} AS t"] if has_time else []
    typed += [f"CAST(e{k} AS {_extra_type(database, f'e{k}')}) AS e{k}" for k in range(len(extras))]
    database.execute(f"CREATE TABLE log AS SELECT {', '.join(['position', 'u', 'i', *typed])} FROM raw")
    database.execute("DROP TABLE raw")


def filter_k_core(database: duckdb.DuckDBPyConnection, k_core: int, files: Sequence[Path]) -> None:
    """Drops users and items with fewer than `k_core` rows from `log`, until all that are left have as many.

    Raises:
        ValueError: nothing is left.
    """
    rows = _one(database, "SELECT count(*) FROM log")[0]
    before = None
    while k_core > 1 and rows != before:
        before = rows
        database.execute(
            "CREATE OR REPLACE TABLE log AS SELECT * FROM log"
            f" SEMI JOIN (SELECT u FROM log GROUP BY u HAVING count(*) >= {k_core}) USING (u)"
            f" SEMI JOIN (SELECT i FROM log GROUP BY i HAVING count(*) >= {k_core}) USING (i)"
        )
        rows = _one(database, "SELECT count(*) FROM log")[0]
    if not rows:
        raise ValueError(f"k_core={k_core} leaves no row of {', '.join(map(str, files))}: lower k_core.")


def write_sorted(database: duckdb.DuckDBPyConnection, target: Path) -> None:
    """Writes `log` to a Parquet file by user (in order of first row), time, position; `first` marks the user."""
    columns = [name for (name,) in database.execute("SELECT column_name FROM (DESCRIBE log)").fetchall()]
    order = ["first", "t", "position"] if "t" in columns else ["first", "position"]
    wanted = ", ".join(["first", *(f"log.{column}" for column in columns if column != "position")])
    # Plain rows and not DuckDB's list(): a sort spills to disk, the lists of a grouping stay in memory.
    database.execute(
        f"COPY (SELECT {wanted} FROM log JOIN (SELECT u, min(position) AS first FROM log GROUP BY u) USING (u)"
        f" ORDER BY {', '.join(order)}) TO {_literal(str(target))} (FORMAT parquet)"
    )


def _columns(has_time: bool, extras: int) -> list[str]:
    return ["u", "i", *(["t"] if has_time else []), *(f"e{k}" for k in range(extras))]


def _insert(database: duckdb.DuckDBPyConnection, path: Path, rows: int, names: Sequence[str]) -> None:
    check_gzip(path)
    columns, source = _scan(path, names)
    try:
        database.execute(
            f"INSERT INTO raw SELECT {rows} + row_number() OVER () - 1, {', '.join(columns)} FROM {source}"
        )
    except duckdb.Error as error:
        _fail(path, str(error).splitlines()[0])


def _scan(path: Path, names: Sequence[str]) -> tuple[list[str], str]:
    """(one SQL expression a name, the table function) that read a file as text, nothing guessed."""
    # DuckDB takes * ? [ in a path for a pattern.
    file = _literal(glob.escape(str(path)))
    compression = "'gzip'" if is_gzip(path) else "'none'"
    kind = format_of(path)
    if kind == "parquet":
        return [_parquet_text(path, name) for name in names], f"read_parquet({file})"
    if kind == "jsonl":
        keys = ", ".join(f"{_literal(name)}: 'VARCHAR'" for name in dict.fromkeys(names))
        source = f"read_json({file}, format='newline_delimited', compression={compression}, columns={{{keys}}})"
        return [_identifier(name) for name in names], source
    header = csv_header(path)
    fields = ", ".join(f"'c{k}': 'VARCHAR'" for k in range(len(header.names)))
    source = (
        f"read_csv({file}, auto_detect=false, header=true, skip={header.line - 1}, compression={compression},"
        f" delim={_literal(header.delimiter)}, quote='\"', escape='\"',"
        f" new_line={_literal(header.line_end.encode('unicode_escape').decode())}, columns={{{fields}}})"
    )
    return [f"c{header.names.index(name)}" for name in names], source


def _parquet_text(path: Path, name: str) -> str:
    alike = [other for other in pq.read_schema(path).names if other.lower() == name.lower()]
    if len(alike) > 1:  # SQL does not tell them apart
        raise ValueError(
            f"{path} has columns that differ in case alone, {', '.join(alike)}: drop or rename the others."
        )
    column = _identifier(name)
    text = f"CAST({column} AS VARCHAR)"
    if not pa.types.is_floating(pq.read_schema(path).field(name).type):
        return text
    # NaN is what pandas writes for a missing number.
    return f"CASE WHEN isnan({column}) THEN NULL ELSE {text} END"


def _fail(path: Path, reason: str) -> NoReturn:
    """Reads a file that DuckDB refused line by line, to raise the error that names the line."""
    for _ in read_records(path):
        pass
    raise ValueError(f"{path} cannot be read ({reason}): check that all its lines end alike.")


def _check_rows(
    database: duckdb.DuckDBPyConnection,
    files: Sequence[Path],
    starts: Sequence[int],
    names: Sequence[str],
    has_time: bool,
) -> None:
    bad = "coalesce(trim(u), '') = '' OR coalesce(trim(i), '') = ''"
    if has_time:
        bad += f" OR NOT coalesce(isfinite({_TIME}), false)"
    columns = ", ".join(_columns(has_time, 0))
    found = database.execute(f"SELECT position, {columns} FROM raw WHERE {bad} ORDER BY position LIMIT 1").fetchone()
    if found is None:
        if has_time:
            _check_times(database, files, starts, names[2])
        return
    position, *values = found
    where = _place_of(position, files, starts)
    for name, value in zip(names, values, strict=True):
        if value is None or not value.strip():
            raise ValueError(f"{where} has no {name}: fill it in or leave the record out.")
    raise ValueError(
        f"{where} has the {names[2]} {values[2]!r}, neither a number nor an ISO date: correct it, or set"
        " timestamp_column to another column, or to None (--timestamp_column none) if rows are in order of time."
    )


def _check_times(database: duckdb.DuckDBPyConnection, files: Sequence[Path], starts: Sequence[int], name: str) -> None:
    """Numbers may be of any unit, so dates cannot stand among them."""
    is_number = "try_cast(t AS DOUBLE) IS NOT NULL"
    number, date = _one(
        database,
        f"SELECT min(position) FILTER ({is_number}), min(position) FILTER (NOT {is_number}) FROM raw",
    )
    if number is not None and date is not None:
        raise ValueError(
            f"{_place_of(date, files, starts)} has a date for its {name} but {_place_of(number, files, starts)} a "
            "number: write all of them alike."
        )


def _place_of(position: int, files: Sequence[Path], starts: Sequence[int]) -> str:
    file = bisect_right(starts, position) - 1
    number, _ = next(islice(read_records(files[file]), position - starts[file], None))
    return place(files[file], number)


def _time_type(database: duckdb.DuckDBPyConnection) -> str:
    """The SQL that makes numbers of times: int64 where all are whole."""
    integers, whole = _one(
        database,
        f"SELECT bool_and(regexp_full_match(t, {_INTEGER}) AND try_cast(t AS BIGINT) IS NOT NULL),"
        f" bool_and({_TIME} = floor({_TIME}) AND abs({_TIME}) <= {_EXACT_WHOLE}) FROM raw",
    )
    if integers:
        return "CAST(t AS BIGINT)"
    return f"CAST({_TIME} AS BIGINT)" if whole else _TIME


def _extra_type(database: duckdb.DuckDBPyConnection, column: str) -> str:
    filled, integers, numbers, truths = _one(
        database,
        f"SELECT count({column}),"
        f" count(*) FILTER (regexp_full_match({column}, {_INTEGER}) AND try_cast({column} AS BIGINT) IS NOT NULL),"
        f" count(*) FILTER (regexp_full_match({column}, {_NUMBER})),"
        f" count(*) FILTER (lower({column}) IN ('true', 'false')) FROM raw",
    )
    for count, kind in ((integers, "BIGINT"), (numbers, "DOUBLE"), (truths, "BOOLEAN")):
        if filled and count == filled:
            return kind
    return "VARCHAR"


def _one(database: duckdb.DuckDBPyConnection, query: str) -> tuple:
    row = database.execute(query).fetchone()
    assert row is not None
    return row


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
