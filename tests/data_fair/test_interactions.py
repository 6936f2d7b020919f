import gzip
import json
import random
from collections import Counter, defaultdict
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_fair import interactions, read_interactions

HEADER = ("user_id", "item_id", "timestamp")
ROWS = [("b", "x", 3), ("a", "y", 2), ("b", "z", 1), ("a", "x", 2), ("b", "y", 1)]
EXPECTED = {"b": (["z", "y", "x"], [1, 1, 3]), "a": (["y", "x"], [2, 2])}


def as_csv(rows, header=HEADER, delimiter=",", end="\n"):
    return "".join(delimiter.join(map(str, row)) + end for row in (header, *rows))


def as_jsonl(rows, header=HEADER):
    return "".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows)


def write(path, content):
    raw = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def write_parquet(path, rows, header=HEADER):
    pq.write_table(pa.table({name: [row[k] for row in rows] for k, name in enumerate(header)}), path)
    return path


def as_dict(dataset):
    return {row["user_id"]: (row["item_ids"], row["timestamps"]) for row in dataset}


def in_python(rows, k_core=0):
    """The reference: k-core, then a stable sort by time, users in order of their first row."""
    while True:
        users, items = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
        kept = [row for row in rows if users[row[0]] >= k_core and items[row[1]] >= k_core]
        if len(kept) == len(rows):
            break
        rows = kept
    grouped = defaultdict(list)
    for row in rows:
        grouped[row[0]].append(row)
    ordered = {user: sorted(seen, key=lambda row: row[2]) for user, seen in grouped.items()}
    return {user: ([row[1] for row in seen], [row[2] for row in seen]) for user, seen in ordered.items()}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.json", "log.jsonl", "log.ndjson"])
def test_reads_text_formats(tmp_path, cache, name, zipped):
    text = as_csv(ROWS, delimiter="\t" if "tsv" in name else ",") if "sv" in name else as_jsonl(ROWS)
    dataset = read_interactions(write(tmp_path / (name + ".gz" * zipped), text), cache_dir=cache)
    assert as_dict(dataset) == EXPECTED
    assert dataset["user_id"][:] == ["b", "a"], "users stand in the order of their first row"
    assert dataset.features["timestamps"].feature.dtype == "int64"


def test_reads_parquet_with_numbers_for_ids(tmp_path, cache):
    path = write_parquet(tmp_path / "log.parquet", [(7, 10**12, 2), (7, 5, 1)])
    assert as_dict(read_interactions(path, cache_dir=cache)) == {"7": (["5", "1000000000000"], [1, 2])}


@pytest.mark.parametrize(
    "text", [as_csv(ROWS, end="\r\n"), "\ufeff" + as_csv(ROWS), as_csv(ROWS).replace("\n", "\n\n")]
)
def test_reads_csv_as_other_systems_write_it(tmp_path, cache, text):
    assert as_dict(read_interactions(write(tmp_path / "log.csv", text), cache_dir=cache)) == EXPECTED


def test_quoted_fields_and_pattern_characters_in_the_path(tmp_path, cache):
    folder = tmp_path / "a[1]*"
    folder.mkdir()
    path = write(folder / "it's.csv", as_csv([('"u,1"', '"line\nbreak"', 1), ('"u,1"', '"say ""hi"""', 2)]))
    assert as_dict(read_interactions(path, cache_dir=cache)) == {"u,1": (["line\nbreak", 'say "hi"'], [1, 2])}


def test_several_files_in_the_order_given(tmp_path, cache):
    first = write(tmp_path / "z.csv", as_csv([("a", "1", 5), ("a", "2", 5)]))
    second = write(tmp_path / "b.jsonl.gz", as_jsonl([("a", "3", 5), ("b", "3", 1)]))
    third = write_parquet(tmp_path / "a.parquet", [("a", "4", 5)])
    assert as_dict(read_interactions([first, second, third], cache_dir=cache))["a"][0] == ["1", "2", "3", "4"]
    assert as_dict(read_interactions([third, second, first], cache_dir=cache))["a"][0] == ["4", "3", "1", "2"]


