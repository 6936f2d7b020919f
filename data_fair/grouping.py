"""Groups rows that are sorted by user into one row a user, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.utils import tqdm

_ROWS_A_BATCH = 1 << 18


def group_sorted_rows(rows: Path, target: Path, has_time: bool, extras: Sequence[str]) -> None:
    """Reads rows (first, u, i, t where has_time, e0, …) sorted by `first` and writes user_id, item_ids, … to `target`.

    Memory holds one batch of rows and the longest user.
    """
    names = ["item_ids", *(["timestamps"] if has_time else []), *extras]
    with pq.ParquetFile(rows) as file:
        bar = tqdm(total=file.metadata.num_rows, desc="Grouping interactions", unit="row", unit_scale=True)
        writer = None
        with bar:
            for table in _whole_users(file):
                grouped = _group(table, names)
                writer = writer or pq.ParquetWriter(target, grouped.schema)
                writer.write_table(grouped)
                bar.update(table.num_rows)
        if writer:
            writer.close()


def _whole_users(file: pq.ParquetFile) -> Iterator[pa.Table]:
    """Cuts the rows into tables that end where a user ends."""
    rest = file.schema_arrow.empty_table()
    for batch in file.iter_batches(_ROWS_A_BATCH):
        table = pa.concat_tables([rest, pa.Table.from_batches([batch])])
        first = table["first"].to_numpy()
        cut = int(np.searchsorted(first, first[-1]))
        rest = table.slice(cut)
        if cut:
            yield table.slice(0, cut)
    yield rest


def _group(table: pa.Table, names: Sequence[str]) -> pa.Table:
    first = table["first"].to_numpy()
    starts = np.flatnonzero(np.diff(first, prepend=-1))
    offsets = pa.array(np.append(starts, len(first)), pa.int32())
    users = table["u"].take(pa.array(starts))
    values = [table[column].combine_chunks() for column in table.column_names if column not in ("first", "u")]
    lists = [pa.ListArray.from_arrays(offsets, value) for value in values]
    return pa.table([users, *lists], names=["user_id", *names])
