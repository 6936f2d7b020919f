"""Trainer invariants. Where MTP alone counts, batches change nothing. Noise hangs on seed, step and example, so a
resumed run is the uninterrupted one bit for bit."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from modeling_fair import FairDataCollator, FairTrainer, FairTrainingArguments, ItemIndex
from modeling_fair.cooccurrence_fair import cooccurrence
from modeling_fair.metrics_fair import evaluate_ranks, rank_targets
from modeling_fair.resuming_fair import ResumedTraining
from modeling_fair.trainer_fair import TrainingDivergedError

ITEMS = {"prediction": "items", "num_known_items": 39, "item_residuals": True}  # p0 was not met in training


@pytest.fixture
def make_trainer(make_model, fitted, prepared, tmp_path):
    def make(output: str = "run", model_fields: dict | None = None, **options) -> FairTrainer:
        defaults = {
            "output_dir": str(tmp_path / output),
            "use_cpu": True,
            "bf16": False,
            "max_steps": 4,
            "per_device_train_batch_size": 8,
            "eval_strategy": "no",
            "save_strategy": "no",
            "load_best_model_at_end": False,
            "logging_steps": 1,
            "learning_rate": 1e-2,
            "disable_tqdm": True,
        }
        return FairTrainer(
            model=make_model(**(model_fields or {})),
            args=FairTrainingArguments(**{**defaults, **options}),
            processing_class=fitted,
            train_dataset=prepared["train"],
            eval_dataset=prepared["validation"],
        )

    return make


def weights(trainer: FairTrainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def assert_same(one: dict, other: dict, **tolerance) -> None:
    for name in one:
        torch.testing.assert_close(one[name], other[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize(
    "fields, objectives",
    [({}, {}), (ITEMS, {"mtp_weight": 0.5, "item_weight": 1.0}), (ITEMS, {"mtp_weight": 0.0, "item_weight": 1.0})],
)
def test_batch_of_8_equals_8_of_1(make_trainer, fields, objectives):
    """With micro-batches of very different numbers of targets."""
    results = []
    for micro, steps in ((8, 1), (2, 4), (1, 8)):
        trainer = make_trainer(
            f"micro{micro}",
            fields,
            **objectives,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=steps,
            nrt_weight=0.0,
            mim_weight=0.0,
        )
        trainer.train()
        results.append((weights(trainer), [log["loss"] for log in trainer.state.log_history if "loss" in log]))
    for state, losses in results[1:]:
        assert_same(results[0][0], state, rtol=1e-4, atol=1e-5)
        assert losses == pytest.approx(results[0][1], rel=1e-3)


@pytest.mark.parametrize("stop, fields", [(2, {}), (3, {}), (3, ITEMS)])
def test_resumed_equals_uninterrupted_bit_for_bit(make_trainer, stop, fields, tmp_path):
    """At the end of an epoch (2 steps) and within one, with noise, dropout and drawn candidates on."""
    options = {"item_weight": 1.0, "item_negatives": 20} if fields else {}
    options |= {"save_strategy": "steps", "save_steps": 1, "save_total_limit": None, "max_steps": 5}
    dropout = {"hidden_dropout": 0.2, "embedding_dropout": 0.1, **fields}
    whole = make_trainer("whole", dropout, **options)
    whole.train()
    resumed = make_trainer("whole", dropout, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{stop}"))
    assert_same(weights(whole), weights(resumed), rtol=0, atol=0)


@pytest.mark.parametrize("fields", [{}, ITEMS])
def test_two_threads_give_the_same_weights_again(make_trainer, fields):
    """Wide enough that tensors are shared out between the threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runs = []
        for number in range(4):
            trainer = make_trainer(
                f"run{number}",
                {"hidden_size": 1024, "hidden_dropout": 0.2, **fields},
                item_weight=1.0 if fields else 0.0,
                per_device_train_batch_size=16,
                learning_rate=1e-3,
                max_steps=2,
            )
            trainer.train()
            runs.append(weights(trainer))
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        assert_same(runs[0], other, rtol=0, atol=0)


