"""The baselines agree with plain loops, and with the published figures on the real Beauty benchmark."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.baselines.cooccurrence import CoOccurrence
from examples.baselines.popularity import Popularity

NUM_ITEMS = 7
SEQUENCES = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=12), max_size=6)


@given(train=SEQUENCES, histories=SEQUENCES)
def test_popularity_counts(train, histories):
    scores = Popularity().fit(train, NUM_ITEMS).scores(histories)
    assert scores.shape == (len(histories), NUM_ITEMS) and scores.dtype == np.float32
    for row in scores:
        assert row.tolist() == [sum(s.count(i) for s in train) for i in range(NUM_ITEMS)]


def cooccurrence_by_loops(train, history, window, backward, row_power, column_power, length, decay):
    counts = np.zeros((NUM_ITEMS, NUM_ITEMS))
    for s in train:
        for i, a in enumerate(s):
            for j in range(i + 1, min(len(s), i + window + 1)):
                counts[a, s[j]] += 1 / (j - i)
                counts[s[j], a] += backward / (j - i)
    rows, columns = counts.sum(1), counts.sum(0)
    scores = np.zeros(NUM_ITEMS)
    for age, a in enumerate(reversed(history[-length:])):
        for b in range(NUM_ITEMS):
            if counts[a, b]:
                scores[b] += decay**age * counts[a, b] / (rows[a] ** row_power * columns[b] ** column_power)
    return scores


@settings(deadline=None)
@given(
    train=SEQUENCES,
    histories=SEQUENCES,
    window=st.integers(1, 15),
    backward=st.floats(0.01, 1),
    row_power=st.floats(0, 1),
    column_power=st.floats(0, 1),
    length=st.integers(1, 20),
    decay=st.floats(0, 1),
)
def test_cooccurrence_is_its_formula(train, histories, window, backward, row_power, column_power, length, decay):
    parameters = (window, backward, row_power, column_power, length, decay)
    scores = CoOccurrence(*parameters).fit(train, NUM_ITEMS).scores(histories)
    assert scores.shape == (len(histories), NUM_ITEMS) and scores.dtype == np.float32
    for row, history in zip(scores, histories, strict=True):
        np.testing.assert_allclose(row, cooccurrence_by_loops(train, history, *parameters), rtol=1e-5, atol=1e-30)


def test_empty_history():
    train = [[0, 1, 2], [0, 3]]
    assert CoOccurrence().fit(train, 4).scores([[], [0]]).any(axis=1).tolist() == [False, True]
    assert Popularity().fit(train, 4).scores([[]]).tolist() == [[2, 1, 1, 1]]


@pytest.mark.parametrize("model", [Popularity, CoOccurrence])
@pytest.mark.parametrize("bad_row", [-1, 4])
def test_rows_outside_the_catalogue(model, bad_row):
    with pytest.raises(ValueError, match=r"not 0\.\.3"):
        model().fit([[0, bad_row]], 4)


def recall_and_ndcg_at_10(model, sequences, keep_seen, batch=2000):
    """Full ranking of the last item of each sequence, given all items before it."""
    ranks = []
    for first in range(0, len(sequences), batch):
        part = sequences[first : first + batch]
        scores = model.scores([s[:-1] for s in part])
        if not keep_seen:
            for row, s in zip(scores, part, strict=True):
                row[s[:-1]] = -np.inf
        target = scores[np.arange(len(part)), [s[-1] for s in part]]
        ranks.append((scores > target[:, None]).sum(axis=1))
    rank = np.concatenate(ranks)
    return (rank < 10).mean(), np.where(rank < 10, 1 / np.log2(rank + 2), 0).mean()


def test_published_figures_on_beauty(real_data):
    lines = (real_data / "beauty" / "sequences.txt").read_text().splitlines()
    sequences = [[int(item) - 1 for item in line.split()[1:]] for line in lines]
    model = CoOccurrence().fit([s[:-2] for s in sequences], 12_101)
    assert recall_and_ndcg_at_10(model, sequences, True) == pytest.approx((0.0760, 0.0456), abs=0.0005)
    assert recall_and_ndcg_at_10(model, sequences, False) == pytest.approx((0.0845, 0.0526), abs=0.0005)
