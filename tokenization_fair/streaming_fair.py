"""Catalogues larger than memory: items read in batches, and finished batches kept where the next call finds them."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils.logging import tqdm

from .catalogue_fair import is_missing
from .codebooks_fair import Codebooks, check_finite, check_shape, code_dtype
from .tensors_fair import read_tensors, write_tensors
from .text_encoders_fair import TextEncoder

BATCH_SIZE = 8_192  # items encoded at once, and lost at the most when tokenising is interrupted


class Items:
    """Items to be read in any order, a `datasets.Dataset` from disk and a sequence from memory; whatever else can be
    iterated over is held as a list.

    Args:
        items: mappings with `item_id`, `title` and `text`.

    Raises:
        ValueError: for one item, or a table of another library.
    """

    def __init__(self, items: Iterable[Mapping[str, Any]]):
        if isinstance(items, Mapping) or hasattr(items, "iloc"):
            raise ValueError(f"items is a {type(items).__name__}: give a list of items, or a Dataset of `datasets`.")
        self._items: Any = items if hasattr(items, "__getitem__") and hasattr(items, "__len__") else list(items)

    def __len__(self) -> int:
        return len(self._items)

    def take(self, rows: Sequence[int]) -> list[Mapping[str, Any]]:
        many = getattr(self._items, "__getitems__", None)  # of a Dataset: all rows at once
        return many(rows) if many else [self._items[row] for row in rows]

    def texts(self, rows: Sequence[int]) -> list[str]:
        """Texts of rows.

        Raises:
            ValueError: naming the item that has none.
        """
        return [_text(item) for item in self.take(rows)]

    def read(self, digest: Any, with_text: bool) -> Iterator[Mapping[str, Any]]:
        """All items in order, whose ids (and texts) go into `digest` as they pass.

        Raises:
            ValueError: naming an item without text, where texts are read.
        """
        for rows in batches(len(self), BATCH_SIZE):
            for item in self.take(rows):
                text = _text(item) if with_text else ""
                digest.update(f"{item.get('item_id')}\0{text}\0".encode("utf-8", "surrogatepass"))
                yield item


def _text(item: Mapping[str, Any]) -> str:
    if is_missing(item.get("text")):
        raise ValueError(
            f"The item {item.get('item_id')!r} has no 'text': give it one, or give embeddings of all items."
        )
    return str(item["text"])


def batches(count: int, batch_size: int) -> list[range]:
    """0 to count - 1 in ranges of `batch_size`."""
    return [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]


def array_sha256(vectors: np.ndarray) -> str:
    """16 hexadecimal digits that change with any number of an array, which may be memory-mapped."""
    digest = hashlib.sha256(f"{vectors.dtype} {vectors.shape}".encode())
    for rows in batches(len(vectors), BATCH_SIZE):
        digest.update(np.ascontiguousarray(vectors[rows.start : rows.stop]).data)
    return digest.hexdigest()[:16]


class WorkFolder:
    """Keeps the results of steps, so that a call that was interrupted goes on where it stopped.

    Args:
        path: the folder, made with the first result; None keeps nothing.
        made_for: what the steps hang on, as JSON can hold it; a folder that was made for anything else is refused.

    Raises:
        ValueError: naming what the folder was made for, or the file that is broken.
    """

    def __init__(self, path: str | os.PathLike | None, made_for: dict[str, Any]):
        self.path = None if path is None else Path(path)
        self._made_for = made_for
        if self.path is None or not self.path.exists():
            return
        if not self.path.is_dir():
            raise ValueError(f"work_dir {self.path} is a file: give a folder.")
        about = self.path / "made_for.json"
        if not about.exists() and any(file.suffix != ".tmp" for file in self.path.iterdir()):
            raise ValueError(f"work_dir {self.path} holds other files: give a new or an empty folder.")
        if about.exists():
            try:
                found = json.loads(about.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{about} is broken: delete the folder.") from error
            other = sorted(name for name in made_for.keys() | found.keys() if made_for.get(name) != found.get(name))
            if other:
                differences = ", ".join(f"{name} {found.get(name)!r}, now {made_for.get(name)!r}" for name in other)
                raise ValueError(
                    f"work_dir {self.path} was made with {differences}: give another folder, or delete this one."
                )

    def step(self, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """What `make` returns, or what it returned when the step was done before."""
        if self.path is None:
            return make()
        file = self.path / f"{name}.safetensors"
        if not file.exists():
            made = make()
            self.path.mkdir(parents=True, exist_ok=True)
            about = self.path / "made_for.json"
            if not about.exists():
                temporary = about.with_suffix(".tmp")
                temporary.write_text(json.dumps(self._made_for, indent=2) + "\n", encoding="utf-8")
                os.replace(temporary, about)
            write_tensors(file, made)
            return made
        try:
            return read_tensors(file)[0]
        except ValueError as error:
            raise ValueError(f"{file} is broken: delete it, and the same call makes it again.") from error


class ItemVectors:
    """The vectors of items by row, `vectors[rows]` (rows, dim): given ones are read, others are made of the items'
    texts whenever they are asked for, except those that `hold` keeps.

    Args:
        items: what is encoded.
        embeddings: (items, dim) floats, in memory or memory-mapped, or None.
        encoder: encodes texts; unused with embeddings.

    Raises:
        ValueError: for embeddings of another shape or type and, when they are read, values that are not finite.
    """

    def __init__(self, items: Items, embeddings: np.ndarray | None, encoder: TextEncoder | None):
        if embeddings is not None:
            check_shape(embeddings, len(items))
        self._items, self._embeddings, self._encoder = items, embeddings, encoder
        self._rows, self._held = np.zeros(0, dtype=np.int64), np.zeros((0, 0), dtype=np.float32)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        if not len(self._rows):
            return self._read(rows)
        place = np.searchsorted(self._rows, rows).clip(max=len(self._rows) - 1)
        held = self._rows[place] == rows
        vectors = self._held[place]
        if not held.all():
            vectors[~held] = self._read(rows[~held])
        return vectors

    def hold(self, rows: np.ndarray, batch_size: int, work: WorkFolder, show_progress: bool) -> np.ndarray:
        """Keep the vectors of rows (n,), which ascend, in memory, and return them, (n, dim)."""
        parts = []
        with tqdm(total=len(rows), desc="Reading items to fit on", unit="item", disable=not show_progress) as bar:
            for batch in batches(len(rows), batch_size):
                make = partial(self._step, rows[batch.start : batch.stop])
                # What can be read again need not be kept twice.
                made = make() if self._encoder is None else work.step(f"vectors-{batch.start:09d}", make)
                parts.append(made["vectors"])
                bar.update(len(batch))
        self._rows, self._held = rows, np.concatenate(parts)
        return self._held

    def _step(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {"vectors": self._read(rows)}

    def _read(self, rows: np.ndarray) -> np.ndarray:
        if self._embeddings is not None:
            vectors = np.asarray(self._embeddings[rows])
        else:
            assert self._encoder is not None
            vectors = self._encoder.encode(self._items.texts(rows.tolist()))
            check_shape(vectors, len(rows))
        check_finite(vectors, rows)
        return vectors


def encode_items(
    vectors: ItemVectors, count: int, codebooks: Codebooks, batch_size: int, work: WorkFolder, show_progress: bool
) -> np.ndarray:
    """Codes of items 0 to count - 1, (count, num_codebooks); batches that `work` has are not encoded again."""
    codes: np.ndarray = np.empty((count, codebooks.num_codebooks), dtype=code_dtype(codebooks.codebook_size))

    def encoded(batch: range) -> dict[str, np.ndarray]:
        return {"codes": codebooks.encode(vectors[np.arange(batch.start, batch.stop)])}

    with tqdm(total=count, desc="Tokenising items", unit="item", disable=not show_progress) as bar:
        for batch in batches(count, batch_size):
            made = work.step(f"codes-{batch.start:09d}", partial(encoded, batch))
            codes[batch.start : batch.stop] = made["codes"]
            bar.update(len(batch))
    return codes