def test_a_run_resumed_in_a_moved_folder_ends_with_its_best_weights_and_its_whole_time(make_trainer, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    options |= {"save_total_limit": None, "load_best_model_at_end": True, "metric_for_best_model": "eval_recall@10"}

    def falling(trainer):  # the first step is the best
        trainer.compute_metrics = lambda _: {"recall@10": 1.0 - trainer.state.global_step / 10}
        return trainer

    first = falling(make_trainer("first", **options, max_steps=2))
    first.train()
    assert first.state.best_global_step == 1 and first.train_seconds > 0
    callback = next(one for one in first.callback_handler.callbacks if isinstance(one, ResumedTraining))
    callback.seconds = 1000.0
    first.train()
    assert 0 < first.train_seconds < 1000, "trained anew: what it took before is no part of it"
    (tmp_path / "first").rename(tmp_path / "moved")
    file = tmp_path / "moved" / "checkpoint-2" / "trainer_state.json"
    state = json.loads(file.read_text())
    state["stateful_callbacks"]["ResumedTraining"]["args"]["seconds"] = 1000.0
    saved = load_file(tmp_path / "moved" / "checkpoint-1" / "model.safetensors")
    for known in (True, False):  # a checkpoint of an older version does not know its time
        if not known:
            del state["stateful_callbacks"]["ResumedTraining"]
        file.write_text(json.dumps(state))
        for steps in (2, 3):  # where nothing is left to train, no later checkpoint tells which one was best
            resumed = falling(make_trainer("moved", **options, max_steps=steps))
            resumed.train(resume_from_checkpoint=str(file.parent))
            assert_same(saved, weights(resumed), rtol=0, atol=0)
            assert (resumed.train_seconds > 1000) == known


def test_every_part_is_logged_and_adds_up(make_trainer):
    trainer = make_trainer(nrt_weight=0.7, mim_weight=0.3, max_steps=2)
    trainer.train()
    for log in trainer.state.log_history[:2]:
        parts = log["mtp_loss"] + 0.7 * log["nrt_loss"] + 0.3 * log["mim_loss"]
        assert log["loss"] == pytest.approx(parts, rel=1e-5)
        assert min(log["mtp_loss"], log["nrt_loss"], log["mim_loss"]) > 0


def test_parts_that_are_off_are_not_computed(make_trainer):
    trainer = make_trainer(nrt_weight=0.0, mim_weight=0.0, max_steps=1)
    batches = []
    trainer.model.model.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["loss"] == pytest.approx(log["mtp_loss"]) and "nrt_loss" not in log and "mim_loss" not in log
    assert batches == [8]


def test_loss_against_plain_torch(make_trainer, prepared, fitted):
    """The whole objective of one batch, written out from its definition."""
    trainer = make_trainer(nrt_weight=1.0, mim_weight=0.5, nrt_margin=2.0)
    trainer.create_optimizer_and_scheduler(1)
    model, args = trainer.model, trainer.args
    batch = FairDataCollator(fitted)([prepared["train"][i] for i in range(6)])
    seen = []
    handle = model.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    trainer._sequences_in_batch = 6.0
    loss = trainer.compute_loss(model, dict(batch))
    handle.remove()
    clean, noisy = seen
    assert torch.equal(clean, batch["input_ids"])
    assert ((noisy != batch["input_ids"]) & batch["attention_mask"].bool()[..., None]).any()

    mask = batch["attention_mask"].bool()
    logits = model(batch["input_ids"], batch["attention_mask"], logits_to_keep=0).logits
    mtp = nn.functional.cross_entropy(logits[mask].flatten(0, 1), batch["labels"][mask].flatten())
    clean = model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    dirty = model(noisy, batch["attention_mask"]).last_hidden_state
    unit = nn.functional.normalize
    lengths = mask.sum(1)
    last = [unit(clean[i, lengths[i] - 1], dim=0) for i in range(6)]
    triplets, contrasts = [], []
    targets = [model.model.embeddings.item_vectors(batch["labels"][i, lengths[i] - 1]) for i in range(6)]
    for i in range(6):
        for t in range(lengths[i]):
            anchor = unit(clean[i, t], dim=0)
            away = min((anchor - last[j]).norm() for j in range(6) if j != i)
            triplets.append(((anchor - unit(dirty[i, t], dim=0)).norm() - away + 2.0).clamp(min=0))
        pooled = clean[i, : lengths[i]].mean(0)
        cosines = torch.stack([torch.cosine_similarity(pooled, target, dim=0) for target in targets])
        same = [
            j
            for j in range(6)
            if j != i and torch.equal(batch["labels"][j, lengths[j] - 1], batch["labels"][i, lengths[i] - 1])
        ]
        kept = [j for j in range(6) if j not in same]
        contrasts.append(-(cosines[kept] / args.mim_temperature).log_softmax(0)[kept.index(i)])
    expected = mtp + torch.stack(triplets).mean() + 0.5 * torch.stack(contrasts).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_both_views_of_nrt_have_the_same_dropout(make_trainer, prepared, fitted):
    """Without noise they are then the same; the next step drops others."""
    dropout = {"attention_dropout": 0.5, "embedding_dropout": 0.5, "hidden_dropout": 0.5}
    trainer = make_trainer(model_fields=dropout, nrt_weight=1.0, mask_probability=0.0, replace_probability=0.0)
    trainer.create_optimizer_and_scheduler(1)
    trainer._sequences_in_batch = 6.0
    batch = FairDataCollator(fitted)([prepared["train"][i] for i in range(6)])
    states = []
    trainer.model.train().model.register_forward_hook(lambda module, _, output: states.append(output[0]))
    for _ in range(2):
        trainer.compute_loss(trainer.model, dict(batch))
    first, noisy, second, _ = states
    torch.testing.assert_close(first, noisy, rtol=0, atol=0)
    assert (first - second).abs().mean() > 0.1


def test_lambdas_norms_and_biases_are_not_decayed(make_trainer):
    trainer = make_trainer()
    decayed = trainer.get_decay_parameter_names(trainer.model)
    assert not [name for name in decayed if "lambda" in name or "norm" in name or "bias" in name]
    assert "heads.weight" in decayed and "model.embeddings.codes.weight" in decayed


def test_evaluation_is_full_ranking_by_item(make_trainer, prepared, fitted):
    """Against scores of all items by the definition, one user at a time; batch and chunk sizes change nothing."""
    trainer = make_trainer(per_device_eval_batch_size=5, eval_chunk_items=7)
    metrics = trainer.evaluate()
    examples = list(prepared["validation"])
    codes = torch.from_numpy(fitted.item_codes).long()
    scores = []
    for example in examples:
        logits = trainer.model(codes[example["item_ids"]][None]).logits[0, 0].log_softmax(-1)
        scores.append(logits[torch.arange(4), codes].mean(-1))
    scores = torch.stack(scores)
    targets = torch.tensor([example["target_id"] for example in examples])
    seen = nn.utils.rnn.pad_sequence(
        [torch.tensor(example["seen_ids"]) for example in examples], batch_first=True, padding_value=-1
    )
    ranked = rank_targets([(0, scores)], scores[torch.arange(len(targets)), targets], targets, seen)
    for name, value in evaluate_ranks({key: rank.numpy() for key, rank in ranked.items()}, 40).items():
        assert metrics[f"eval_{name}"] == pytest.approx(value, abs=1e-6), name
    assert metrics["eval_recall@10_seen_removed"] > metrics["eval_recall@10"] - 1e-9


def test_persistent_workers_evaluate_the_data_set_that_is_asked_for(make_trainer, prepared):
    trainer = make_trainer(dataloader_num_workers=1, dataloader_persistent_workers=True)
    some = prepared["validation"].select(range(3))
    lengths = [len(trainer.get_eval_dataloader(one).dataset) for one in (some, prepared["validation"], some)]
    assert lengths == [3, len(prepared["validation"]), 3] and lengths[1] > 3
    assert trainer.get_eval_dataloader(some) is trainer.get_eval_dataloader(some)


@pytest.mark.parametrize("fields", [{}, ITEMS])
def test_best_model_is_kept_and_patience_stops(make_trainer, tmp_path, fields):
    """Each epoch is evaluated with the weights of that epoch, the lengths of items that hang on them included."""
    trainer = make_trainer(
        model_fields=fields,
        item_weight=float(bool(fields)),
        max_steps=-1,
        num_train_epochs=30,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        early_stopping_patience=2,
        learning_rate=3e-2,
    )
    trainer.train()
    history = [log["eval_ndcg@10"] for log in trainer.state.log_history if "eval_ndcg@10" in log]
    assert len(history) < 30
    assert trainer.state.best_metric == max(history)
    assert trainer.evaluate()["eval_ndcg@10"] == pytest.approx(max(history), abs=1e-6)
    trainer.create_model_card()
    assert f"{max(history):.4f}" in (tmp_path / "run/README.md").read_text(), "the card is that of the best epoch"


def test_a_checkpoint_is_whole(make_trainer, tmp_path):
    from transformers import pipeline

    trainer = make_trainer(save_strategy="steps", save_steps=2, max_steps=2)
    trainer.train()
    recommender = pipeline("recommendation", model=str(tmp_path / "run" / "checkpoint-2"))
    assert len(recommender({"history": ["p1"]}, top_k=3)) == 3
    assert recommender.model.config.codebook_fingerprint == trainer.processing_class.codebook_fingerprint


@pytest.mark.parametrize(
    "fields, named",
    [
        ({"nrt_weight": -1.0}, "nrt_weight"),
        ({"mask_probability": 0.7, "replace_probability": 0.4}, "more than 1"),
        ({"mim_temperature": 0.0}, "mim_temperature"),
        ({"torch_compile": True}, "compile_layers"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha"),
        ({"eval_do_concat_batches": False}, "eval_do_concat_batches"),
    ],
)
def test_bad_arguments_are_named(tmp_path, fields, named):
    with pytest.raises(ValueError, match=named):
        FairTrainingArguments(output_dir=str(tmp_path), **fields)


def test_a_stream_logs_the_parts_of_its_loss(make_trainer, prepared):
    trainer = make_trainer(max_steps=6)  # 3 epochs
    trainer.train_dataset = prepared["train"].to_iterable_dataset()
    trainer.train()
    logs = [log for log in trainer.state.log_history if "mtp_loss" in log]
    assert len(logs) == 6
    for log in logs:
        parts = log["mtp_loss"] + log["nrt_loss"] + 0.01 * log["mim_loss"]
        assert log["loss"] == pytest.approx(parts, rel=1e-3)


def test_a_loss_of_others_is_refused(make_model, fitted, tmp_path):
    args = FairTrainingArguments(output_dir=str(tmp_path))
    with pytest.raises(ValueError, match="override compute_loss"):
        FairTrainer(make_model(), args, processing_class=fitted, compute_loss_func=lambda *_: 0)


@pytest.mark.parametrize("metric, greater", [("ndcg@10", True), ("recall@10_seen_removed", True), ("loss", False)])
def test_more_of_a_metric_is_better_but_of_a_loss_less(tmp_path, metric, greater):
    args = FairTrainingArguments(output_dir=str(tmp_path), metric_for_best_model=metric)
    assert args.greater_is_better is greater


@pytest.mark.parametrize(
    "cpu, options, used",
    [
        ({"avx512_bf16": True}, {}, True),
        ({"amx_bf16": True}, {}, True),
        ({"avx2": True}, {}, False),
        ({"avx512_bf16": True}, {"bf16": False}, False),
        ({"avx512_bf16": True}, {"fp16": True}, False),
    ],
)
def test_bfloat16_is_used_where_the_processor_has_it_and_nothing_else_was_asked(
    tmp_path, monkeypatch, cpu, options, used
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu, raising=False)
    args = FairTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **options)
    assert args.bf16 is used


def test_bf16_training_is_float32_training_within_rounding(make_trainer):
    losses = []
    for bf16 in (False, True):
        trainer = make_trainer(bf16=bf16)
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
        assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


class StepEnd(TrainerCallback):
    def __init__(self, call):
        self.call = call

    def on_step_end(self, args, state, control, **kwargs):
        self.call()


def test_compiled_layers_train_the_same_and_compile_once_for_all_batch_shapes(make_trainer, monkeypatch):
    # One batch a step, of different lengths and numbers of items. The eager backend needs no C++ compiler.
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    compile_layer = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda layer, **options: compile_layer(layer, backend=backend, **options)
    )
    torch._dynamo.reset()
    losses, graphs = [], []
    for compile_layers in (False, True):
        trainer = make_trainer(compile_layers=compile_layers, max_steps=8, per_device_train_batch_size=3)
        trainer.add_callback(StepEnd(lambda: graphs.append(len(compiled))))
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert 0 < graphs[8] == graphs[-1], "the first step compiles all there is"


