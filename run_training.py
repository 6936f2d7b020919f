"""Train FAIR: interactions and item texts in, one folder with model, tokenizer and catalogue out.

    python run_training.py configs/demo.yaml
    python run_training.py configs/fair_best.yaml --interactions_file log.csv --items_file items.csv
    accelerate launch run_training.py configs/fair_paper.yaml configs/beauty.yaml --learning_rate 5e-4

Settings come as flags, or from YAML or JSON files given first, which flags after them overrule.
"""

import dataclasses
import json
import re
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub.errors import StrictDataclassError
from transformers import EarlyStoppingCallback, set_seed

from modeling_fair import FairConfig, FairForGenerativeRecommendation, FairTrainer, FairTrainingArguments
from modeling_fair.centroids_fair import start_at_centroids
from modeling_fair.cooccurrence_fair import LEVELS, add_similar, choose_prior, prior_parts, prior_users
from modeling_fair.metrics_fair import metric_names, metrics_table
from modeling_fair.plots_fair import import_matplotlib, plot_training
from modeling_fair.trainer_fair import TrainingDivergedError
from modeling_fair.training_arguments_fair import OBJECTIVES
from tokenization_fair import FairTokenizer
from tokenization_fair.preprocessing_fair import prepare_datasets
from training_fair.arguments import DERIVED, OF_A_FIT, parse_arguments
from training_fair.inputs import check_same_data, item_counts, load_data, make_tokenizer, of_checkpoint, split_data
from training_fair.records import provenance, write_json


@dataclass
class Job:
    """All that a run trains on, ready and checked."""

    trainer: FairTrainer
    test_dataset: Dataset | None  # none where everything is trained on
    resume: str | None
    record: dict[str, Any]
    cooccurrence_prior: bool = False
    centroid_start: bool = False

    def model_config(self) -> FairConfig:
        """As it is now."""
        assert self.trainer.model is not None
        return self.trainer.model.config  # type: ignore[return-value]


def last_whole_checkpoint(output: Path) -> str | None:
    """The newest checkpoint of a folder that was written to its end: Trainer writes its state last."""
    states = output.glob("checkpoint-*/trainer_state.json")
    steps = [int(number) for state in states if (number := state.parent.name.removeprefix("checkpoint-")).isdigit()]
    return str(output / f"checkpoint-{max(steps)}") if steps else None


def check_output(args: FairTrainingArguments) -> tuple[Path, str | None]:
    """The output folder, and the checkpoint to go on from, if any.

    Raises:
        ValueError: where there is none, or where another run has written.
    """
    output = Path(str(args.output_dir)).resolve()  # a name for what stands beside it
    wanted = str(args.resume_from_checkpoint).lower()
    resume = None if wanted in ("none", "false", "0") else args.resume_from_checkpoint
    if wanted in ("true", "1"):
        resume = last_whole_checkpoint(output)
        if resume is None:
            raise ValueError(f"{output} holds no checkpoint to resume: start without --resume_from_checkpoint.")
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output_dir {output} is a file: name a folder, which is made where there is none.")
    if resume and not Path(resume).is_dir():
        raise ValueError(f"--resume_from_checkpoint {resume} is not a folder: give that of a checkpoint.")
    if not resume and (any(output.glob("checkpoint-*")) or (output / "model.safetensors").exists()):
        raise ValueError(
            f"{output} holds the model or checkpoints of another run: choose another --output_dir, delete it, or go "
            "on with --resume_from_checkpoint true."
        )
    return output, resume


