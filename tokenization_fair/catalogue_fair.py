"""The catalogue: the items that have codes, in rows, with the titles that name them."""

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any

import numpy as np

from .hash_index_fair import CHUNK, HashIndex, hash_strings
from .tensors_fair import read_tensors, write_tensors

UTF8 = ("utf-8", "surrogatepass")  # any string that Python holds can be asked for


def is_missing(value: Any) -> bool:
    """Whether an item lacks a field: `None`, and what data frames hold instead, NaN, NaT and NA."""
    return not isinstance(value, str) and str(value) in ("None", "nan", "NaT", "<NA>")


class Strings(Sequence[str]):
    """Strings in one block of bytes: 8 bytes more than its text for each, where a Python string takes 50 more."""

    def __init__(self, strings: Iterable[str] = ()):
        self.data = bytearray()
        self.offsets = array("q", [0])
        for string in strings:
            self.append(string)

    def append(self, string: str) -> None:
        self.data += string.encode(*UTF8)
        self.offsets.append(len(self.data))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: Any) -> Any:
        if not 0 <= row < len(self):
            raise IndexError(f"There is no row {row}: rows are 0 to {len(self) - 1}.")
        return self.data[self.offsets[row] : self.offsets[row + 1]].decode(*UTF8)

    def __iter__(self) -> Iterator[str]:
        return (self.data[start:end].decode(*UTF8) for start, end in pairwise(self.offsets))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Strings) and self.data == other.data and self.offsets == other.offsets

    def __add__(self, other: "Strings") -> "Strings":
        if not len(self):
            return other
        data, offsets = self.tensors()
        more_data, more_offsets = other.tensors()
        return Strings.of(
            np.concatenate([data, more_data]), np.concatenate([offsets, more_offsets[1:] + len(self.data)])
        )

    def tensors(self) -> tuple[np.ndarray, np.ndarray]:
        """The bytes, (total,) uint8, and where strings begin and end in them, (n + 1,) int64: views."""
        return np.frombuffer(self.data, np.uint8), np.frombuffer(self.offsets, np.int64)

    @classmethod
    def of(cls, data: np.ndarray, offsets: np.ndarray) -> "Strings":
        """What `tensors` gave.

        Raises:
            ValueError: if they do not belong together.
        """
        if (
            offsets.ndim != 1
            or not len(offsets)
            or offsets[0]
            or offsets[-1] != len(data)
            or (np.diff(offsets) < 0).any()
        ):
            raise ValueError("the ends of its strings do not fit its text")
        strings = cls()
        strings.data = bytearray(np.ascontiguousarray(data, np.uint8).data)
        strings.offsets = array("q")
        strings.offsets.frombytes(np.ascontiguousarray(offsets, np.int64).data.cast("B"))
        return strings