def test_other_column_names_and_extra_columns(tmp_path, cache):
    header = ("who", "Item", "when", "stars", "gift", "code", "score")
    rows = [("a", "y", 2, 5, "true", "007", ""), ("a", "x", 1, 3, "false", "12", 0.5)]
    dataset = read_interactions(
        write(tmp_path / "log.csv", as_csv(rows, header)),
        user_column="who",
        item_column="Item",
        timestamp_column="when",
        extra_columns=["stars", "gift", "code", "score"],
        cache_dir=cache,
    )
    assert dataset[0] == {
        "user_id": "a",
        "item_ids": ["x", "y"],
        "timestamps": [1, 2],
        "stars": [3, 5],
        "gift": [False, True],
        "code": ["12", "007"],
        "score": [0.5, None],
    }


def test_without_a_timestamp_column_rows_are_in_order(tmp_path, cache):
    dataset = read_interactions(write(tmp_path / "log.csv", as_csv(ROWS)), timestamp_column=None, cache_dir=cache)
    assert dataset.column_names == ["user_id", "item_ids"]
    assert dataset["item_ids"][:] == [["x", "z", "y"], ["y", "x"]]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (["2014-01-02", "2014-01-01T00:00:00Z"], [1388534400, 1388620800]),
        (["2014-01-01 02:00:00+02:00", "2014-01-01T00:00:00.5"], [1388534400.0, 1388534400.5]),
        (["1.5", "1e1"], [1.5, 10.0]),
        ([1700000000000000001, 1700000000000000000], [1700000000000000000, 1700000000000000001]),
    ],
)
def test_times_become_numbers(tmp_path, cache, times, expected):
    path = write(tmp_path / "log.csv", as_csv([("a", str(k), time) for k, time in enumerate(times)]))
    found = read_interactions(path, cache_dir=cache)[0]["timestamps"]
    assert found == expected and [type(time) for time in found] == [type(time) for time in expected]


def test_parquet_columns_that_differ_in_case_alone_are_refused(tmp_path, cache):
    path = write_parquet(tmp_path / "log.parquet", [("x", "a", "1", 2)], ("USER_ID", *HEADER))
    with pytest.raises(ValueError, match="log.parquet has columns that differ in case alone, USER_ID, user_id"):
        read_interactions(path, cache_dir=cache)


def test_parquet_datetimes_become_seconds(tmp_path, cache):
    moment = datetime(2014, 1, 1, tzinfo=UTC)
    path = write_parquet(tmp_path / "log.parquet", [("a", "x", moment), ("a", "y", moment)])
    assert as_dict(read_interactions(path, cache_dir=cache)) == {"a": (["x", "y"], [1388534400] * 2)}


def test_repeated_rows_are_kept(tmp_path, cache):
    path = write(tmp_path / "log.csv", as_csv([("a", "x", 1)] * 3))
    assert read_interactions(path, cache_dir=cache)[0]["item_ids"] == ["x"] * 3


def test_ties_keep_the_order_of_the_file_in_a_large_log(tmp_path, cache):
    # Enough rows for DuckDB to read and sort chunks in parallel; items are numbered in file order.
    chance = random.Random(0)
    rows = [(f"u{chance.randrange(500)}", f"{k}", chance.randrange(20)) for k in range(250_000)]
    dataset = read_interactions(write(tmp_path / "log.csv", as_csv(rows)), cache_dir=cache)
    expected = in_python(rows)
    assert dataset["user_id"][:] == list(expected)
    assert as_dict(dataset) == expected


