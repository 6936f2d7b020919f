import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st

from data_fair import split_leave_one_out
from tokenization_fair.preprocessing_fair import prepare_datasets, windows


@given(st.lists(st.integers(0, 99), max_size=200), st.integers(1, 60))
def test_every_item_but_the_first_is_a_target_exactly_once(rows, length):
    cut = windows(rows, length)
    assert all(2 <= len(window) <= length + 1 for window in cut)
    assert [item for window in cut for item in window[1:]] == rows[1:]
    assert [item for window in cut[1:] for item in window[:1]] == [window[-1] for window in cut[:-1]]


@pytest.fixture
def splits() -> DatasetDict:
    sequences = Dataset.from_dict(
        {
            "user_id": ["a", "b", "c"],
            "item_ids": [[f"p{i}" for i in range(20)], ["p5", "p6"], ["p1", "p2", "p3"]],
        }
    )
    return split_leave_one_out(sequences)


def test_examples_are_rows_of_the_catalogue(fitted, splits):
    prepared = prepare_datasets(splits, fitted)
    assert prepared["train"]["item_ids"][:] == [list(range(6)), list(range(5, 18)), [5, 6]]
    assert prepared["train"]["example_id"][:] == [0, 1, 2]
    assert prepared["validation"]["target_id"][:] == [18, 2]
    assert prepared["test"]["item_ids"][0] == list(range(7, 19)), "the last 12, the validation item among them"
    assert prepared["test"]["seen_ids"][0] == list(range(19))
    assert prepared["test"]["target_id"][:] == [19, 3]


def test_a_test_split_alone_is_prepared(fitted, splits):
    alone = prepare_datasets(DatasetDict(test=splits["test"]), fitted)
    assert alone["test"][:] == prepare_datasets(splits, fitted)["test"][:] and set(alone) == {"test"}


def test_a_second_preparation_comes_from_the_cache(fitted, splits):
    first = prepare_datasets(splits, fitted)["train"]._fingerprint
    assert prepare_datasets(splits, fitted)["train"]._fingerprint == first


def test_an_item_that_the_catalogue_lacks_is_named(fitted):
    splits = DatasetDict(train=Dataset.from_dict({"user_id": ["a"], "item_ids": [["p1", "p99"]]}))
    with pytest.raises(ValueError, match="'p99'"):
        prepare_datasets(splits, fitted)