class Catalogue:
    """Items in rows. Row numbers are what models, filters and evaluation use for items.

    It keeps ids and titles, `catalogue.item_ids[row]` and `catalogue.titles[row]` ("" for none); of an item's text
    only its codes are left. An item of 10 bytes of id and 50 of title takes about 90 bytes.

    Args:
        items: mappings with `item_id` and, optionally, `title`.

    Raises:
        ValueError: naming the id, for an item without an id or with the id of another.
    """

    def __init__(self, items: Iterable[Mapping[str, Any]] = ()):
        self._hold(Strings(), Strings())
        self.add(items)

    def __len__(self) -> int:
        return len(self.item_ids)

    def _hold(self, item_ids: Strings, titles: Strings) -> None:
        index = HashIndex(hash_strings(*item_ids.tensors()))
        seen: set[str] = set()
        for row in index.repeated().tolist():
            if item_ids[row] in seen:
                raise ValueError(f"The item id {item_ids[row]!r} stands twice: give each item one row.")
            seen.add(item_ids[row])
        self.item_ids, self.titles, self._index = item_ids, titles, index

    def add(self, items: Iterable[Mapping[str, Any]]) -> None:
        """Append items; nothing is appended if one of them is refused."""
        item_ids, titles = Strings(), Strings()
        for item in items:
            item_id, title = item.get("item_id"), item.get("title")
            if is_missing(item_id) or str(item_id) == "":
                raise ValueError(f"An item has no item_id: {dict(item)!r:.200}; give each item one.")
            item_ids.append(str(item_id))
            titles.append("" if is_missing(title) else str(title))
        self._hold(self.item_ids + item_ids, self.titles + titles)

    def add_all(self, other: "Catalogue") -> None:
        """Append the items of another catalogue."""
        self._hold(self.item_ids + other.item_ids, self.titles + other.titles)

    def retitle(self, item_ids: Iterable[str], titles: Iterable[str]) -> int:
        """Give items other titles; ids that are not in the catalogue and empty titles change nothing. Returns how many
        items have another title now."""
        others = {
            row: title
            for row, title in zip(self.rows_of(item_ids).tolist(), titles, strict=True)
            if row >= 0 and title not in ("", self.titles[row])
        }
        if others:
            self.titles = Strings(others.get(row, title) for row, title in enumerate(self.titles))
        return len(others)

    def remove(self, item_ids: Sequence[str]) -> np.ndarray:
        """Remove items; the rows behind them move up. Returns the rows that are left, by their old numbers.

        Raises:
            ValueError: naming an id that is not in the catalogue.
        """
        kept = np.ones(len(self), dtype=bool)
        kept[[self.row(item_id) for item_id in item_ids]] = False
        rows = np.flatnonzero(kept)
        self._hold(*(Strings(map(strings.__getitem__, rows.tolist())) for strings in (self.item_ids, self.titles)))
        return rows

    def rows_of(self, item_ids: Iterable[str]) -> np.ndarray:
        """Rows of items, (n,) int64, -1 for ids that are not in the catalogue."""
        left, rows = iter(item_ids), array("q")
        while chunk := list(islice(left, CHUNK)):
            asked = [item_id.encode(*UTF8) or b"\xff" for item_id in chunk]  # "" has no hash; no item is \xff in UTF-8
            offsets = np.cumsum([0, *map(len, asked)])
            hashes = hash_strings(np.frombuffer(b"".join(asked), np.uint8), offsets)
            first = self._index.first(hashes)
            starts, ends = (self.item_ids.tensors()[1][first + end].tolist() for end in (0, 1))
            for number, row in enumerate(first.tolist()):
                if row >= 0 and self.item_ids.data[starts[number] : ends[number]] != asked[number]:
                    others = self._index.rows(hashes[number]).tolist()
                    row = next((other for other in others if self.item_ids[other] == chunk[number]), -1)
                rows.append(row)
        return np.frombuffer(rows, np.int64)

    def row(self, item_id: str) -> int:
        """Row of an item.

        Raises:
            ValueError: naming the id if it is not in the catalogue.
        """
        (row,) = self.rows_of([str(item_id)]).tolist()
        if row < 0:
            raise ValueError(f"The item id {str(item_id)!r} is not in the catalogue of {len(self)} items.")
        return row

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any id and with the order of the rows."""
        digest = hashlib.sha256()
        for tensor in self.item_ids.tensors():
            digest.update(tensor.data)
        return digest.hexdigest()[:16]

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file, whole or not at all."""
        columns = {"item_ids": self.item_ids, "titles": self.titles}
        tensors = {}
        for name, strings in columns.items():
            tensors[name], tensors[f"{name}.offsets"] = strings.tensors()
        write_tensors(path, tensors)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Catalogue":
        """Read what `save` wrote.

        Raises:
            ValueError: naming the file, if it is not whole.
        """
        tensors, _ = read_tensors(path)
        catalogue = cls()
        try:
            columns = [
                Strings.of(tensors.pop(name), tensors.pop(f"{name}.offsets")) for name in ("item_ids", "titles")
            ]
            if len(columns[0]) != len(columns[1]):
                raise ValueError(f"{len(columns[0])} item ids but {len(columns[1])} titles")
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path} is no catalogue ({error}): fetch it again.") from error
        catalogue._hold(*columns)
        return catalogue