def test_users_longer_than_a_batch(tmp_path, cache, monkeypatch):
    monkeypatch.setattr("data_fair.grouping._ROWS_A_BATCH", 7)
    rows = [(user, str(k), k) for user, length in (("a", 20), ("b", 1), ("c", 7), ("d", 3)) for k in range(length)]
    dataset = read_interactions(write(tmp_path / "log.csv", as_csv(rows)), cache_dir=cache)
    assert as_dict(dataset) == in_python(rows)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abcde"), st.sampled_from("vwxyz"), st.integers(0, 3)), min_size=1, max_size=40
    ),
    k_core=st.integers(0, 4),
)
def test_k_core_and_order_are_those_of_plain_python(tmp_path_factory, rows, k_core):
    folder = tmp_path_factory.mktemp("k_core")
    path = write(folder / "log.csv", as_csv(rows))
    expected = in_python(rows, k_core)
    if expected:
        dataset = read_interactions(path, k_core=k_core, cache_dir=folder)
        assert as_dict(dataset) == expected and dataset["user_id"][:] == list(expected)
    else:
        with pytest.raises(ValueError, match=f"k_core={k_core} leaves no row"):
            read_interactions(path, k_core=k_core, cache_dir=folder)


def test_second_call_reads_the_cache(tmp_path, cache, monkeypatch):
    path = write(tmp_path / "log.csv", as_csv(ROWS))
    before = read_interactions(path, cache_dir=cache)
    monkeypatch.setattr(interactions, "_sort_and_group", lambda *_: pytest.fail("read again"))
    again = read_interactions(path, cache_dir=cache)
    assert as_dict(again) == as_dict(before) and again._fingerprint == before._fingerprint


def test_another_argument_or_a_changed_file_is_read_anew(tmp_path, cache):
    path = write(tmp_path / "log.csv", as_csv(ROWS))
    assert len(read_interactions(path, cache_dir=cache)) == 2
    assert len(read_interactions(path, cache_dir=cache, k_core=2)) == 2
    write(path, as_csv([*ROWS, ("c", "x", 1)]))
    assert len(read_interactions(path, cache_dir=cache)) == 3


def flipped(raw, position):
    return raw[:position] + bytes([raw[position] ^ 0xFF]) + raw[position + 1 :]


