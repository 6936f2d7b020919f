"""What a Transformers user tries first: adapters, checkpointing, compiling, bfloat16, device maps, trackers."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModel, pipeline

from modeling_fair import FairForGenerativeRecommendation, FairTrainer, FairTrainingArguments

BOTH = {"codes": {}, "items": {"prediction": "items", "num_known_items": 39, "item_residuals": True}}

SHORT = {
    "use_cpu": True,
    "bf16": False,
    "max_steps": 3,
    "save_strategy": "steps",
    "save_steps": 3,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-2,
    "disable_tqdm": True,
    "report_to": "none",
}


@pytest.fixture
def trained(fitted, prepared, tmp_path):
    """Train a model for 3 steps; returns its trainer."""

    def train(model, **options) -> FairTrainer:
        trainer = FairTrainer(
            model=model,
            args=FairTrainingArguments(output_dir=str(tmp_path / "run"), **{**SHORT, **options}),
            processing_class=fitted,
            train_dataset=prepared["train"],
            eval_dataset=prepared["validation"],
        )
        trainer.train()
        return trainer

    return train


@pytest.fixture(params=BOTH)
def model(request, make_model, fitted):
    weights = {"item_weight": 1.0, "mtp_weight": 0.0, "nrt_weight": 1.0} if request.param == "items" else {}
    made = make_model(codebook_fingerprint=fitted.codebook_fingerprint, **BOTH[request.param])
    return made, weights


def test_an_adapter_of_peft_is_trained_and_loaded(model, trained, tmp_path, fitted):
    """Adapters alone learn; what they learned is loaded over the model they were trained on, and merged into it."""
    base, weights = model
    base.save_pretrained(tmp_path / "base")
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    wrapped = get_peft_model(base, LoraConfig(target_modules="all-linear", r=4, init_lora_weights="gaussian"))
    trainer = trained(wrapped, **weights)
    kept = {name: weight for name, weight in base.state_dict().items() if "lora" not in name}
    assert all(torch.equal(weight, before[name.replace("base_layer.", "")]) for name, weight in kept.items())
    assert (tmp_path / "run/checkpoint-3/adapter_model.safetensors").exists()
    assert not (tmp_path / "run/checkpoint-3/model.safetensors").exists()

    batch = fitted([["p1", "p2"], ["p3"]], return_tensors="pt")
    batch.pop("item_ids")
    learned = trainer.model.eval()(**batch).logits
    plain = AutoModel.from_pretrained(tmp_path / "base")
    assert not torch.allclose(plain(**batch).logits, learned, atol=1e-4)
    again = PeftModel.from_pretrained(plain, tmp_path / "run/checkpoint-3")
    torch.testing.assert_close(again.eval()(**batch).logits, learned)
    merged = again.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    whole = FairForGenerativeRecommendation.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(whole(**batch).logits, learned, rtol=1e-4, atol=1e-5)


def test_an_adapter_of_transformers_is_trained(model, trained, fitted):
    base, weights = model
    base.add_adapter(LoraConfig(target_modules=["q_proj", "v_proj"], r=4))
    # Trainer itself finds no best checkpoint of such adapters.
    trainer = trained(base, save_strategy="no", load_best_model_at_end=False, **weights)
    learned = [weight for name, weight in trainer.model.named_parameters() if "lora_B" in name]
    assert learned and all(weight.abs().sum() > 0 for weight in learned)


def test_checkpointing_trains_the_same(model, trained, make_model):
    base, weights = model
    fields = base.config.to_dict()
    states = []
    for checkpointing in (False, True):
        made = FairForGenerativeRecommendation(type(base.config)(**fields))
        made.load_state_dict(base.state_dict())
        trainer = trained(made, gradient_checkpointing=checkpointing, **weights)
        states.append(trainer.model.state_dict())
    for name, weight in states[0].items():
        torch.testing.assert_close(weight, states[1][name], rtol=1e-4, atol=1e-5, msg=name)


def test_bfloat16_and_device_maps_serve_nearly_the_same(model, fitted, tmp_path):
    base, _ = model
    base.save_pretrained(tmp_path)
    fitted.save_pretrained(tmp_path)
    request = {"history": ["p1", "p2", "p3"]}
    whole = {
        entry["item_id"]: entry["score"] for entry in pipeline("recommendation", str(tmp_path))(request, top_k=40)
    }
    for options in ({"device_map": "cpu"}, {"device_map": {"": "cpu"}}, {"device_map": "auto"}):
        again = pipeline("recommendation", str(tmp_path), **options)(request, top_k=40)
        assert {entry["item_id"]: entry["score"] for entry in again} == pytest.approx(whole, rel=1e-5)
    half = pipeline("recommendation", str(tmp_path), dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16
    scores = {entry["item_id"]: entry["score"] for entry in half(request, top_k=40)}
    spread = np.std(list(whole.values()))
    assert np.mean([abs(scores[item] - whole[item]) for item in whole]) < 0.1 * spread


def test_compiled_models_recommend_the_same(model, fitted):
    """With the backend that needs no C compiler; the graphs are the same."""
    base, _ = model
    batch = fitted([["p1", "p2"], ["p3"]], return_tensors="pt")
    batch.pop("item_ids")
    wanted = base(**batch).logits
    compiled = torch.compile(base, backend="aot_eager")
    torch.testing.assert_close(compiled(**batch).logits, wanted)


def test_trackers_get_every_part_of_the_loss(model, trained, tmp_path, monkeypatch):
    base, weights = model
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    trained(base, report_to="tensorboard", logging_steps=1, **weights)
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    parts = {"item_loss" if weights else "mtp_loss", "nrt_loss", "mim_loss", "loss"}
    assert {f"train/{part}" for part in parts} | {"eval/ndcg@10", "eval/recall@10_seen_removed"} <= set(
        board.Tags()["scalars"]
    )
