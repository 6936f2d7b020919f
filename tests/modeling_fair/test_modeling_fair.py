import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_array
from torch import nn
from transformers import AutoModel

from modeling_fair import FairConfig, FairForGenerativeRecommendation, FairModel, ItemIndex, packing_fair


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    return torch.randint(0, 8, (3, 6, 4))


def test_size_of_the_papers_model():
    with torch.device("meta"):
        model = FairForGenerativeRecommendation(FairConfig())
    assert 22.0e6 < sum(parameter.numel() for parameter in model.parameters()) < 22.1e6


def test_an_item_is_the_mean_of_its_code_embeddings(make_model, inputs):
    embeddings = make_model().model.embeddings
    vectors = embeddings.item_vectors(inputs)
    table = embeddings.codes.weight
    by_hand = torch.stack([table[digit * 8 + inputs[1, 2, digit]] for digit in range(4)]).mean(0)
    torch.testing.assert_close(vectors[1, 2], by_hand)
    masked = inputs.clone()
    masked[1, 2, 3] = 8
    by_hand += (table[32] - table[3 * 8 + inputs[1, 2, 3]]) / 4
    torch.testing.assert_close(embeddings.item_vectors(masked)[1, 2], by_hand)


@pytest.mark.parametrize("prediction", ["codes", "items"])
def test_codes_kept_as_bytes_are_the_same_codes(make_model, prediction):
    embeddings = make_model(codebook_size=256, prediction=prediction).model.embeddings
    codes = torch.tensor([[0, 1, 0, 255], [255, 0, 128, 7], [1, 2, 3, 4]])
    kept = ItemIndex(codes.numpy()).item_codes
    assert kept.dtype == torch.uint8, "256, the mask code, is 0 there"
    assert torch.equal(embeddings.item_vectors(kept), embeddings.item_vectors(codes))
    assert torch.equal(embeddings.lengths(kept, None), embeddings.lengths(codes, None))


def test_logits_are_cosines_with_the_tied_embeddings(make_model, inputs):
    model = make_model()
    output = model(inputs)
    assert output.logits.shape == (3, 1, 4, 8)
    state = output.last_hidden_state[2, -1]
    head = state + nn.functional.silu(model.heads.weight[3] @ state + model.heads.bias[3])
    codes = model.model.embeddings.codes.weight[3 * 8 : 4 * 8]
    by_hand = torch.cosine_similarity(head[None], codes, dim=-1) / model.config.cosine_temperature
    torch.testing.assert_close(output.logits[2, 0, 3], by_hand)


def test_heads_and_layers_start_as_the_identity(config, inputs):
    model = FairForGenerativeRecommendation(config).eval()
    assert (model.heads.weight == 0).all() and (model.heads.bias == 0).all()
    *_, vectors, state = model.model(inputs, output_hidden_states=True).hidden_states
    embeddings = model.model.embeddings
    assert torch.equal(vectors, embeddings.item_vectors(inputs) + embeddings.positions.weight[: inputs.shape[1]])
    torch.testing.assert_close(state, model.model.norm(vectors))


def test_layers_do_not_start_as_the_identity_where_items_are_predicted(config):
    fields = {**config.to_dict(), "prediction": "items"}
    model = FairForGenerativeRecommendation(FairConfig(**fields))
    assert all((layer.self_attn.o_proj.weight != 0).any() for layer in model.model.layers)
    assert all((layer.mlp.down_proj.weight != 0).any() for layer in model.model.layers)


def test_positions_start_no_larger_than_items():
    torch.manual_seed(0)
    embeddings = FairForGenerativeRecommendation(FairConfig(hidden_size=64, intermediate_size=64)).model.embeddings
    vectors = embeddings.item_vectors(torch.randint(256, (1000, 32)))
    assert embeddings.positions.weight.std().item() == pytest.approx(vectors.std().item(), rel=0.05)


