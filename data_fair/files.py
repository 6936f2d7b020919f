"""Reads CSV, JSON-lines and Parquet files record by record, with errors that name the file and the line."""

from __future__ import annotations

import ast
import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

StrPath = str | PathLike[str]

FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "jsonl",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
DELIMITERS = (",", "\t", ";", "|")
_BROKEN_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)
_CHUNK_BYTES = 1 << 20
_RECORDS_SEARCHED_FOR_NAMES = 1000


def as_paths(paths: StrPath | Sequence[StrPath]) -> list[Path]:
    """One path or several, as a list of existing absolute files.

    Raises:
        FileNotFoundError: a path is no file.
        ValueError: no path was given.
    """
    given = [paths] if isinstance(paths, str | PathLike) else list(paths)
    if not given:
        raise ValueError("No file was given: pass at least one path.")
    found = [Path(path).expanduser().resolve() for path in given]
    for path in found:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not a file: check the path.")
    return found


def is_gzip(path: Path) -> bool:
    """Whether the name says that the file is compressed."""
    return path.suffix.lower() == ".gz"


def format_of(path: Path) -> str:
    """`csv`, `jsonl` or `parquet`, by the file's name; a last `.gz` is left aside.

    Raises:
        ValueError: the extension is none of those known.
    """
    suffix = Path(path.stem).suffix.lower() if is_gzip(path) else path.suffix.lower()
    if suffix not in FORMATS or (suffix == ".parquet" and is_gzip(path)):
        raise ValueError(
            f"{path} has an unknown extension: name it {', '.join(FORMATS)}, each but .parquet optionally with .gz."
        )
    return FORMATS[suffix]


def place(path: Path, number: int) -> str:
    """How messages name a record: Parquet has rows, the text formats have lines (both from 1)."""
    return f"{path}, {'row' if path.suffix.lower() == '.parquet' else 'line'} {number}"


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if is_gzip(path) else path.open("rb")


def _broken_gzip(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is a broken gzip file ({error}): download or compress it again.")


def _empty(path: Path) -> ValueError:
    return ValueError(f"{path} is empty: it holds no record.")


def check_gzip(path: Path) -> None:
    """Decompresses a `.gz` file once and throws the bytes away (DuckDB does not verify the checksum).

    Raises:
        ValueError: the file is cut short, damaged or no gzip file.
    """
    if not is_gzip(path):
        return
    try:
        with _open(path) as file:
            while file.read(_CHUNK_BYTES):
                pass
    except _BROKEN_GZIP as error:
        raise _broken_gzip(path, error) from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, text with its line end) for every line that is not blank.

    Raises:
        ValueError: broken gzip, bytes that are not UTF-8, or no such line at all.
    """
    found = False
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, start=1):
                try:
                    line = raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise ValueError(f"{place(path, number)} is not UTF-8 text: convert the file to UTF-8.") from error
                if line.strip():
                    found = True
                    yield number, line
    except _BROKEN_GZIP as error:
        raise _broken_gzip(path, error) from error
    if not found:
        raise _empty(path)


class CsvHeader(NamedTuple):
    """What the first line of a CSV file with text tells; `line` is its number from 1."""

    names: list[str]
    delimiter: str
    line_end: str
    line: int


def csv_header(path: Path) -> CsvHeader:
    """Reads the header; the delimiter is the one of comma, tab, semicolon and bar that stands most often in it.

    Raises:
        ValueError: an empty file, or a column name that stands twice.
    """
    number, line = next(read_lines(path))
    line = line.removeprefix("\ufeff")
    delimiter = max(DELIMITERS, key=line.count)
    try:
        names = next(csv.reader([line], delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise ValueError(f"{place(path, number)} is no CSV header ({error}).") from error
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{path} has two columns named {twice[0]!r}: rename one.")
    return CsvHeader(names, delimiter, "\r\n" if line.endswith("\r\n") else "\n", number)


def _csv_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    names, delimiter, _, number = csv_header(path)

    def text() -> Iterator[str]:
        # A record may span lines and blank lines are skipped: remember where the reader stands.
        nonlocal number
        for line_number, line in read_lines(path):
            number = line_number
            yield line

    rows = csv.reader(text(), delimiter=delimiter, strict=True)
    try:
        next(rows)
        row = None
        for row in rows:
            if len(row) != len(names):
                raise ValueError(
                    f"{place(path, number)} has {len(row)} fields and the header {len(names)}: "
                    "quote fields that hold the delimiter."
                )
            yield number, dict(zip(names, row, strict=True))
        if row is None:
            raise _empty(path)
    except csv.Error as error:
        raise ValueError(f"{place(path, number)} is malformed CSV ({error}).") from error


def _json_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in read_lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place(path, number)} is malformed JSON ({error}): write one object a line.") from error
        if not isinstance(record, dict):
            raise ValueError(f"{place(path, number)} is not a JSON object: write one object a line.")
        yield number, record


def _parquet_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa

    number = 0
    try:
        with _open_parquet(path) as file:
            for batch in file.iter_batches():
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except (pa.ArrowException, OSError) as error:
        raise _broken_parquet(path, error) from error
    if not number:
        raise _empty(path)


def _open_parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _broken_parquet(path, error) from error


def _broken_parquet(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is no readable Parquet file ({error}): write or fetch it again.")


def read_literals(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Like `read_records` for files with one Python dict literal a line (nothing in them is run).

    Raises:
        ValueError: a line that is no such literal, and all that `read_lines` raises.
    """
    for number, line in read_lines(path):
        try:
            record = ast.literal_eval(line.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
            raise ValueError(f"{place(path, number)} is no Python literal: is it a file of another year?") from error
        if not isinstance(record, dict):
            raise ValueError(f"{place(path, number)} is no Python dict: is it a file of another year?")
        yield number, record


def read_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line or row number from 1, record) of one CSV, JSON-lines or Parquet file, plain or gzipped.

    CSV values are strings, an empty field "". A CSV record that spans lines has the number of its last line.

    Raises:
        ValueError: unknown extension, empty file, broken gzip, not UTF-8, malformed JSON, CSV or Parquet.
    """
    readers = {"csv": _csv_records, "jsonl": _json_records, "parquet": _parquet_records}
    return readers[format_of(path)](path)


def column_names(path: Path) -> list[str]:
    """The columns of a file; for JSON lines the keys of its first 1000 records, in order of appearance.

    Raises:
        ValueError: as `read_records`.
    """
    kind = format_of(path)
    if kind == "csv":
        return csv_header(path).names
    if kind == "parquet":
        with _open_parquet(path) as file:
            return file.schema_arrow.names
    return keys_of(islice(_json_records(path), _RECORDS_SEARCHED_FOR_NAMES))


def keys_of(records: Iterator[tuple[int, dict[str, Any]]]) -> list[str]:
    """All keys of the records given, in order of appearance."""
    return list(dict.fromkeys(key for _, record in records for key in record))
