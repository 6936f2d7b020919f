"""Trainer invariants over processes: they change nothing, with NRT and MIM on, too."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ITEMS = {"prediction": "items", "num_known_items": 39, "item_residuals": True}  # p0 was not met in training

PROGRAM = """
import json, sys, torch
from datasets import load_from_disk
from modeling_fair import FairForGenerativeRecommendation, FairTokenizer, FairTrainer, FairTrainingArguments
folder, batch, alpha, beta = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
args = FairTrainingArguments(
    output_dir=f"{folder}/run{batch}", use_cpu=True, max_steps=4, per_device_train_batch_size=batch,
    per_device_eval_batch_size=5, eval_strategy="no", save_strategy="no", load_best_model_at_end=False,
    logging_steps=1, learning_rate=1e-2, disable_tqdm=True, bf16=False, nrt_weight=alpha, mim_weight=beta,
    item_weight=float(sys.argv[5]),
)
assert args.world_size == 8 // batch, args.world_size
data = load_from_disk(f"{folder}/data")
trainer = FairTrainer(
    model=FairForGenerativeRecommendation.from_pretrained(f"{folder}/model"), args=args,
    processing_class=FairTokenizer.from_pretrained(f"{folder}/model"),
    train_dataset=data["train"], eval_dataset=data["validation"],
)
trainer.train()
metrics = trainer.evaluate()
if trainer.is_world_process_zero():
    torch.save(trainer.model.state_dict(), f"{folder}/weights{batch}.pt")
    json.dump([trainer.state.log_history, metrics], open(f"{folder}/log{batch}.json", "w"))
trainer.accelerator.wait_for_everyone()
trainer.accelerator.end_training()
"""


@pytest.mark.parametrize("alpha, beta, item_weight", [(0.0, 0.0, 0.0), (1.0, 0.5, 0.0), (1.0, 0.5, 1.0)])
def test_two_processes_equal_one(make_model, fitted, prepared, tmp_path, alpha, beta, item_weight):
    """Losses, logged parts, weights after 4 steps and metrics; NRT's and MIM's negatives are gathered."""
    make_model(**(ITEMS if item_weight else {})).save_pretrained(tmp_path / "model")
    fitted.save_pretrained(tmp_path / "model")
    prepared.save_to_disk(tmp_path / "data")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    arguments = [str(alpha), str(beta), str(item_weight)]
    launchers = {
        8: [sys.executable, str(program)],
        4: [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(program)],
    }
    results = {}
    for batch, launcher in launchers.items():
        run = subprocess.run(
            [*launcher, str(tmp_path), str(batch), *arguments], capture_output=True, text=True, env=environment
        )
        assert run.returncode == 0, run.stderr[-3000:]
        results[batch] = (
            torch.load(tmp_path / f"weights{batch}.pt", weights_only=True),
            *json.loads((tmp_path / f"log{batch}.json").read_text()),
        )
    (one, logs_one, metrics_one), (two, logs_two, metrics_two) = results[8], results[4]
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)
    for name in ("loss", "mtp_loss", "nrt_loss", "mim_loss"):
        values = [[log[name] for log in logs if name in log] for logs in (logs_one, logs_two)]
        assert values[0] == pytest.approx(values[1], rel=1e-4)
        assert len(values[0]) == (0 if name[:3] in ("nrt", "mim") and not alpha else 4)
    for name, value in metrics_one.items():
        if "@" in name or "mrr" in name:
            assert metrics_two[name] == pytest.approx(value, abs=1e-6), name
            assert math.isfinite(value)