def test_code_embeddings_are_stored_once_and_learn_from_both_sides(make_model, inputs, tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    assert sum("codes" in name for name in load_file(tmp_path / "model.safetensors")) == 1
    model = FairForGenerativeRecommendation.from_pretrained(tmp_path)
    labels = torch.full_like(inputs, -100)
    labels[:, -1] = 7
    model(inputs.clamp(max=5), labels=labels).loss.backward()
    gradient = model.model.embeddings.codes.weight.grad[:32].view(4, 8, -1)
    assert (gradient[:, 7] != 0).any(), "an output code that no input holds gets a gradient"


def test_loss_is_the_mean_cross_entropy_of_supervised_codes(make_model, inputs):
    model = make_model()
    labels = torch.randint(0, 8, inputs.shape)
    labels[0, :3] = -100
    labels[1, 2, 1] = -100
    logits = model(inputs, logits_to_keep=0).logits
    expected = nn.functional.cross_entropy(logits.flatten(0, 2), labels.flatten(), ignore_index=-100)
    torch.testing.assert_close(model(inputs, labels=labels).loss, expected)
    count = (labels != -100).sum()
    torch.testing.assert_close(model(inputs, labels=labels, num_items_in_batch=2 * count).loss, expected / 2)


def test_heads_run_on_supervised_positions_only(make_model, inputs):
    model = make_model()
    rows = []
    model.heads.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 2 + [0] * 4])
    labels = torch.where(mask[..., None].bool(), inputs, -100)
    labels[0, 0] = -100
    model(inputs, mask, labels=labels)
    model(inputs, mask)
    model(inputs, mask, logits_to_keep=0)
    assert rows == [11, 3, 12]


def test_last_logits_are_those_of_the_last_item(make_model, inputs):
    model = make_model()
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [0] * 3 + [1] * 3])
    every = model(inputs, mask, logits_to_keep=0).logits
    last = model(inputs, mask).logits
    torch.testing.assert_close(last[:, 0], torch.stack([every[0, 5], every[1, 3], every[2, 5]]))
    assert (every[1, 4:] == 0).all()


@pytest.mark.parametrize("most_groups", [None, 1, 2])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("fields", [{}, {"attention_type": "standard"}, {"attention_norm": "softmax_abs"}])
def test_packing_changes_nothing_but_the_padding(make_model, inputs, most_groups, side, fields, monkeypatch):
    of_lengths = packing_fair._groups
    monkeypatch.setattr(packing_fair, "_groups", lambda lengths, most: of_lengths(lengths, most_groups))
    mask = torch.tensor([[1] * 6, [1] * 2 + [0] * 4, [1] * 3 + [0] * 3])
    mask = mask.flip(1) if side == "left" else mask
    real, results, cells = mask.bool(), [], []
    for packed in (False, True):
        model = make_model(**fields)
        model.model.norm.register_forward_pre_hook(lambda module, args: cells.append(args[0][..., 0].numel()))
        labels = torch.where(mask[..., None].bool(), inputs, -100)
        output = model(inputs, mask, labels=labels, packed=packed, logits_to_keep=0)
        output.loss.backward()
        states = output.last_hidden_state
        states = states[output.packing.packed_cells[real.flatten()]] if packed else states[real]
        last = model(inputs, mask, packed=packed).logits
        results.append((output.loss, states, output.logits, last, [p.grad for p in model.parameters()]))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
    assert cells[0] == 18 and cells[2] == {None: 11, 1: 18, 2: 12}[most_groups]


def test_packed_histories_without_padding_or_without_items(make_model, inputs):
    model = make_model()
    torch.testing.assert_close(model(inputs, packed=True).logits, model(inputs).logits)
    every = model(inputs, packed=True, logits_to_keep=0).logits
    torch.testing.assert_close(every, model(inputs, logits_to_keep=0).logits)
    mask = torch.ones(3, 6, dtype=torch.long)
    mask[1] = 0
    some = model(inputs, mask, packed=True).logits
    torch.testing.assert_close(some[[0, 2]], model(inputs, mask).logits[[0, 2]])


def test_item_vectors_can_be_given_instead_of_codes(make_model, inputs):
    model = make_model()
    vectors = model.model.embeddings.item_vectors(inputs)
    torch.testing.assert_close(model(inputs_embeds=vectors).logits, model(inputs).logits)


