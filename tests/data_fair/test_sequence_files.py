import gzip

import pytest

from data_fair import read_sequence_file


@pytest.mark.parametrize("name", ["sequences.txt", "sequences.txt.gz", "no_extension"])
def test_reads_lines(tmp_path, cache, name):
    raw = b"u1 3 1 3\r\n\n  u2\t7  8 \nu3 9"
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    dataset = read_sequence_file(tmp_path / name, cache_dir=cache)
    assert dataset.to_list() == [
        {"user_id": "u1", "item_ids": ["3", "1", "3"]},
        {"user_id": "u2", "item_ids": ["7", "8"]},
        {"user_id": "u3", "item_ids": ["9"]},
    ]


def test_a_changed_file_is_read_anew(tmp_path, cache):
    path = tmp_path / "sequences.txt"
    path.write_text("1 2 3\n")
    first = read_sequence_file(path, cache_dir=cache)
    assert read_sequence_file(path, cache_dir=cache)._fingerprint == first._fingerprint
    path.write_text("1 2 3 4\n")
    assert read_sequence_file(path, cache_dir=cache)[0]["item_ids"] == ["2", "3", "4"]


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("s.txt", b"", ["is empty"]),
        ("s.txt", b"u1 1 2\n\nu2\n", ["line 3", "'u2'", "no item"]),
        ("s.txt", b"u1 1 2\nu2 1\nu1 3\n", ["line 3", "'u1' again", "line 1"]),
        ("s.txt", b"u1 1 2\nu\xff2 1\n", ["line 2", "UTF-8"]),
        ("s.txt.gz", gzip.compress(b"u1 1 2\nu2 1 3\n", mtime=0)[:-12], ["broken gzip"]),
        ("s.txt.gz", b"u1 1 2\n", ["broken gzip"]),
    ],
)
def test_bad_files_give_one_sentence_and_leave_nothing(tmp_path, cache, left_behind, name, raw, expected):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(ValueError) as error:
        read_sequence_file(tmp_path / name, cache_dir=cache)
    assert all(part in str(error.value) for part in (str(tmp_path / name), *expected)), error.value
    assert left_behind() == []


def test_missing_file(tmp_path, cache):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_sequence_file(tmp_path / "nowhere.txt", cache_dir=cache)


@pytest.mark.parametrize(
    ("name", "users", "interactions"),
    [("beauty", 22_363, 198_502), ("sports", 35_598, 296_337), ("ml-100k", 943, 100_000)],
)
def test_real_files_have_their_published_sizes(real_data, cache, name, users, interactions):
    dataset = read_sequence_file(real_data / name / "sequences.txt", cache_dir=cache)
    assert (len(dataset), sum(map(len, dataset["item_ids"]))) == (users, interactions)
