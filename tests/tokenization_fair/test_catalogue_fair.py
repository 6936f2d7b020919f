import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenization_fair import catalogue_fair
from tokenization_fair.catalogue_fair import Catalogue, Strings


def test_save_equals_load(tmp_path, items):
    catalogue = Catalogue(items)
    catalogue.save(tmp_path / "catalogue.safetensors")
    loaded = Catalogue.load(tmp_path / "catalogue.safetensors")
    assert loaded.item_ids == catalogue.item_ids and loaded.titles == catalogue.titles
    assert loaded.rows_of(["p7", "nobody"]).tolist() == [7, -1]
    assert loaded.fingerprint() == catalogue.fingerprint()
    assert [path.name for path in tmp_path.iterdir()] == ["catalogue.safetensors"]


def test_rows_follow_the_order_of_items():
    catalogue = Catalogue([{"item_id": 7, "title": "seven"}, {"item_id": "b"}])
    assert (list(catalogue.item_ids), list(catalogue.titles)) == (["7", "b"], ["seven", ""])
    assert catalogue.remove(["7"]).tolist() == [1]
    assert (list(catalogue.item_ids), catalogue.row("b")) == (["b"], 0)


@given(st.lists(st.text(), unique=True), st.lists(st.text(max_size=2)))
def test_strings_and_rows_are_those_of_a_dict(known, asked):
    catalogue = Catalogue({"item_id": item_id, "title": item_id[::-1]} for item_id in known if item_id)
    rows = {item_id: row for row, item_id in enumerate(filter(None, known))}
    assert catalogue.rows_of([*asked, *known]).tolist() == [rows.get(item_id, -1) for item_id in [*asked, *known]]
    assert [catalogue.item_ids[row] for row in rows.values()] == list(rows)
    assert list(catalogue.titles) == [item_id[::-1] for item_id in rows]


@given(st.lists(st.text(min_size=1, max_size=3), unique=True, max_size=20))
def test_ids_of_one_hash_are_told_apart(known):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue_fair, "hash_strings", lambda data, offsets: np.ones(len(offsets) - 1, np.uint64))
        catalogue = Catalogue({"item_id": item_id} for item_id in known)
        assert catalogue.rows_of([*known, "four"]).tolist() == [*range(len(known)), -1]


def test_more_ids_than_a_chunk(monkeypatch):
    known = [f"{'x' * (i % 5)}{i}" for i in range(100)]
    whole = Catalogue({"item_id": item_id} for item_id in known)
    monkeypatch.setattr(catalogue_fair, "CHUNK", 7)
    monkeypatch.setattr("tokenization_fair.hash_index_fair.CHUNK", 7)
    in_parts = Catalogue({"item_id": item_id} for item_id in known)
    assert in_parts.rows_of(known).tolist() == whole.rows_of(known).tolist() == list(range(100))


def test_strings_take_little_more_than_their_bytes():
    strings = Strings(f"item number {i}" for i in range(10_000))
    size = sys.getsizeof(strings.data) + sys.getsizeof(strings.offsets)
    assert size < 1.2 * (sum(map(len, strings)) + 8 * 10_000)


@pytest.mark.parametrize("row", [-1, 2])
def test_there_are_no_other_rows(row):
    with pytest.raises(IndexError, match="0 to 1"):
        Strings(["a", "b"])[row]


@pytest.mark.parametrize(
    "new, named",
    [
        ([{"item_id": "a"}], "'a'"),
        ([{"item_id": "c"}, {"item_id": "c"}], "'c'"),
        ([{"title": "x"}], "item_id"),
        ([{"item_id": float("nan")}], "item_id"),
    ],
)
def test_a_refused_item_leaves_the_catalogue_as_it_was(new, named):
    catalogue = Catalogue([{"item_id": "a"}, {"item_id": "b"}])
    with pytest.raises(ValueError, match=named):
        catalogue.add([{"item_id": "fine"}, *new])
    assert list(catalogue.item_ids) == ["a", "b"] and catalogue.rows_of(["fine", "b"]).tolist() == [-1, 1]


@pytest.mark.parametrize("value", [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT])
def test_an_item_of_a_data_frame_may_lack_a_title(value):
    catalogue = Catalogue([{"item_id": "a", "title": value}, {"item_id": "b", "title": "nan"}])
    assert list(catalogue.titles) == ["", "nan"]


def test_items_get_other_titles(tmp_path):
    catalogue = Catalogue([{"item_id": "a", "title": "old"}, {"item_id": "b", "title": "b"}, {"item_id": "c"}])
    before = catalogue.fingerprint()
    assert catalogue.retitle(["c", "z", "a", "b"], ["third", "of none", "näw", ""]) == 2
    assert list(catalogue.titles) == ["näw", "b", "third"] and catalogue.fingerprint() == before
    catalogue.save(tmp_path / "catalogue.safetensors")
    assert Catalogue.load(tmp_path / "catalogue.safetensors").titles == catalogue.titles
    assert catalogue.retitle(["c"], ["third"]) == 0


def test_unknown_items_are_named():
    catalogue = Catalogue([{"item_id": "a"}])
    with pytest.raises(ValueError, match="'z'"):
        catalogue.remove(["a", "z"])
    assert len(catalogue) == 1


def test_a_file_that_is_not_whole_is_named(tmp_path, items):
    path = tmp_path / "catalogue.safetensors"
    Catalogue(items).save(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="catalogue.safetensors is not a whole"):
        Catalogue.load(path)
    catalogue_fair.write_tensors(path, {"item_ids": np.zeros(3, np.uint8), "item_ids.offsets": np.array([0, 4])})
    with pytest.raises(ValueError, match="catalogue.safetensors is no catalogue"):
        Catalogue.load(path)
