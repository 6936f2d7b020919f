"""Where read data is kept between runs, and under which name: fingerprints as in `datasets`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import datasets
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher

from data_fair.files import StrPath

# Part of every fingerprint: raise it when a reader's result changes for the same file.
READER_VERSION = 1


def cache_folder(cache_dir: StrPath | None) -> Path:
    """The folder for this package's files: `<cache_dir or the datasets cache>/fair`, made where missing."""
    folder = Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser().resolve() / "fair"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def file_stamps(paths: Sequence[Path]) -> tuple[tuple[str, int, int], ...]:
    """(absolute path, bytes, modification time in ns) of each file: a changed file gets another fingerprint."""
    return tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths)


def fingerprint(*parts: Any) -> str:
    """A name for a result made of these parts, the same in every process."""
    return Hasher.hash((READER_VERSION, *parts))


def dataset_from_records(
    generator: Callable[..., Any],
    paths: Sequence[Path],
    features: datasets.Features,
    cache_dir: StrPath | None,
    **arguments: Any,
) -> datasets.Dataset:
    """Streams `generator(paths=..., **arguments)` to an Arrow file in the cache and opens it; read again if cached.

    Raises:
        ValueError: whatever the generator found wrong, as it said it.
    """
    # Tuples, because `from_generator` takes lists for shards; the stamps make a changed file a new data set.
    kwargs = {"paths": tuple(paths), "stamps": (READER_VERSION, file_stamps(paths)), "arguments": arguments}
    try:
        made = datasets.Dataset.from_generator(
            _Records(generator), features=features, cache_dir=str(cache_folder(cache_dir)), gen_kwargs=kwargs
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError | OSError):
            raise error.__cause__ from None
        raise
    return cast(datasets.Dataset, made)


class _Records:
    """A reader with the signature `from_generator` calls; the stamps are only there to be fingerprinted."""

    def __init__(self, generator: Callable[..., Any]):
        self.generator = generator

    def __call__(self, paths: Sequence[Path], stamps: Any, arguments: dict[str, Any]) -> Any:
        return self.generator(paths=paths, **arguments)
