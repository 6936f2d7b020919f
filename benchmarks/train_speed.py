"""Training steps: ours beside the naive form, in one run.

    python -m benchmarks.train_speed --data ../shared/data/beauty --threads 1

1. RPG's configuration (standard attention, MTP only, d 448, its dropout): targets a second against transformers'
   GPT2Model on histories padded to 50, with all heads on every position, in float32.
2. FAIR at d 512 with NRT and MIM: useful operations against what a bfloat16 matrix product reaches on this machine.
3. Peak memory of that step, against the same model padded to 50, heads on every position, in float32.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import GPT2Config, GPT2Model, set_seed

from benchmarks.records import in_own_process, matmul_rate, memory, record, seconds
from modeling_fair import FairConfig, FairForGenerativeRecommendation, FairTrainer, FairTrainingArguments
from modeling_fair.collator_fair import FairDataCollator
from modeling_fair.losses_fair import mutual_information_loss, noise_robustness_loss
from modeling_fair.markdown_fair import markdown_table
from modeling_fair.noise_fair import add_noise
from modeling_fair.packing_fair import Packing
from tokenization_fair.preprocessing_fair import windows

HISTORY, BATCH = 50, 256
RPG = {"hidden_size": 448, "intermediate_size": 1024, "attention_type": "standard", "cosine_temperature": 0.07}
RPG_DROPOUT = {"attention_dropout": 0.5, "embedding_dropout": 0.5}


class CodesAtRandom:
    """Stands for a fitted tokenizer: the speed of a step does not hang on which codes items have."""

    num_codebooks, codebook_size, codebook_fingerprint, model_max_length = 32, 256, "random", HISTORY
    num_known_items = 0

    def __init__(self, items: int):
        self.item_codes = np.random.default_rng(0).integers(0, 256, (items, 32), dtype=np.uint8)

    def codes_of(self, rows: np.ndarray) -> np.ndarray:
        return np.where((rows >= 0)[..., None], self.item_codes[rows].astype(np.int64), 0)

    def known_ids_of(self, rows: np.ndarray) -> np.ndarray:
        return np.full(rows.shape, -1)


def read_batches(folder: str, count: int, size: int) -> tuple[CodesAtRandom, list[dict[str, torch.Tensor]]]:
    """Training batches of a leave-one-out split of `sequences.txt`, in random order as in training."""
    with open(Path(folder) / "sequences.txt", encoding="utf-8") as file:
        users = [[int(item) for item in line.split()[1:]] for line in file]
    examples = [{"item_ids": window} for user in users for window in windows(user[:-2], HISTORY)]
    random.Random(0).shuffle(examples)
    tokenizer = CodesAtRandom(1 + max(max(user) for user in users))
    collate = FairDataCollator(tokenizer)
    numbered = [{**example, "example_id": number} for number, example in enumerate(examples)]
    return tokenizer, [collate(numbered[start : start + size]) for start in range(0, count * size, size)]


class PaddedRPG(nn.Module):
    """The naive form of RPG's model: a GPT-2 over padded histories and every head on every position."""

    def __init__(self, config: FairConfig, dropout: dict[str, float]):
        super().__init__()
        width, self.temperature = config.hidden_size, config.cosine_temperature
        self.codes = nn.Embedding(config.num_codebooks * config.codebook_size, width)
        nn.init.normal_(self.codes.weight, std=0.02)
        self.first = torch.arange(config.num_codebooks) * config.codebook_size
        self.decoder = GPT2Model(
            GPT2Config(
                vocab_size=1,
                n_embd=width,
                n_inner=config.intermediate_size,
                n_layer=config.num_hidden_layers,
                n_head=config.num_attention_heads,
                n_positions=HISTORY,
                attn_pdrop=dropout.get("attention_dropout", 0.0),
                embd_pdrop=dropout.get("embedding_dropout", 0.0),
                resid_pdrop=0.0,
                bos_token_id=None,
                eos_token_id=None,
            )
        )
        self.heads = nn.ModuleList(nn.Linear(width, width) for _ in range(config.num_codebooks))

    def logits(self, codes: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(batch, items, codebooks) -> (batch, items, codebooks, codes), padding included."""
        inputs = self.codes(codes + self.first.to(codes.device)).mean(dim=-2)
        states = self.decoder(inputs_embeds=inputs, attention_mask=mask).last_hidden_state
        codebooks = nn.functional.normalize(self.codes.weight, dim=-1).unflatten(0, (len(self.heads), -1))
        of_heads = torch.stack([states + nn.functional.silu(head(states)) for head in self.heads], dim=-2)
        return torch.einsum("blcd,ckd->blck", nn.functional.normalize(of_heads, dim=-1), codebooks) / self.temperature

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = self.logits(batch["input_ids"], batch["attention_mask"])
        return nn.functional.cross_entropy(logits.flatten(0, -2), batch["labels"].flatten(), ignore_index=-100)


def padded_fair_loss(model: FairForGenerativeRecommendation, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The naive form of FAIR's objective: a padded pass for each view and every head on every position."""
    codes, mask, labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
    noisy_codes = add_noise(
        codes,
        batch["example_ids"],
        codebook_size=256,
        mask_probability=0.1,
        replace_probability=0.1,
        seed=42,
        step=0,
    )
    clean = model.model(codes, mask).last_hidden_state
    noisy = model.model(noisy_codes, mask).last_hidden_state
    loss = nn.functional.cross_entropy(model.code_logits(clean).flatten(0, -2), labels.flatten(), ignore_index=-100)
    supervised, rows = (labels != -100).any(dim=-1), torch.arange(len(codes), device=codes.device)
    last = mask.sum(dim=1) - 1
    nrt = noise_robustness_loss(
        clean[supervised], noisy[supervised], clean[rows, last], supervised.nonzero()[:, 0], margin=0.5
    )
    targets = labels[rows, last]
    mim = mutual_information_loss(
        (clean * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True),
        model.model.embeddings.item_vectors(targets),
        rows,
        (targets[:, None] == targets[None]).all(dim=-1),
        temperature=0.1,
    )
    return loss + nrt / supervised.sum() + 0.01 * mim / len(codes)


def to_history_length(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Pad a batch to the full history, as the naive form does."""
    missing = HISTORY - batch["input_ids"].shape[1]
    padded = dict(batch)
    for name, value in (("input_ids", 0), ("labels", -100)):
        padded[name] = nn.functional.pad(batch[name], (0, 0, 0, missing), value=value)
    padded["attention_mask"] = nn.functional.pad(batch["attention_mask"], (0, missing))
    return padded


class Ours:
    """Steps of FairTrainer: its loss, backward pass, clipping and optimiser."""

    def __init__(self, config: FairConfig, tokenizer: CodesAtRandom, device: torch.device, **options: Any):
        set_seed(0)
        self.model = FairForGenerativeRecommendation(config)
        self.trainer = FairTrainer(
            model=self.model,
            args=FairTrainingArguments(
                output_dir=tempfile.mkdtemp(), use_cpu=device.type == "cpu", eval_strategy="no", save_strategy="no",
                load_best_model_at_end=False, report_to="none", **options,
            ),
            processing_class=tokenizer,
            train_dataset=[0],
        )  # fmt: skip
        self.optimizer = self.trainer.create_optimizer()
        self.wrapped = self.trainer.accelerator.prepare(self.model.train())  # its autocast, as in Trainer.train

    def step(self, batch: dict[str, torch.Tensor]) -> float:
        (batch,), count = self.trainer.get_batch_samples(iter([batch]), 1, self.trainer.args.device)
        loss = self.trainer.training_step(self.wrapped, batch, num_items_in_batch=count)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


class Naive:
    """Steps of a plain float32 loop with the same optimiser."""

    def __init__(self, model: nn.Module, loss_of: Any, device: torch.device):
        self.model, self.loss_of, self.device = model.to(device).train(), loss_of, device
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step(self, batch: dict[str, torch.Tensor]) -> float:
        batch = {name: tensor.to(self.device) for name, tensor in to_history_length(batch).items()}
        loss = self.loss_of(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def timed(form: Any, batch: dict[str, torch.Tensor], device: torch.device) -> float:
    return seconds(lambda: form.step(batch), device, repeat=1, warm_up=0)


def targets_in(batch: dict[str, torch.Tensor]) -> int:
    return int((batch["labels"] != -100).any(dim=-1).sum())


def useful_operations(config: FairConfig, batch: dict[str, torch.Tensor], views: int) -> float:
    """Multiplications and additions of the matrix products of a step that the task itself needs: layers on items (of
    each view), heads on targets, backward twice the forward; attention maps, norms and the optimiser not counted."""
    branches = 2 if config.attention_type == "focused" else 1
    width = config.hidden_size
    layer = (2 * branches + 2) * width**2 + 3 * width * config.intermediate_size
    heads = config.num_codebooks * (width**2 + width * config.codebook_size)
    items = views * int(batch["attention_mask"].sum())
    return 6.0 * (items * config.num_hidden_layers * layer + targets_in(batch) * heads)


def memory_of(form: str, options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Peak memory of two steps in this process, above what it held before the model was made."""
    tokenizer, batches = read_batches(options.data, 2, options.batch)
    before = memory(device)[0]
    config = FairConfig()
    if form == "ours":
        stepper: Any = Ours(config, tokenizer, device)
    else:
        set_seed(0)
        model = FairForGenerativeRecommendation(config)
        stepper = Naive(model, lambda batch: padded_fair_loss(model, batch), device)
    losses = [stepper.step(batch) for batch in batches]
    return {"bytes": memory(device)[1] - before, "loss": losses[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with sequences.txt, such as Beauty's")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; default 1")
    parser.add_argument("--steps", type=int, default=6, help="steps timed of ours; default 6")
    parser.add_argument("--naive_steps", type=int, default=2, help="steps timed of the naive form; default 2")
    parser.add_argument("--batch", type=int, default=BATCH, help="histories a step; default RPG's 256")
    parser.add_argument("--compile", action="store_true", help="also time --compile_layers")
    parser.add_argument("--memory_of", choices=["ours", "naive"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.memory_of:
        print(json.dumps(memory_of(options.memory_of, options, device)))
        return

    warm_up = 3
    tokenizer, batches = read_batches(options.data, warm_up + options.steps, options.batch)
    figures: list[dict[str, Any]] = []

    def figure(name: str, value: float, unit: str, **notes: Any) -> None:
        figures.append({"figure": name, "value": round(value, 4), "unit": unit, **notes})

    items = sum(int(batch["attention_mask"].sum()) for batch in batches)
    packed = sum(len(Packing(batch["attention_mask"].to(device)).cells) for batch in batches)
    figure("padded_share_naive", 1 - items / (len(batches) * options.batch * HISTORY), "share of positions")
    figure("padded_share_ours", 1 - items / packed, "share of positions")

    # 1. RPG's configuration, with its dropout, the two forms in turn.
    config = FairConfig(**RPG, **RPG_DROPOUT)
    ours = Ours(config, tokenizer, device, nrt_weight=0.0, mim_weight=0.0)
    padded = PaddedRPG(config, RPG_DROPOUT)
    naive = Naive(padded, padded, device)
    for batch in batches[:warm_up]:
        ours.step(batch)
    naive.step(batches[0])
    rates: dict[str, list[float]] = {"ours": [], "naive": []}
    for turn, batch in enumerate(batches[warm_up:]):
        rates["ours"].append(targets_in(batch) / timed(ours, batch, device))
        if turn < options.naive_steps:
            rates["naive"].append(targets_in(batch) / timed(naive, batch, device))
    median = {name: statistics.median(values) for name, values in rates.items()}
    figure("train_targets_per_second", median["ours"], "supervised targets / s")
    figure("train_targets_per_second_naive", median["naive"], "supervised targets / s")
    figure("train_targets_ratio", median["ours"] / median["naive"], "ours / naive")
    del ours, naive, padded

    # 2. FAIR at d 512, against the rate of a matrix product measured between the steps.
    config = FairConfig()
    forms = {"": False, **({"_compiled": True} if options.compile else {})}
    for suffix, compiled in forms.items():
        fair = Ours(config, tokenizer, device, compile_layers=compiled)
        for batch in batches[:warm_up]:
            fair.step(batch)
        efficiencies, speeds = [], []
        for batch in batches[warm_up:]:
            rate = matmul_rate(device)
            start = time.perf_counter()
            fair.step(batch)
            taken = time.perf_counter() - start
            rate = (rate + matmul_rate(device)) / 2
            efficiencies.append(useful_operations(config, batch, views=2) / taken / rate)
            speeds.append(targets_in(batch) / taken)
        figure(
            f"train_matmul_efficiency{suffix}",
            statistics.median(efficiencies),
            "useful operations / (time x bf16 matrix product's rate)",
            targets_per_second=round(statistics.median(speeds), 1),
        )
        del fair

    # 3. Peak memory, each form in a process of its own; the first losses of both must agree.
    arguments = ["--data", options.data, "--threads", str(options.threads), "--batch", str(options.batch)]
    peaks = {form: in_own_process(*arguments, "--memory_of", form) for form in ("ours", "naive")}
    difference = abs(peaks["ours"]["loss"] - peaks["naive"]["loss"]) / peaks["naive"]["loss"]
    if difference > 0.01:
        raise SystemExit(f"The two forms differ by more than bf16 rounding: {peaks}")
    figure("train_peak_memory", peaks["ours"]["bytes"] / 2**20, "MiB")
    figure("train_peak_memory_naive", peaks["naive"]["bytes"] / 2**20, "MiB")
    figure(
        "train_peak_memory_ratio",
        peaks["ours"]["bytes"] / peaks["naive"]["bytes"],
        "ours / naive",
        relative_difference_of_losses=round(difference, 6),
    )
    print(markdown_table(["figure", "value", "unit"], ((row["figure"], row["value"], row["unit"]) for row in figures)))
    settings = {"batch": options.batch, "steps": options.steps, "naive_steps": options.naive_steps}
    print(f"Written to {record('train_speed', figures, settings, device)}.")


if __name__ == "__main__":
    main()
