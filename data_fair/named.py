"""Data sets by name: the built-in simulated store, and public sets that are fetched from their owners' sites."""

from __future__ import annotations

import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import datasets
from aiohttp import ClientError

from data_fair.amazon import amazon_interactions, amazon_items
from data_fair.caching import cache_folder
from data_fair.files import StrPath
from data_fair.interactions import read_interactions
from data_fair.items import read_items

NAMES = ("demo", "amazon_2014:<Category>", "movielens:100k")
AMAZON_2014_URL = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
MOVIELENS_URL = "https://files.grouplens.org/datasets/movielens"

# The flags of u.item, in its order.
_MOVIELENS_GENRES = (
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|Film-Noir|Horror|Musical|"
    "Mystery|Romance|Sci-Fi|Thriller|War|Western"
).split("|")


def load_named(name: str, cache_dir: StrPath | None = None) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Loads a data set by its name.

    Args:
        name: `demo` (simulated, no network); `amazon_2014:<Category>`, such as `amazon_2014:Beauty` or
            `amazon_2014:CDs_and_Vinyl` (the 5-core, its items without text kept); `movielens:100k`. All but the demo
            are fetched once, from the owners' sites and under the owners' terms.
        cache_dir: where to keep what is fetched and read; default: the cache of `datasets`.

    Returns:
        (sequences, items): `user_id`, `item_ids`, `timestamps`, and `item_id`, `title`, `text` (the demo has more).

    Raises:
        ValueError: an unknown name.
        ConnectionError: a file that cannot be fetched; the message says where to put it by hand.
    """
    kind, _, part = name.partition(":")
    if name == "demo":
        from data_fair.demo_store import simulate_store

        return simulate_store()
    if kind == "amazon_2014" and re.fullmatch(r"\w+", part):
        return _amazon_2014(part, cache_dir)
    if name == "movielens:100k":
        return _movielens_100k(cache_dir)
    raise ValueError(f"There is no data set named {name!r}: choose one of {', '.join(NAMES)}.")


def _amazon_2014(category: str, cache_dir: StrPath | None) -> tuple[datasets.Dataset, datasets.Dataset]:
    reviews = _fetch(AMAZON_2014_URL, f"reviews_{category}_5.json.gz", cache_dir)
    metadata = _fetch(AMAZON_2014_URL, f"meta_{category}.json.gz", cache_dir)
    sequences = amazon_interactions(reviews, 2014, cache_dir=cache_dir)
    # Items without text stay, or the catalogue would no longer be the published 5-core.
    items = amazon_items(metadata, 2014, _item_ids(sequences), allow_items_without_text=True, cache_dir=cache_dir)
    return sequences, items


def _item_ids(sequences: datasets.Dataset) -> set[str]:
    found: set[str] = set()
    for batch in sequences.select_columns("item_ids").with_format("arrow").iter(10_000):
        found.update(batch["item_ids"].combine_chunks().flatten().unique().to_pylist())
    return found


def _movielens_100k(cache_dir: StrPath | None) -> tuple[datasets.Dataset, datasets.Dataset]:
    archive = _fetch(MOVIELENS_URL, "ml-100k.zip", cache_dir)
    ratings, movies = archive.with_name("ml-100k-ratings.csv"), archive.with_name("ml-100k-movies.jsonl")
    if not (ratings.exists() and movies.exists()):
        try:
            with zipfile.ZipFile(archive) as members:
                # latin-1 maps every byte: no letter is lost.
                ratings_text = members.read("ml-100k/u.data").decode("latin-1")
                movies_text = members.read("ml-100k/u.item").decode("latin-1")
        except (zipfile.BadZipFile, KeyError) as error:
            raise ValueError(f"{archive} is no complete ml-100k.zip ({error}): delete it and try again.") from error
        _write(ratings, "user_id\titem_id\trating\ttimestamp\n" + ratings_text)
        _write(movies, "".join(json.dumps(movie) + "\n" for movie in _movies(movies_text)))
    sequences = read_interactions(ratings, cache_dir=cache_dir)
    return sequences, read_items(movies, cache_dir=cache_dir)


def _movies(text: str) -> Iterator[dict[str, object]]:
    """Rows of u.item: id | title (year) | release date | video date | address | one 0 or 1 a genre."""
    for line in text.splitlines():
        item_id, title, _, _, _, *flags = line.split("|")
        name, year = re.fullmatch(r"(.*?)(?: \((\d{4})\))?\s*", title).groups()  # type: ignore[union-attr]
        genres = [genre for genre, flag in zip(_MOVIELENS_GENRES, flags, strict=True) if flag == "1"]
        yield {"item_id": item_id, "title": name, "genres": genres, "year": year}


def _fetch(base_url: str, file_name: str, cache_dir: StrPath | None) -> Path:
    """The local copy of a file, fetched where it is not there yet."""
    folder = cache_folder(cache_dir) / "downloads"
    target = folder / file_name
    if target.exists():
        return target
    url = f"{base_url}/{file_name}"
    manager = datasets.DownloadManager(download_config=datasets.DownloadConfig(cache_dir=folder))
    try:
        fetched = manager.download(url)
    except (OSError, ClientError, TimeoutError) as error:
        raise ConnectionError(
            f"{url} could not be fetched ({error.__cause__ or error}): check the name and the network, put the file "
            f"at {target} by hand, or read files of your own (--sequences_file or --interactions_file, --items_file)."
        ) from error
    os.replace(fetched, target)
    return target


def _write(target: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", dir=target.parent, delete=False) as file:
        file.write(text)
    os.replace(file.name, target)