def prepare(arguments: list[str]) -> Job:
    """Read and check everything, and make the trainer; nothing is written to the output folder before.

    Raises:
        ValueError, OSError, ImportError: one sentence on what is wrong with the arguments or the files.
    """
    data, settings, model_fields, args = parse_arguments(arguments)
    import_matplotlib()  # wanted in the end, missed now
    wanted = str(args.metric_for_best_model).removeprefix("eval_")
    if data.split != "none" and wanted not in (measured := ["loss", *metric_names()]):
        raise ValueError(f"--metric_for_best_model {wanted} is not measured: choose one of {', '.join(measured)}.")
    output, resume = check_output(args)
    set_seed(args.seed)
    try:
        known = int(model_fields.item_residuals)  # how many is known when there is a tokenizer
        config = FairConfig(**dataclasses.asdict(model_fields), num_known_items=known)
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__ or error)) from error
    before = settings.model_name_or_path
    own = config if before is None else of_checkpoint(FairConfig, resume or before)
    if data.split == "none" and settings.cooccurrence_prior:
        check_prior(own)
    if before is None and not settings.cooccurrence_prior:
        check_no_prior(config)
    if resume and before is None:
        resumed = FairConfig.from_pretrained(resume)
        others = [name for name in given_otherwise(config, resumed) if name != "codebook_size"]  # few items shrink it
        if others:
            raise ValueError(
                f"{resume} has {described(others, config, resumed)}: give the model the settings that it has, or "
                "choose another --output_dir."
            )

    shared = output.with_name(f"{output.name}.preparing")  # where the other processes find the tokenizer
    with args.main_process_first(local=False, desc="preparing data"):  # nodes share the output folder
        sequences, items = load_data(data)
        item_counts(sequences, items)  # raises where they do not fit together
        splits, report = split_data(sequences, data)
        if args.process_index == 0 and not resume:
            tokenizer = make_tokenizer(items, splits["train"], data, settings, config, args.seed)
            prepared = prepare_datasets(splits, tokenizer)
            if args.world_size > 1:
                tokenizer.save_pretrained(shared)
        else:
            tokenizer = FairTokenizer.from_pretrained(resume or shared)
            if resume:
                check_same_data(tokenizer, items, splits["train"], resume)
            prepared = prepare_datasets(splits, tokenizer)
        if not len(prepared["train"]):
            kept = "" if data.split == "none" else f": the {data.split} split keeps the last ones for evaluation"
            raise ValueError(f"No user has 2 items left to train on{kept}.")
    if args.process_index == 0:
        print(f"Data: {report}\nItem codes: {tokenizer.quality()}\nTraining on {args.world_size} process(es).")

    if settings.model_name_or_path is not None:
        model = FairForGenerativeRecommendation.from_pretrained(resume or settings.model_name_or_path)
        others, defaults = given_otherwise(config, model.config), FairConfig()
        ignored = [name for name in others if getattr(config, name) != getattr(defaults, name)]
        if ignored and args.process_index == 0:
            print(f"Left as the checkpoint has them: {described(ignored, config, model.config)}.")
        if args.process_index == 0:
            tell_what_changes(Path(resume or settings.model_name_or_path), args)
            if model.prior is not None and not settings.cooccurrence_prior:
                print("The prior stays as it is: --cooccurrence_prior true counts it anew in these interactions.")
        model.adopt_new_items(tokenizer)  # so that they learn as others do; one to resume has adopted them
        if settings.cooccurrence_prior and not model.config.item_residuals:
            tokenizer.number_new_items()  # a model that had no prior either has adopted none
    else:
        config.codebook_size = tokenizer.codebook_size
        config.num_known_items = tokenizer.num_known_items if config.item_residuals else 0
        model = new_model(config, tokenizer, settings.centroid_start)
    if settings.cooccurrence_prior and not model.config.item_residuals:
        model.config.num_known_items = tokenizer.num_known_items
    trainer = FairTrainer(
        model=model,
        args=args,
        processing_class=tokenizer,
        train_dataset=prepared["train"],
        eval_dataset=prepared.get("validation"),
    )
    used = {**vars(data), **vars(settings), **args.to_sanitized_dict()}
    if settings.model_name_or_path is not None:
        used = {name: value for name, value in used.items() if name not in OF_A_FIT}
    record = {
        "split": dataclasses.asdict(report),
        "text_encoder": tokenizer.text_encoder,
        "id_quality": {"fit": tokenizer.id_quality, "catalogue": tokenizer.quality()},
        "config": model.config.to_dict(),
        "arguments": used,
        "seed": args.seed,
        **provenance(),
    }
    trainer.accelerator.wait_for_everyone()
    if args.process_index == 0:
        shutil.rmtree(shared, ignore_errors=True)
    return Job(trainer, prepared.get("test"), resume, record, settings.cooccurrence_prior, settings.centroid_start)


def given_otherwise(wanted: FairConfig, own: FairConfig) -> list[str]:
    """Settings of a model that its checkpoint has otherwise."""
    names = [spec.name for spec in dataclasses.fields(FairConfig) if spec.name in FairConfig.__annotations__]
    return [name for name in names if name not in DERIVED and getattr(wanted, name) != getattr(own, name)]


def tell_what_changes(checkpoint: Path, args: FairTrainingArguments) -> None:
    """Print which objectives a checkpoint was trained with otherwise, where its folder tells."""
    path = checkpoint / "training_args.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    others = [
        f"{name} {getattr(args, name)} (was {before[name]})"
        for name in OBJECTIVES
        if before.get(name, getattr(args, name)) != getattr(args, name)
    ]
    if others:
        print(f"Trained with other objectives than the checkpoint was: {', '.join(others)}.")


def described(names: list[str], wanted: FairConfig, own: FairConfig) -> str:
    return ", ".join(f"{name} {getattr(own, name)} (not {getattr(wanted, name)})" for name in names)


def new_model(config: FairConfig, tokenizer: FairTokenizer, centroid_start: bool) -> FairForGenerativeRecommendation:
    """A model before any training."""
    model = FairForGenerativeRecommendation(config)
    if centroid_start:
        start_at_centroids(model, tokenizer)
    return model


def check_prior(config: FairConfig) -> None:
    """
    Raises:
        ValueError: for a prior that is to be chosen, without anybody to choose it with.
    """
    form = config.prior_level is not None or config.prediction == "codes"
    if not config.prior_weight or config.prior_similar_weight is None or not form:
        raise ValueError(
            "--split none leaves no users to choose a prior with: go on from a run that has chosen one with its split "
            "(--model_name_or_path), give a new model --prior_weight, --prior_similar_weight and, where it predicts "
            "items, --prior_level, or add --cooccurrence_prior false."
        )


