from array import array

from hypothesis import given
from hypothesis import strategies as st

from data_fair.repeats import first_repeat


@given(st.lists(st.text(max_size=1), max_size=12))
def test_the_first_repeat_is_found(names):
    seen: dict[str, str] = {}
    expected = None
    for row, name in enumerate(names):
        if name in seen:
            expected = (name, str(row), seen[name])
            break
        seen[name] = str(row)
    hashes = array("q", map(hash, names))
    assert first_repeat(hashes, lambda: ((name, str(row)) for row, name in enumerate(names))) == expected


def test_nothing_is_read_again_where_no_two_hashes_are_equal():
    assert first_repeat(array("q", [1, 2, 3]), lambda: 1 / 0) is None


def test_names_of_one_hash_are_told_apart():
    assert first_repeat(array("q", [hash("a"), hash("a")]), lambda: [("a", "1"), ("b", "2")]) is None
