import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data_fair import SplitReport, describe_split, read_sequence_file, split_by_time, split_leave_one_out

FEATURES = Features(
    {
        "user_id": Value("string"),
        "item_ids": List(Value("string")),
        "timestamps": List(Value("int64")),
        "irrelevant": List(Value("bool")),
    }
)


def make(*users_times):
    """Users with one item a time; item k of user u is called "u.k"."""
    columns = {
        "user_id": [f"{u}" for u in range(len(users_times))],
        "item_ids": [[f"{u}.{k}" for k in range(len(times))] for u, times in enumerate(users_times)],
        "timestamps": [list(times) for times in users_times],
        "irrelevant": [[k % 2 == 1 for k in range(len(times))] for times in users_times],
    }
    return Dataset.from_dict(columns, features=FEATURES)


many_users = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8).map(sorted), min_size=1, max_size=8)


def test_leave_one_out_by_hand():
    splits = split_leave_one_out(make([1, 2, 3, 4], [5, 6]))
    assert splits["train"].to_list() == [
        {"user_id": "0", "item_ids": ["0.0", "0.1"], "timestamps": [1, 2], "irrelevant": [False, True]},
        {"user_id": "1", "item_ids": ["1.0", "1.1"], "timestamps": [5, 6], "irrelevant": [False, True]},
    ]
    assert splits["test"].to_list() == [
        {
            "user_id": "0",
            "history": ["0.0", "0.1", "0.2"],
            "target": "0.3",
            "history_timestamps": [1, 2, 3],
            "history_irrelevant": [False, True, False],
        }
    ]
    assert splits["validation"][0]["history"] == ["0.0", "0.1"] and splits["validation"][0]["target"] == "0.2"


@settings(max_examples=30, deadline=None)
@given(many_users)
def test_leave_one_out_puts_together_again(users):
    sequences = make(*users)
    splits = split_leave_one_out(sequences)
    whole = dict(zip(sequences["user_id"], sequences["item_ids"], strict=True))
    long = [user for user, items in whole.items() if len(items) >= 3]
    assert splits["train"]["user_id"][:] == list(whole)
    assert splits["validation"]["user_id"][:] == splits["test"]["user_id"][:] == long
    test = {row["user_id"]: row for row in splits["test"]}
    validation = {row["user_id"]: row for row in splits["validation"]}
    for row in splits["train"]:
        user, items = row["user_id"], row["item_ids"]
        if user in test:
            assert [*items, validation[user]["target"], test[user]["target"]] == whole[user]
            assert validation[user]["history"] == items
            assert test[user]["history"] == [*items, validation[user]["target"]]
        else:
            assert items == whole[user]
    assert describe_split(splits, sequences) == SplitReport(
        users=len(users),
        evaluated=len(long),
        too_short=len(users) - len(long),
        interactions=sum(map(len, users)),
    )


def test_split_by_time_by_hand():
    # Ten interactions at the times 0 to 9: the cuts are 8 and 9.
    splits = split_by_time(make([0, 1, 8], [2, 3, 4, 9], [5, 6, 7]), 0.1, 0.1)
    assert splits["train"]["item_ids"][:] == [["0.0", "0.1"], ["1.0", "1.1", "1.2"], ["2.0", "2.1", "2.2"]]
    assert [(row["history"], row["target"]) for row in splits["validation"]] == [(["0.0", "0.1"], "0.2")]
    assert [(row["history"], row["target"]) for row in splits["test"]] == [(["1.0", "1.1", "1.2"], "1.3")]


def test_users_of_one_period_only():
    # User 1 comes after the cut: no history, so neither trained on nor evaluated. User 2 ends in validation.
    splits = split_by_time(make([0, 1, 2, 3, 9], [9], [4, 5, 8, 8]), 0.2, 0.2)
    assert splits["train"]["user_id"][:] == ["0", "2"]
    assert splits["validation"]["target"][:] == ["2.2"]
    assert splits["test"]["target"][:] == ["0.4"]


