"""Fixtures of the data tests: a cache of their own, and what an error may leave there."""

import pytest


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def left_behind(cache):
    """Lists the files in the cache; the empty lock files of `datasets` do not count."""
    return lambda: sorted(
        str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"
    )