def check_no_prior(config: FairConfig) -> None:
    """
    Raises:
        ValueError: for settings of a prior that there is not to be.
    """
    if given := [name for name in given_otherwise(config, FairConfig()) if name.startswith("prior_")]:
        raise ValueError(
            f"{', '.join(given)} are settings of a prior: add --cooccurrence_prior true, or leave them out."
        )


def add_prior(trainer: FairTrainer) -> dict[str, Any]:
    """Add the prior that is best, if any, to a trained model without one; returns what `results.json` tells of it."""
    model = trainer.model
    assert isinstance(model, FairForGenerativeRecommendation) and isinstance(trainer.train_dataset, Dataset)
    config, levels = model.config, None
    parts = prior_parts(trainer.train_dataset, trainer.processing_class)
    if trainer.eval_dataset is None:
        assert config.prior_similar_weight is not None  # checked before
        counts = add_similar(*parts, config.prior_similar_weight)
        model.set_prior(counts, config.prior_weight, config.prior_repeat, config.prior_level)
        return {}
    assert isinstance(trainer.eval_dataset, Dataset)
    users = prior_users(trainer.eval_dataset)
    # Under a name of their own, since they are not all users'.
    of_users = partial(trainer.evaluate, users, metric_key_prefix="prior")
    without = plain_names(of_users())

    def validate(counts: Any, weight: float, repeat: float, level: float | None) -> dict[str, float]:
        model.set_prior(counts if weight else None, weight, repeat, level)
        return plain_names(of_users())

    if config.prior_level is not None:
        levels = [config.prior_level]
    elif config.prediction == "items":
        levels = [1 / config.cosine_temperature + level for level in LEVELS]
    given = config.prior_weight, config.prior_repeat
    chosen = choose_prior(*parts, without, validate, *given, levels, config.prior_similar_weight)
    if chosen.weight:
        model.set_prior(chosen.counts, chosen.weight, chosen.repeat, chosen.level)
        config.prior_similar_weight = chosen.similar_weight
    else:
        model.set_prior(None, 0.0)
    return {"prior_users": len(users), "priors": chosen.tried}


def plain_names(metrics: dict[str, float]) -> dict[str, float]:
    """Metrics without the split's name before theirs."""
    return {re.sub("^(eval|test|prior)_", "", name): value for name, value in metrics.items()}


def train(job: Job) -> dict[str, Any]:
    """Train, evaluate and save; returns what `results.json` holds."""
    trainer, output = job.trainer, Path(str(job.trainer.args.output_dir))
    if job.cooccurrence_prior:  # that of a checkpoint to go on from would be part of what is evaluated without one
        assert isinstance(trainer.model, FairForGenerativeRecommendation)
        wanted = trainer.model.config
        weight = wanted.prior_weight
        if wanted.prior_size and wanted.prior_level is None and wanted.prediction == "items":
            weight = 0.0  # that of a product, which such models had before, says nothing of a mixture
        trainer.model.set_prior(None, weight, wanted.prior_repeat, wanted.prior_level)
    trainer.train(resume_from_checkpoint=job.resume)
    trainer.remove_callback(EarlyStoppingCallback)  # it would warn that test has no validation metrics

    def evaluate() -> dict[str, dict[str, float]]:
        if job.test_dataset is None:
            return {}
        test = trainer.evaluate(job.test_dataset, metric_key_prefix="test")
        return {"validation": plain_names(trainer.evaluate()), "test": plain_names(test)}

    evaluated, tried = evaluate(), {}
    if job.cooccurrence_prior:
        without = {f"{split}_without_prior": metrics for split, metrics in evaluated.items()}
        tried = add_prior(trainer)
        evaluated = {**evaluate(), **without}
    results = {
        "results": evaluated,
        **tried,
        "train_seconds": trainer.train_seconds,
        **job.record,
        "config": job.model_config().to_dict(),
    }
    trainer.save_model(str(output), _internal_call=True)  # it is not pushed yet
    if trainer.is_world_process_zero():
        trainer.save_state()
        write_json(output / "results.json", results)
        tokenizer: FairTokenizer = trainer.processing_class
        plot_training(output, trainer.state.log_history, tokenizer.item_codes, tokenizer.codebook_size)
    trainer.record = results
    trainer.create_model_card()
    if trainer.args.push_to_hub:
        trainer.push_to_hub()
    if trainer.is_world_process_zero():
        if evaluated:
            print(metrics_table({f"FAIR, {split}": metrics for split, metrics in evaluated.items()}))
        print(f"Saved model, tokenizer and catalogue to {output}.")
    trainer.accelerator.wait_for_everyone()  # one that ends before the first has saved would take it along
    return results


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run a whole job; returns what `results.json` holds."""
    return train(prepare(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    try:
        prepared_job = prepare(sys.argv[1:])
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"run_training.py: {error}")
    try:
        train(prepared_job)
    except TrainingDivergedError as error:
        sys.exit(f"run_training.py: {error}")
    prepared_job.trainer.accelerator.end_training()  # without it, processes were seen to abort as they ended
