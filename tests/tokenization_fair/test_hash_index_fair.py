import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tokenization_fair.hash_index_fair import HashIndex, hash_rows


@given(st.lists(st.integers(0, 5), max_size=30))
def test_rows_are_found_by_their_hashes(values):
    hashes = np.array(values, dtype=np.uint64)
    index = HashIndex(hashes)
    for value in np.arange(7, dtype=np.uint64):
        assert index.rows(value).tolist() == np.flatnonzero(hashes == value).tolist()
    first = [values.index(value) if value in values else -1 for value in range(7)]
    assert index.first(np.arange(7, dtype=np.uint64)).tolist() == first
    assert index.repeated().tolist() == [row for row, value in enumerate(values) if values.count(value) > 1]


def test_equal_rows_have_equal_hashes_and_others_do_not(monkeypatch):
    rows = np.random.default_rng(0).integers(0, 256, size=(5_000, 8)).astype(np.uint8)
    whole = hash_rows(rows)
    assert len(np.unique(whole)) == len(np.unique(rows, axis=0))
    monkeypatch.setattr("tokenization_fair.hash_index_fair.CHUNK", 999)
    assert np.array_equal(hash_rows(rows), whole)
