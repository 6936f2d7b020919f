import pytest
import torch

from modeling_fair.attention_fair import FairAttention, normalise_map
from modeling_fair.configuration_fair import ATTENTION_NORMS

SCORE_NORMS = [norm for norm in ATTENTION_NORMS if norm != "rms_output"]


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    return torch.randint(0, 8, (3, 6, 4))


def visible(items: int) -> torch.Tensor:
    return torch.ones(items, items, dtype=torch.bool).tril()[None, None]


@pytest.mark.parametrize(
    "fields",
    [
        *({"attention_norm": norm} for norm in ATTENTION_NORMS),
        {"attention_type": "standard"},
        {"prediction": "items"},
        {"relative_position_bias": True},
        {"relative_position_bias": True, "attention_norm": "layer_norm"},
    ],
)
def test_no_weight_on_the_future(make_model, inputs, fields):
    """A later item changes neither earlier states nor the map's upper triangle, whatever the norm."""
    model = make_model(**fields)
    output = model(inputs, output_attentions=True)
    changed = inputs.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 8
    states = model(changed).last_hidden_state
    torch.testing.assert_close(states[:, :4], output.last_hidden_state[:, :4], rtol=0, atol=1e-5)
    assert not torch.allclose(states[:, 4:], output.last_hidden_state[:, 4:], atol=1e-3)
    for attention_map in output.attentions:
        assert (attention_map.triu(1) == 0).all()
        assert attention_map.abs().sum() > 0


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("norm", ATTENTION_NORMS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(make_model, inputs, norm, side, biased):
    model = make_model(attention_norm=norm, relative_position_bias=biased)
    alone = model(inputs[:1, :4]).logits
    padding = torch.zeros(1, 3, 4, dtype=torch.long)
    parts = [padding, inputs[:1, :4]] if side == "left" else [inputs[:1, :4], padding]
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1] if side == "left" else [1, 1, 1, 1, 0, 0, 0]])
    for filler in (0, 5):
        padding.fill_(filler)
        padded = model(torch.cat(parts, dim=1), mask).logits
        torch.testing.assert_close(padded, alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("attention_type", ["focused", "standard"])
def test_eager_equals_sdpa(make_model, inputs, attention_type, biased):
    model = make_model(attention_type=attention_type, relative_position_bias=biased)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [0] * 2 + [1] * 4])
    assert model.config._attn_implementation == "sdpa"
    fused = model(inputs, mask).last_hidden_state
    model.set_attn_implementation("eager")
    eager = model(inputs, mask).last_hidden_state
    torch.testing.assert_close(fused[mask.bool()], eager[mask.bool()], rtol=0, atol=1e-4)


@pytest.mark.parametrize("norm", SCORE_NORMS)
def test_fused_kernels_are_refused_where_maps_are_normalised(make_model, norm):
    model = make_model(attention_norm=norm)
    assert model.config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="rms_output"):
        model.set_attn_implementation("sdpa")


@pytest.mark.parametrize("norm", ATTENTION_NORMS)
def test_returned_map_is_the_normalised_difference_of_the_branches(make_model, inputs, norm):
    model = make_model(attention_norm=norm)
    output = model(inputs, output_attentions=True, output_branch_attentions=True)
    for layer, attention_map, branches in zip(
        model.model.layers, output.attentions, output.branch_attentions, strict=True
    ):
        assert branches.shape == (3, 2, 2, 6, 6)
        torch.testing.assert_close(branches.sum(-1), torch.ones(3, 2, 2, 6))
        lambda1, lambda2 = (weight[:, None, None] for weight in layer.self_attn.lambdas())
        difference = lambda1 * branches[:, 0] - lambda2 * branches[:, 1]
        expected = normalise_map(difference, visible(6), norm, model.config.rms_norm_eps)
        torch.testing.assert_close(attention_map, expected)


def test_maps_can_be_asked_of_a_fused_model_and_change_no_answer(make_model, inputs):
    model = make_model()
    assert model.config._attn_implementation == "sdpa"
    plain, mapped = model(inputs), model(inputs, output_attentions=True)
    assert plain.attentions is None and len(mapped.attentions) == 2
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(plain.logits, mapped.logits, rtol=0, atol=1e-4)


def test_attention_with_a_bias_of_positions_asks_for_them(make_model):
    attention = make_model(relative_position_bias=True).model.layers[0].self_attn
    with pytest.raises(ValueError, match="position_ids"):
        attention(torch.randn(1, 5, 32), None, "eager")


def test_standard_attention_has_one_branch(make_model, inputs):
    model = make_model(attention_type="standard")
    output = model(inputs, output_attentions=True, output_branch_attentions=True)
    assert output.branch_attentions[0].shape == (3, 1, 2, 6, 6)
    torch.testing.assert_close(output.branch_attentions[0][:, 0], output.attentions[0])


def test_equal_branches_with_equal_weights_leave_nothing(config):
    torch.manual_seed(0)
    attention = FairAttention(config)
    with torch.no_grad():
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight[32:] = projection.weight[:32]
        attention.log_lambda1.zero_()
        attention.log_lambda2.zero_()
    _, attention_map, _ = attention(torch.randn(1, 5, 32), None, "eager")
    torch.testing.assert_close(attention_map, torch.zeros_like(attention_map))


def test_lambdas_stay_positive_under_any_gradient(config):
    attention = FairAttention(config)
    optimizer = torch.optim.SGD([attention.log_lambda2], lr=100.0)
    attention.lambdas()[1].sum().backward()
    optimizer.step()
    assert (attention.lambdas()[1] >= 0).all()


@pytest.mark.parametrize(
    "norm, row, expected",
    [
        ("relu", [0.5, -0.25, 0.25], [2 / 3, 0.0, 1 / 3]),
        ("l1", [0.5, -0.25, 0.25], [0.5, -0.25, 0.25]),
        ("layer_norm", [1.0, 0.0, -1.0], [1.5**0.5, 0.0, -(1.5**0.5)]),
        ("softmax", [0.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]),
        ("softmax_abs", [1.0, -1.0, 0.0], [0.4223188, 0.4223188, 0.1553624]),
        ("rms_output", [0.5, -0.25, 0.25], [0.5, -0.25, 0.25]),
    ],
)
def test_norms_on_a_row_by_hand(norm, row, expected):
    difference = torch.tensor([*row, 0.0])[None, None, None]
    seen = torch.tensor([True, True, True, False])[None, None, None]
    normed = normalise_map(difference, seen, norm, eps=1e-9)
    torch.testing.assert_close(normed[0, 0, 0], torch.tensor([*expected, 0.0]), rtol=1e-4, atol=1e-5)


def test_dropout_is_off_in_evaluation(make_model, inputs):
    model = make_model(attention_dropout=0.5, hidden_dropout=0.5, embedding_dropout=0.5)
    torch.testing.assert_close(model(inputs).logits, model(inputs).logits)
    model.train()
    assert not torch.allclose(model(inputs).logits, model(inputs).logits)