ZIPPED = gzip.compress(as_csv([(f"u{k % 5}", f"i{k}", k) for k in range(5000)]).encode())
BAD_FILES = {
    "no user column": ("log.csv", as_csv(ROWS, ("who", "item_id", "timestamp")), ["'user_id'", "'who'", "user_col"]),
    "no item column": ("log.jsonl", as_jsonl(ROWS, ("user_id", "what", "timestamp")), ["'item_id'", "item_column"]),
    "no time column": ("log.csv", "user_id,item_id\na,x\n", ["'timestamp'", "timestamp_column"]),
    "column twice": ("log.csv", "user_id,user_id,item_id,timestamp\na,b,x,1\n", ["two columns named 'user_id'"]),
    "empty csv": ("log.csv", "", ["is empty"]),
    "header only": ("log.csv", as_csv([]), ["is empty"]),
    "empty jsonl": ("log.jsonl", "\n\n", ["is empty"]),
    "empty gzip": ("log.csv.gz", b"", ["is empty"]),
    "cut gzip": ("log.csv.gz", ZIPPED[:-9], ["broken gzip"]),
    "damaged gzip": ("log.csv.gz", flipped(ZIPPED, -6), ["broken gzip"]),
    "no gzip": ("log.jsonl.gz", as_jsonl(ROWS).encode(), ["broken gzip"]),
    "not UTF-8 csv": ("log.csv", as_csv(ROWS).encode() + b"a,\xff\xfe,1\n", ["line 7", "UTF-8"]),
    "not UTF-8 jsonl": ("log.jsonl", as_jsonl(ROWS).encode() + b'{"user_id": "\xff"}\n', ["line 6", "UTF-8"]),
    "malformed json": ("log.jsonl", as_jsonl(ROWS[:2]) + '{"user_id": \n' + as_jsonl(ROWS), ["line 3", "JSON"]),
    "json array": ("log.json", "[1, 2]\n", ["line 1", "JSON object"]),
    "short row": ("log.csv", as_csv(ROWS) + "a,b\n", ["line 7", "2 fields"]),
    "open quote": ("log.csv", as_csv(ROWS) + '"a,b,1\nc,d,2\n', ["line 8", "malformed CSV"]),
    "mixed line ends": ("log.csv", as_csv(ROWS).replace("\n", "\r\n", 1), ["lines end alike"]),
    "no user": ("log.csv", as_csv([*ROWS, ("", "x", 1), *ROWS]), ["line 7", "user_id"]),
    "blank item": ("log.csv", as_csv([*ROWS, ("a", " ", 1)]), ["line 7", "item_id"]),
    "null item": ("log.jsonl", as_jsonl([*ROWS, ("a", None, 1)]), ["line 6", "item_id"]),
    "no time": ("log.csv", as_csv([*ROWS, ("a", "x", "")]), ["line 7", "no timestamp"]),
    "times of two kinds": (
        "log.csv",
        as_csv([*ROWS, ("a", "x", "2024-01-01")]),
        ["line 7 has a date for its timestamp but", "line 2 a number"],
    ),
    "bad time": ("log.csv", "\n" + as_csv([*ROWS, ("a", "x", "soon")]), ["line 8", "'soon'", "timestamp"]),
    "infinite time": ("log.jsonl", as_jsonl([("a", "x", float("inf"))]), ["line 1"]),
    "unknown extension": ("log.txt", as_csv(ROWS), ["unknown extension", ".csv"]),
    "zipped parquet": ("log.parquet.gz", b"PAR1", ["unknown extension"]),
    "no parquet": ("log.parquet", b"PAR1 but not really", ["Parquet"]),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_give_one_sentence_and_leave_nothing(tmp_path, cache, left_behind, case):
    name, content, expected = BAD_FILES[case]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as error:
        read_interactions(path, cache_dir=cache)
    message = str(error.value)
    assert str(path) in message and all(part in message for part in expected), message
    assert len(message.splitlines()) == 1, message
    assert left_behind() == []


def test_bad_rows_name_the_file_among_several(tmp_path, cache):
    good = write(tmp_path / "good.csv", as_csv(ROWS))
    bad = write_parquet(tmp_path / "bad.parquet", [("a", 1.0, 1), ("a", float("nan"), 2)])
    with pytest.raises(ValueError, match=r"bad\.parquet, row 2 has no item_id"):
        read_interactions([good, bad, good], cache_dir=cache)


def test_other_errors(tmp_path, cache, left_behind):
    path = write(tmp_path / "log.csv", as_csv(ROWS))
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        read_interactions([path, tmp_path / "nowhere.csv"], cache_dir=cache)
    with pytest.raises(ValueError, match="at least one path"):
        read_interactions([], cache_dir=cache)
    with pytest.raises(ValueError, match="no column 'stars'.*extra_columns"):
        read_interactions(path, extra_columns=["stars"], cache_dir=cache)
    with pytest.raises(ValueError, match="must not hold 'user_id'"):
        read_interactions(path, extra_columns=["user_id"], cache_dir=cache)
    with pytest.raises(ValueError, match="k_core is -1"):
        read_interactions(path, k_core=-1, cache_dir=cache)
    with pytest.raises(ValueError, match="k_core=9 leaves no row"):
        read_interactions(path, k_core=9, cache_dir=cache)
    assert left_behind() == []


@pytest.mark.parametrize("name", ["beauty", "sports"])
def test_real_data_comes_back_as_its_sequences(real_data, tmp_path, cache, name):
    # The sequence file written out as a log, all times equal a user: the order must come back, and 5-core keep all.
    lines = [line.split() for line in (real_data / name / "sequences.txt").read_text().splitlines()]
    rows = [(user, item, 0) for user, *items in lines for item in items]
    dataset = read_interactions(write(tmp_path / "log.csv.gz", as_csv(rows)), k_core=5, cache_dir=cache)
    assert [[row["user_id"], *row["item_ids"]] for row in dataset] == lines
