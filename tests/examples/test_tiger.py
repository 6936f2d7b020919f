"""TIGER's codes tell items apart, its beam search finds valid items alone, and it learns a plain pattern."""

import itertools

import numpy as np
import pytest
import torch

from examples.baselines.tiger import TIGER, dense, residual_codes
from examples.baselines.training import fit

NUM_ITEMS = 12
SMALL = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64, "dropout": 0.0, "beams": 5}


def codes_of_items() -> np.ndarray:
    return (
        np.random.default_rng(0)
        .permutation(np.array(list(itertools.product(range(4), range(3), range(2)))))[:NUM_ITEMS]
        .astype(np.uint8)
    )


def test_residual_codes_tell_items_apart():
    vectors = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    vectors[100:103] = vectors[0]
    codes = residual_codes(vectors, np.arange(500))
    assert codes.shape == (600, 4) and codes.dtype == np.uint8
    assert len(np.unique(codes, axis=0)) == 600
    assert (codes[[100, 101, 102], :3] == codes[0, :3]).all() and codes[[0, 100, 101, 102], 3].tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="303 items have equal codes"):
        residual_codes(np.repeat(vectors[:300], 1 + 299 * (np.arange(300) == 0), axis=0), np.arange(500))


def test_beam_search_finds_valid_items_by_their_probability():
    """With as many beams as items it finds all of them, scored as the model scores their codes."""
    torch.manual_seed(0)
    model = TIGER(codes_of_items(), **{**SMALL, "beams": NUM_ITEMS}).eval()
    histories = [[0, 1, 2], [3]]
    rows, scores = model.best(histories)
    assert sorted(rows[0]) == sorted(rows[1]) == list(range(NUM_ITEMS))
    for user, history in enumerate(histories):
        inputs = {name: tensor.expand(NUM_ITEMS, -1) for name, tensor in model._inputs([history]).items()}
        with torch.no_grad():
            logits = model.t5(**inputs, labels=model.tokens).logits
        of_tokens = torch.log_softmax(logits, -1).gather(-1, model.tokens[..., None])[..., 0].sum(dim=1)
        np.testing.assert_allclose(scores[user], of_tokens[rows[user]], rtol=1e-4)
        assert (np.diff(scores[user]) <= 0).all()


def test_users_are_searched_together_as_alone():
    torch.manual_seed(0)
    model = TIGER(codes_of_items(), **SMALL).eval()
    random = np.random.default_rng(0)
    histories = [random.integers(0, NUM_ITEMS, length).tolist() for length in random.integers(1, 25, 20)]
    rows, scores = model.best(histories)
    for history, of_user, of_rows in zip(histories, rows, scores, strict=True):
        alone, of_alone = model.best([history])
        assert of_user.tolist() == alone[0].tolist()
        np.testing.assert_allclose(of_rows, of_alone[0], rtol=1e-4)


def test_more_beams_than_items_find_each_once():
    torch.manual_seed(0)
    rows, _ = TIGER(codes_of_items(), **{**SMALL, "beams": 50}).eval().best([[0, 1]])
    assert sorted(rows[0]) == list(range(NUM_ITEMS))


def test_items_that_are_not_found_come_last():
    model = TIGER(codes_of_items(), **SMALL).eval()
    rows, found = model.best([[4, 5]])
    scores = model.scores([[4, 5]])[0]
    np.testing.assert_allclose(scores[rows[0]], found[0], rtol=1e-6)
    assert (np.delete(scores, rows[0]) == np.float32(found.min() - 1)).all()
    few = dense(np.array([[2, -1, -1]]), np.array([[-1.0, -np.inf, -5.0]]), 4)
    assert few.tolist() == [[-2, -2, -1, -2]], "fewer items than beams"


def test_it_learns_what_follows():
    torch.manual_seed(0)
    sequences = [[(start + step) % NUM_ITEMS for step in range(6)] for start in range(NUM_ITEMS)] * 4
    epochs = itertools.count()
    model = TIGER(codes_of_items(), **SMALL)
    t5s_own = {"make_optimizer": torch.optim.Adafactor, "learning_rate": 3e-2}
    fit(model, sequences, lambda _: next(epochs), epochs=80, batch_size=8, **t5s_own)
    histories = [[(start + step) % NUM_ITEMS for step in range(n)] for n in (2, 3) for start in range(NUM_ITEMS)]
    found = model.scores(histories).argmax(axis=1) == [(history[-1] + 1) % NUM_ITEMS for history in histories]
    assert found.sum() >= 20, "of 24, where chance finds 2; all with four seeds"