@pytest.mark.parametrize(
    "fields, named", [({"codebook_size": 16}, "codes of 16"), ({"codebook_fingerprint": "other"}, "fit other")]
)
def test_a_model_of_another_tokenizer_is_refused(make_trainer, fields, named):
    with pytest.raises(ValueError, match=named):
        make_trainer(model_fields=fields)


@pytest.mark.parametrize("remove_seen", [False, True])
def test_the_item_loss_against_plain_torch(make_trainer, prepared, fitted, remove_seen):
    """Cross-entropy over cosines with unit vectors, of codes and the known items' own vectors; of all items or,
    for a target that is new to the user, of those that are."""
    weights_of_losses = {"mtp_weight": 0.0, "item_weight": 2.0, "nrt_weight": 0.0, "mim_weight": 0.0}
    trainer = make_trainer(model_fields=ITEMS, item_remove_seen=remove_seen, **weights_of_losses)
    model = trainer.model
    examples = [dict(prepared["train"][i]) for i in range(6)]
    examples[0]["item_ids"] = [*examples[0]["item_ids"], examples[0]["item_ids"][0]]  # taken again
    batch = FairDataCollator(fitted)(examples)
    loss = trainer.compute_loss(model, dict(batch))
    known = batch["next_ids"] >= 0
    residuals = model.model.embeddings.residuals.weight
    codebooks = model.model.embeddings.codebooks()
    codes = torch.from_numpy(fitted.item_codes).long()
    vectors = sum(codebooks[digit, codes[:, digit]] for digit in range(4)) / 2 + residuals[fitted.known_ids]
    vectors = nn.functional.normalize(vectors, dim=-1)
    states = model(batch["input_ids"], batch["attention_mask"], known_ids=batch["known_ids"]).last_hidden_state[known]
    logits = nn.functional.normalize(states, dim=-1) @ vectors.T / model.config.cosine_temperature
    if remove_seen:
        histories = [example["item_ids"][: place + 1] for example in examples
                     for place in range(len(example["item_ids"]) - 1)]  # fmt: skip
        for row, (seen, target) in enumerate(zip(histories, batch["next_ids"][known].tolist(), strict=True)):
            if target not in seen:
                logits[row, list(seen)] = -torch.inf
    plain = nn.functional.cross_entropy(logits, batch["next_ids"][known])
    torch.testing.assert_close(loss, 2 * plain, rtol=1e-4, atol=1e-5)


