"""SASRec reads the past alone, learns a plain pattern, and keeps its best epoch."""

import itertools

import numpy as np
import pytest
import torch

from examples.baselines.sasrec import SASRec
from examples.baselines.training import fit

NUM_ITEMS = 12
SMALL = {"hidden_size": 16, "num_heads": 2, "intermediate_size": 32, "embedding_dropout": 0.0, "dropout": 0.0}


def test_a_state_hangs_on_the_items_before_it_alone():
    torch.manual_seed(0)
    model = SASRec(NUM_ITEMS, **SMALL).eval()
    rows = torch.tensor([[1, 2, 3, 4], [1, 2, 5, NUM_ITEMS]])
    states = model(rows)
    torch.testing.assert_close(states[0, :2], states[1, :2])
    assert not torch.allclose(states[0, 2], states[1, 2])
    alone = model.scores([[1, 2]])[0]
    together = model.scores([[1, 2], [3, 4, 5, 6]])[0]
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-5)
    assert np.exp(alone).sum() == pytest.approx(1, rel=1e-4)


def test_groups_of_similar_length_change_nothing():
    torch.manual_seed(0)
    model = SASRec(NUM_ITEMS, **SMALL).eval()
    random = np.random.default_rng(0)
    batch = [random.integers(0, NUM_ITEMS, length).tolist() for length in random.integers(2, 9, 21)]
    rows = model._padded(batch, 51)
    logits = model(rows[:, :-1]) @ model.items.weight[:-1].T
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), ignore_index=NUM_ITEMS)
    torch.testing.assert_close(model.loss_of(batch, random), loss)
    alone = np.concatenate([model.scores([history]) for history in batch])
    np.testing.assert_allclose(model.scores(batch), alone, rtol=1e-4, atol=1e-5)


SEQUENCES = [[(start + step) % NUM_ITEMS for step in range(6)] for start in range(NUM_ITEMS)] * 4


def test_it_learns_what_follows():
    torch.manual_seed(0)
    epochs = itertools.count()
    model = SASRec(NUM_ITEMS, **SMALL)
    fit(model, SEQUENCES, lambda _: next(epochs), epochs=15, batch_size=8, learning_rate=1e-2)
    assert model.scores([[3, 4, 5], [9, 10]]).argmax(axis=1).tolist() == [6, 11]


def test_it_keeps_the_best_epoch_and_stops():
    metrics = iter([0.1, 0.5, 0.2, 0.3, 0.4, 0.4])
    seen = []

    def validate(model):
        seen.append({name: weight.clone() for name, weight in model.state_dict().items()})
        return next(metrics)

    model = SASRec(NUM_ITEMS, **SMALL)
    fit(model, SEQUENCES, validate, epochs=6, patience=3, batch_size=8, learning_rate=1e-2)
    assert len(seen) == 5, "3 epochs without a better one"
    assert all(torch.equal(weight, seen[1][name]) for name, weight in model.state_dict().items())


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path):
    metrics = [0.1, 0.5, 0.2, 0.3]

    def trained(checkpoint, interrupted_in):
        measured, interruptions = [], set(interrupted_in)

        def validate(_):
            epoch = len(measured) + 1
            if epoch in interruptions:
                interruptions.remove(epoch)
                raise KeyboardInterrupt
            measured.append(metrics[epoch - 1])
            return measured[-1]

        while True:
            torch.manual_seed(0)
            model = SASRec(NUM_ITEMS, **{**SMALL, "dropout": 0.2})
            try:
                curve = fit(model, SEQUENCES, validate, epochs=4, batch_size=8, seed=1, checkpoint=checkpoint)
            except KeyboardInterrupt:
                continue
            return curve, model.state_dict()

    curve, weights = trained(tmp_path / "whole.safetensors", [])
    resumed_curve, resumed = trained(tmp_path / "parts.safetensors", [2, 4])
    assert curve == resumed_curve == metrics
    assert all(torch.equal(weight, resumed[name]) for name, weight in weights.items())
    with pytest.raises(ValueError, match="whole.safetensors is of a training with other settings"):
        model = SASRec(NUM_ITEMS, **{**SMALL, "dropout": 0.5})
        fit(model, SEQUENCES, len, epochs=4, batch_size=8, seed=1, checkpoint=tmp_path / "whole.safetensors")
