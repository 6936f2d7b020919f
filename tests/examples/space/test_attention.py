"""The picture's numbers are the model's own."""

import numpy as np
import pytest

from attention import attention_of_last_item, share

HISTORY = ["p3", "p1", "p4", "p15"]


def test_branches_are_weighted_and_their_difference_is_what_was_used(make_model, fitted):
    model = make_model()
    attention = attention_of_last_item(model, fitted, HISTORY)
    assert attention.used.shape == (2, 2, 4) and attention.branches.shape == (2, 2, 2, 4)
    np.testing.assert_allclose(attention.branches.sum(-1), attention.lambdas, rtol=1e-5)
    np.testing.assert_allclose(attention.branches[:, 0] - attention.branches[:, 1], attention.used, atol=1e-6)
    assert attention.norm is None
    batch = fitted([HISTORY], return_tensors="pt")
    output = model(batch["input_ids"], batch["attention_mask"], output_attentions=True)
    np.testing.assert_array_equal(attention.used[1], output.attentions[1][0, :, -1].detach().numpy())


def test_columns_are_of_one_head_or_the_mean(make_model, fitted):
    attention = attention_of_last_item(make_model(), fitted, HISTORY)
    of_head = [attention.columns(1, head)[2].weights for head in (0, 1)]
    first, second, used = attention.columns(1)
    np.testing.assert_allclose(np.mean(of_head, axis=0), used.weights, rtol=1e-5)
    np.testing.assert_allclose(np.subtract(first.weights, second.weights), used.weights, atol=1e-6)
    assert [column.sign for column in (first, second, used)] == [1, -1, 0]
    assert f"{attention.lambdas[1, 0].mean():.2f}" in first.note


def test_a_normalised_difference_says_so(make_model, fitted):
    attention = attention_of_last_item(make_model(attention_norm="l1"), fitted, HISTORY)
    used = attention.columns(0, 1)[2]
    assert sum(map(abs, used.weights)) == pytest.approx(1, rel=1e-4)
    assert "l1" in used.note


def test_standard_attention_has_one_column(make_model, fitted):
    attention = attention_of_last_item(make_model(attention_type="standard"), fitted, HISTORY)
    (column,) = attention.columns(0)
    assert sum(column.weights) == pytest.approx(1, rel=1e-4) and min(column.weights) > 0


def test_of_long_histories_the_last_items_are_read(make_model, fitted):
    history = [f"p{item}" for item in range(20)]
    attention = attention_of_last_item(make_model(), fitted, history)
    assert attention.used.shape == (2, 2, 12)
    np.testing.assert_array_equal(attention.used, attention_of_last_item(make_model(), fitted, history[-12:]).used)


def test_shares_are_of_absolute_weight():
    assert share([0.2, -0.1, 0.1], [False, True, False]) == pytest.approx(0.25)
    assert share([0.0, 0.0], [True, False]) == 0