def test_items_are_evaluated_as_they_are_served(make_trainer, prepared, fitted):
    """With residuals and a prior; in chunks and whole."""
    trainer = make_trainer(model_fields=ITEMS, eval_chunk_items=7)
    rows = map(np.asarray, prepared["train"]["item_ids"])
    trainer.model.set_prior(cooccurrence(map(fitted.known_ids_of, rows), 39), 0.5)
    in_chunks = trainer.evaluate()
    trainer.args.eval_chunk_items = 1000
    whole = trainer.evaluate()
    index = ItemIndex(fitted.item_codes, known_ids=fitted.known_ids)
    histories = [[fitted.catalogue.item_ids[row] for row in rows] for rows in prepared["validation"]["item_ids"]]
    batch = fitted(histories, return_tensors="pt")
    for suffix, remove_seen in (("", False), ("_seen_removed", True)):
        best = trainer.model.recommend(**batch, index=index, top_k=10, remove_seen=remove_seen).item_ids
        found = (best == torch.tensor(prepared["validation"]["target_id"])[:, None]).any(dim=1).float().mean().item()
        assert whole[f"eval_recall@10{suffix}"] == pytest.approx(found)
        assert in_chunks[f"eval_ndcg@10{suffix}"] == pytest.approx(whole[f"eval_ndcg@10{suffix}"])