@settings(max_examples=40, deadline=None)
@given(many_users, st.sampled_from([(0.1, 0.1), (0.3, 0.2), (0.05, 0.5)]))
def test_time_split_never_trains_on_what_comes_after_the_cut(users, shares):
    times = [time for user in users for time in user]
    cuts = [np.sort(times)[int(np.ceil(share * (len(times) - 1)))] for share in (1 - sum(shares), 1 - shares[1])]
    assume(cuts[0] > min(times))
    splits = split_by_time(make(*users), *shares)
    assert splits["train"].to_list() == [
        row for row in make(*[[t for t in user if t < cuts[0]] for user in users]).to_list() if row["item_ids"]
    ]
    for name, start, end in (("validation", cuts[0], cuts[1]), ("test", cuts[1], float("inf"))):
        expected = []
        for u, user in enumerate(users):
            before, within = [t for t in user if t < start], [t for t in user if start <= t < end]
            if before and within:
                expected.append((f"{u}", before, [f"{u}.{k}" for k in range(len(before))], f"{u}.{len(before)}"))
        rows = [(r["user_id"], r["history_timestamps"], r["history"], r["target"]) for r in splits[name]]
        assert rows == expected


def test_nobody_to_evaluate_keeps_the_columns():
    splits = split_leave_one_out(make([1, 2]))
    assert len(splits["test"]) == 0 and {"history", "target"} <= set(splits["test"].column_names)
    assert splits["test"].features["target"] == Value("string")


def test_splits_are_cached_by_fingerprint(tmp_path, cache):
    path = tmp_path / "sequences.txt"
    path.write_text("a 1 2 3\nb 4 5 6 7\n")
    first = split_leave_one_out(read_sequence_file(path, cache_dir=cache))
    written = {file: file.stat().st_mtime_ns for file in cache.rglob("cache-*.arrow")}
    second = split_leave_one_out(read_sequence_file(path, cache_dir=cache))
    assert len(written) == 3
    assert {file: file.stat().st_mtime_ns for file in cache.rglob("cache-*.arrow")} == written
    assert all(first[name]._fingerprint == second[name]._fingerprint for name in first)


def test_int64_times_are_compared_exactly():
    base = 1_700_000_000_000_000_000
    splits = split_by_time(make([base, base + 1, base + 2, base + 3]), 0.25, 0.25)
    assert splits["train"]["item_ids"][:] == [["0.0", "0.1"]] and splits["test"]["target"][:] == ["0.3"]


def test_errors(tmp_path, cache):
    with pytest.raises(ValueError, match="read_interactions"):
        split_by_time(make([1, 2, 3]).remove_columns("timestamps"))
    with pytest.raises(ValueError, match="too much alike"):
        split_by_time(make([5, 5, 5], [5]))
    with pytest.raises(ValueError, match="user '1' decrease"):
        split_by_time(make([1, 2, 3, 4], [3, 2]))
    for shares in ((0, 0.1), (0.1, -0.1), (0.5, 0.5)):
        with pytest.raises(ValueError, match="together less"):
            split_by_time(make([1, 2, 3]), *shares)
    with pytest.raises(ValueError, match="no users"):
        split_leave_one_out(make())
    with pytest.raises(ValueError, match="no interactions"):
        split_by_time(make())
    with pytest.raises(ValueError, match="no column 'item_ids'"):
        split_leave_one_out(make([1]).remove_columns("item_ids"))


def test_real_leave_one_out(real_data, cache):
    sequences = read_sequence_file(real_data / "beauty" / "sequences.txt", cache_dir=cache)
    splits = split_leave_one_out(sequences)
    assert describe_split(splits, sequences) == SplitReport(22_363, 22_363, 0, 198_502)
    assert splits["test"]["target"][:] == [items[-1] for items in sequences["item_ids"]]
    assert splits["train"]["item_ids"][:] == [items[:-2] for items in sequences["item_ids"]]
