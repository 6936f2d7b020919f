import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization_fair.codebooks_fair import fit_codebooks
from tokenization_fair.semantic_ids_fair import _changes, equal_codes, id_quality, resolve_collisions


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=30))
def test_groups_are_all_rows_that_share_codes(rows):
    codes = np.array(rows, dtype=np.uint8).reshape(-1, 2)
    expected = {}
    for row, code in enumerate(rows):
        expected.setdefault(code, []).append(row)
    groups = sorted(group.tolist() for group in equal_codes(codes))
    assert groups == sorted(group for group in expected.values() if len(group) > 1)


@pytest.fixture(scope="module")
def coded():
    """200 items of which every fourth is a copy of another, in 3 codebooks of 16."""
    vectors = np.random.default_rng(0).normal(size=(200, 6))
    vectors[::4] = vectors[1::4]
    codebooks = fit_codebooks(vectors, 3, 16, 6, True, 0)
    return vectors, codebooks, codebooks.encode(vectors)


def test_every_item_gets_codes_of_its_own(coded):
    vectors, codebooks, codes = coded
    groups = equal_codes(codes)
    assert groups
    resolved, moved = resolve_collisions(codes, codebooks, vectors)
    assert not equal_codes(resolved)
    assert moved == sum(len(group) - 1 for group in groups) == (resolved != codes).any(axis=1).sum()
    first = [group[0] for group in groups]
    assert np.array_equal(resolved[first], codes[first])


def test_a_moved_item_stays_as_near_as_it_can(coded):
    vectors, codebooks, codes = coded
    resolved, _ = resolve_collisions(codes, codebooks, vectors)
    taken = {row.tobytes() for row in codes}
    moved = np.flatnonzero((resolved != codes).any(axis=1))
    row = moved[0]
    distances = codebooks.distances(codebooks.rotate(vectors[row : row + 1]))[0]
    cost = distances[np.arange(3), resolved[row]].sum()
    for digit in range(3):
        for value in range(16):
            other = codes[row].copy()
            other[digit] = value
            if other.tobytes() not in taken:
                assert distances[np.arange(3), other].sum() >= cost - 1e-9


def test_new_items_never_move_old_ones(coded):
    vectors, codebooks, codes = coded
    resolved, _ = resolve_collisions(codes, codebooks, vectors)
    doubled, moved = resolve_collisions(np.concatenate([resolved, codes]), codebooks, vectors, first_new=200)
    assert moved == 200
    assert np.array_equal(doubled[:200], resolved)
    assert not equal_codes(doubled)


def test_many_equal_items_spread_over_pairs_of_changes():
    vectors = np.random.default_rng(0).normal(size=(60, 4))
    codebooks = fit_codebooks(vectors, 4, 4, 4, True, 0)
    same = np.repeat(vectors[:1], 60, axis=0)  # 12 single changes for 59 items
    resolved, moved = resolve_collisions(codebooks.encode(same), codebooks, same)
    assert moved == 59 and not equal_codes(resolved)


@settings(max_examples=30, deadline=None)
@given(items=st.integers(2, 60), first_new=st.integers(0, 60), seed=st.integers(0, 99))
def test_items_are_moved_as_with_a_set_of_all_taken_codes(items, first_new, seed):
    """Against the plain way, which holds every tuple of codes and every vector."""
    vectors = np.round(np.random.default_rng(seed).normal(size=(items, 4)), 0)
    codebooks = fit_codebooks(vectors, 4, 4, 4, True, 0)
    codes = codebooks.encode(vectors)
    expected, taken, previous = codes.copy(), {row.tobytes() for row in codes}, None
    groups = [np.flatnonzero((codes == row).all(axis=1)) for row in np.unique(codes, axis=0)]
    for group in groups:
        previous = None
        for row in group[1:][group[1:] >= first_new]:
            distances = codebooks.distances(codebooks.rotate(vectors[row][None]))[0]
            if previous is None or not np.allclose(previous[0], distances, rtol=1e-3):
                previous = (distances, _changes(distances.copy(), codes[row].copy()))
            free = next((changed for changed in previous[1] if changed.tobytes() not in taken), None)
            if free is not None:
                expected[row] = free
                taken.add(free.tobytes())
    resolved, moved = resolve_collisions(codes, codebooks, vectors[first_new:], first_new)
    assert np.array_equal(resolved, expected) and moved == (expected != codes).any(axis=1).sum()


def test_codebooks_too_small_for_the_catalogue_leave_ties():
    vectors = np.random.default_rng(0).normal(size=(20, 2))
    codebooks = fit_codebooks(vectors, 2, 2, 2, True, 0)
    resolved, _ = resolve_collisions(codebooks.encode(vectors), codebooks, vectors)
    assert len(np.unique(resolved, axis=0)) == 4


@settings(max_examples=50)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 1000))
def test_report_is_within_its_bounds(items, codebooks, seed):
    codes = np.random.default_rng(seed).integers(0, 8, size=(items, codebooks)).astype(np.uint8)
    report = id_quality(codes, 8)
    assert report["items"] == items
    assert report["shared_ids"] == items - sum(np.unique(codes, axis=0, return_counts=True)[1] == 1)
    assert 0 < report["code_use_least"] <= report["code_use_mean"] <= 1
    assert -1e-9 <= report["entropy_bits_least"] <= report["entropy_bits_mean"] <= 3 + 1e-9


def test_report_by_hand():
    codes = np.array([[0, 1], [0, 1], [1, 3], [1, 2]], dtype=np.uint8)
    report = id_quality(codes, 4)
    assert (report["shared_ids"], report["largest_group"]) == (2, 2)
    assert (report["code_use_least"], report["code_use_mean"]) == (0.5, 0.625)
    assert (report["entropy_bits_least"], report["entropy_bits_mean"]) == (1.0, 1.25)