def test_settings_of_items_that_do_not_fit_are_refused(make_trainer):
    with pytest.raises(ValueError, match="item_weight trains the prediction of items"):
        make_trainer(item_weight=1.0)
    with pytest.raises(ValueError, match="The model knows 12 items but this tokenizer 39"):
        make_trainer(model_fields={**ITEMS, "num_known_items": 12})


def test_items_that_were_adopted_between_trainings_learn(make_trainer, fitted, embeddings):
    """By the same trainer, whose optimizer held the vectors of before."""
    trainer = make_trainer(model_fields=ITEMS, item_weight=1.0, mtp_weight=0.0)
    trainer.processing_class = tokenizer = copy.deepcopy(fitted)
    trainer.train()
    optimizer = trainer.optimizer
    trainer.train()
    assert trainer.optimizer is optimizer
    tokenizer.add_items([{"item_id": "new", "title": "fresh"}], embeddings[:1])
    assert trainer.model.adopt_new_items(tokenizer) == 2
    before = trainer.model.model.embeddings.residuals.weight.detach().clone()
    trainer.train()
    assert (trainer.model.model.embeddings.residuals.weight != before).any(dim=1).sum() > 20


def test_a_training_that_diverges_stops(make_trainer):
    trainer = make_trainer(learning_rate=1e30, warmup_steps=0, max_steps=8, max_grad_norm=0.0)
    with pytest.raises(TrainingDivergedError, match="diverged: .*_loss is nan by step .*--learning_rate"):
        trainer.train()