@pytest.mark.parametrize("attention_norm", ["rms_output", "softmax_abs"])
def test_save_equals_load(make_model, inputs, tmp_path, attention_norm):
    model = make_model(attention_norm=attention_norm)
    model.save_pretrained(tmp_path)
    for loaded in (
        FairForGenerativeRecommendation.from_pretrained(tmp_path),
        AutoModel.from_pretrained(tmp_path),
    ):
        assert type(loaded) is FairForGenerativeRecommendation
        assert torch.equal(loaded(inputs).logits, model(inputs).logits)
    base = FairModel.from_pretrained(tmp_path)
    assert torch.equal(base(inputs).last_hidden_state, model(inputs).last_hidden_state)


WITH_ITEMS = {"prediction": "items", "item_residuals": True, "num_known_items": 5, "prior_size": 3}


@pytest.mark.parametrize("fields", [{}, {"attention_type": "standard"}, WITH_ITEMS])
def test_nothing_is_missing_or_left_over_after_loading(make_model, tmp_path, fields):
    model = make_model(**fields)
    model.save_pretrained(tmp_path)
    loaded, report = FairForGenerativeRecommendation.from_pretrained(tmp_path, output_loading_info=True)
    assert report and not any(report.values())
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    "fields, lacking",
    [
        ({}, {"model.layers.0.self_attn.log_lambda2": math.log(0.5), "heads.bias": 0}),
        (WITH_ITEMS, {"model.layers.1.self_attn.log_lambda1": 0, "model.norm.weight": 1, "prior.counts": 0}),
    ],
)
def test_a_partial_checkpoint_keeps_what_it_has_and_starts_the_rest_afresh(make_model, tmp_path, fields, lacking):
    model = make_model(**fields)
    if model.prior is not None:
        model.prior.fill(csr_array(([3.0, 1.0, 2.0], ([0, 0, 4], [1, 3, 2])), shape=(5, 5)))
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in lacking:
        del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = FairForGenerativeRecommendation.from_pretrained(tmp_path).state_dict()
    for name, value in lacking.items():
        torch.testing.assert_close(loaded[name], torch.full_like(loaded[name], value))
    for name, tensor in weights.items():
        assert torch.equal(loaded[name], tensor), name


def test_gradient_checkpointing_changes_no_gradient(make_model, inputs):
    gradients = []
    for checkpointing in (False, True):
        model = make_model()
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(inputs, labels=inputs).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_compiles_to_one_graph(make_model, inputs):
    model = make_model()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(inputs).logits, model(inputs).logits)


@pytest.mark.parametrize(
    "call, named",
    [
        (lambda model: model(torch.zeros(1, 2, 5, dtype=torch.long)), "5 codes"),
        (lambda model: model(torch.zeros(1, 13, 4, dtype=torch.long)), "13 items"),
        (lambda model: model(), "exactly one"),
        (lambda model: model(torch.zeros(1, 2, 4, dtype=torch.long), logits_to_keep=2), "logits_to_keep"),
        (lambda model: model(torch.zeros(1, 2, 4).long(), packed=True, output_attentions=True), "packed"),
    ],
)
def test_bad_input_is_named(make_model, call, named):
    with pytest.raises(ValueError, match=named):
        call(make_model())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", [(3, 3), (2, 6), (3, 7)])
def test_a_mask_of_another_shape_is_refused(make_model, inputs, packed, shape):
    with pytest.raises(ValueError, match="attention_mask has shape"):
        make_model()(inputs, torch.ones(shape, dtype=torch.long), packed=packed)


def test_no_history_at_all_gives_no_answer(make_model, inputs):
    model = make_model()
    output = model.recommend(inputs[:0], inputs[:0, :, 0], index=ItemIndex(torch.randint(0, 8, (20, 4))), top_k=3)
    assert output.item_ids.shape == (0, 3)
    with pytest.raises(ValueError, match="no position"):
        model(inputs[:, :0])


def test_codes_are_not_resized(make_model):
    with pytest.raises(ValueError, match="tokenizer"):
        make_model().resize_token_embeddings(50)
