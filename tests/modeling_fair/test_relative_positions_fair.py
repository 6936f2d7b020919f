import pytest
import torch

from modeling_fair import FairConfig, FairForGenerativeRecommendation
from modeling_fair.packing_fair import PACKED
from modeling_fair.relative_positions_fair import RelativePositionBias


def test_bias_by_hand(config):
    """Of two heads the first branch's first falls by 1 an item; all others start with nothing."""
    bias = RelativePositionBias(FairConfig(**{**config.to_dict(), "relative_position_bias": True}))
    lowest = torch.finfo(torch.float32).min
    mask = bias(torch.arange(3)[None], 3, None, torch.float32)
    assert mask.shape == (1, 4, 3, 3)
    assert mask[0, 0].tolist() == [[0, lowest, lowest], [-1, 0, lowest], [-2, -1, 0]]
    assert not mask[0, 1:].tril().any()
    last = bias(torch.arange(3)[None], 1, None, torch.bfloat16)
    assert last.dtype == torch.bfloat16 and last[0, 0].tolist() == [[-2, -1, 0]]


@pytest.mark.parametrize("additive", [False, True])
def test_what_the_mask_hides_stays_hidden(config, additive):
    bias = RelativePositionBias(FairConfig(**{**config.to_dict(), "attention_type": "standard"}))
    visible = torch.tensor([[True, False], [False, True]])[None, None]
    given = torch.where(visible, 0.0, torch.finfo(torch.float32).min) if additive else visible
    mask = bias(torch.tensor([[0, 1]]), 2, given, torch.float32)
    assert torch.equal(mask > torch.finfo(torch.float32).min, visible.expand(1, 2, 2, 2))


@pytest.mark.parametrize("fields", [{}, {"attention_norm": "relu"}, {"attention_type": "standard"}])
def test_packed_histories_have_the_states_of_padded_ones(make_model, fields):
    model = make_model(relative_position_bias=True, **fields)
    torch.manual_seed(1)
    inputs, mask = torch.randint(0, 8, (3, 6, 4)), torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [0] * 3 + [1] * 3])
    padded = model.model(inputs, mask).last_hidden_state
    packed = model.model(inputs, mask, **PACKED)
    cells = packed.packing.packed_cells[mask.flatten().bool()]
    torch.testing.assert_close(packed.last_hidden_state[cells], padded[mask.bool()], rtol=0, atol=1e-4)
    last = model.model(inputs, mask, **{**PACKED, "last_only": True}).last_hidden_state
    of_last = padded[torch.arange(3), torch.tensor([5, 3, 5])]
    torch.testing.assert_close(last, of_last, rtol=0, atol=1e-4)


def test_the_order_of_earlier_items_matters_by_the_bias_alone(make_model):
    """Without absolute positions, a bias that is even makes a set of the history; one that is not, an order."""
    model = make_model(relative_position_bias=True, num_hidden_layers=1)
    torch.nn.init.zeros_(model.model.embeddings.positions.weight)
    torch.manual_seed(1)
    inputs = torch.randint(0, 8, (1, 4, 4))
    swapped = inputs[:, [1, 0, 2, 3]]
    ordered = [model(x).last_hidden_state[0, -1] for x in (inputs, swapped)]
    assert not torch.allclose(*ordered, atol=1e-3)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.position_bias.weight)
    torch.testing.assert_close(*(model(x).last_hidden_state[0, -1] for x in (inputs, swapped)), rtol=0, atol=1e-5)


def test_saved_equals_loaded_and_a_new_model_starts_as_stated(config, tmp_path):
    new = FairForGenerativeRecommendation(FairConfig(**{**config.to_dict(), "relative_position_bias": True}))
    bias = new.model.layers[0].self_attn.position_bias
    assert torch.equal(bias.weight, bias.start())
    torch.nn.init.normal_(bias.weight)
    new.save_pretrained(tmp_path)
    loaded = FairForGenerativeRecommendation.from_pretrained(tmp_path)
    assert torch.equal(loaded.model.layers[0].self_attn.position_bias.weight, bias.weight)


def test_gradients_reach_every_distance_that_was_read(make_model):
    model = make_model(relative_position_bias=True).train()
    inputs = torch.randint(0, 8, (2, 5, 4))
    model.model(inputs, torch.ones(2, 5, dtype=torch.long), **PACKED).last_hidden_state.square().sum().backward()
    gradient = model.model.layers[0].self_attn.position_bias.weight.grad
    assert gradient[:, :5].abs().min() > 0 and not gradient[:, 5:].any()
