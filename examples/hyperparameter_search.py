"""Search hyper-parameters with Optuna through Trainer's own `hyperparameter_search`, by the best epoch of a trial in
validation (`--metric_for_best_model`).

    python examples/hyperparameter_search.py --space examples/search_space.yaml --trials 20 configs/demo.yaml

After `--space` and `--trials` come the arguments of run_training.py. Finished trials are kept in study.db in the
output folder: the same command again goes on until there are as many as asked for. A search of another space needs a
folder of its own, and so does one of other settings.
"""

import argparse
import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import optuna
import yaml
from huggingface_hub.errors import StrictDataclassError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from modeling_fair import FairConfig, FairForGenerativeRecommendation, FairTrainer  # noqa: E402
from modeling_fair.trainer_fair import TrainingDivergedError  # noqa: E402
from run_training import Job, new_model, prepare  # noqa: E402
from training_fair.arguments import DERIVED  # noqa: E402
from training_fair.records import write_json  # noqa: E402

# What may differ between the runs of one search.
OF_A_RUN = ("output_dir", "logging_dir", "run_name", "tokenizer_work_dir", "cache_dir")


def read_space(path: str) -> dict[str, Any]:
    """A YAML file of `name: {uniform: [low, high]}`, `{log: [low, high]}` or `{choice: [values]}`.

    Raises:
        ValueError: naming an entry of another form.
    """
    try:
        space = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(space, dict) or not space:
        raise ValueError(f"{path} names nothing to search: give lines such as learning_rate: {{log: [0.0001, 0.01]}}.")
    for name, entry in space.items():
        kind, values = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else (None, None)
        if kind not in ("uniform", "log", "choice") or not isinstance(values, list) or not values:
            raise ValueError(f"{path}: {name} is {entry!r}: give uniform, log or choice, and a list.")
        if kind != "choice" and len(values) != 2:
            raise ValueError(f"{path}: {name} has {len(values)} bounds: give the lowest and the highest value.")
        values[:] = [number(value) for value in values]
        if kind != "choice" and not (
            all(isinstance(value, int | float) for value in values) and values[0] < values[1]
        ):
            raise ValueError(f"{path}: {name} has the bounds {values}: give two numbers, the lower one first.")
        if kind == "log" and values[0] <= 0:
            raise ValueError(f"{path}: {name} begins at {values[0]}: a logarithm needs bounds above 0.")
    return space


def number(value: Any) -> Any:
    """YAML takes 1e-4 for a text, since it lacks a point."""
    return float(value) if isinstance(value, str) and re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", value) else value


def check_field(path: str, name: str, kind: str, job: Job) -> None:
    """
    Raises:
        ValueError: for a field that cannot be searched, or not so.
    """
    if name in ("num_codebooks", "codebook_size", *DERIVED):
        raise ValueError(f"{path} searches {name}, which the tokenizer settles before the search: leave it out.")
    fields = {spec.name: spec for part in (job.trainer.args, job.model_config()) for spec in dataclasses.fields(part)}
    if name not in fields:
        raise ValueError(f"{path} searches {name}, which is neither a training argument nor a model field.")
    if kind != "choice" and fields[name].type in (int, "int"):
        raise ValueError(f"{path} searches {name}, a whole number, between bounds: list its values as a choice.")


def suggest(trial: optuna.Trial, space: dict[str, Any]) -> dict[str, Any]:
    """The values of a trial."""
    values = {}
    for name, entry in space.items():
        ((kind, given),) = entry.items()
        if kind == "choice":
            values[name] = trial.suggest_categorical(name, given)
        else:
            values[name] = trial.suggest_float(name, *given, log=kind == "log")
    return values


def read(arguments: list[str]) -> tuple[Job, dict[str, Any], int]:
    """What is to be searched, how and how often, checked.

    Raises:
        ValueError, OSError, ImportError: one sentence on what is wrong with the arguments or the files.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", required=True, help="YAML file of what is searched")
    parser.add_argument("--trials", type=int, required=True, help="trials there are in the end")
    own, rest = parser.parse_known_args(arguments)
    if own.trials < 1:
        raise ValueError(f"--trials is {own.trials}: give at least 1.")
    space = read_space(own.space)
    job = prepare([*rest, "--save_strategy", "no", "--load_best_model_at_end", "false"])
    if job.record["arguments"]["model_name_or_path"] is not None:
        raise ValueError("A search trains models from nothing: leave --model_name_or_path out.")
    if job.trainer.eval_dataset is None:
        raise ValueError("A search chooses by validation: leave --split none out.")
    if not job.trainer.args.greater_is_better:
        raise ValueError("A search looks for more of --metric_for_best_model: choose one of which more is better.")
    for name, entry in space.items():
        check_field(own.space, name, next(iter(entry)), job)
    return job, space, own.trials


def check_study(study: optuna.Study, job: Job, space: dict[str, Any]) -> None:
    """
    Raises:
        ValueError: where the study's trials were made with other data or settings than these.
    """
    given = {**job.record["arguments"], **job.record["config"]}
    settings = {name: str(value) for name, value in given.items() if name not in (*space, *OF_A_RUN)}
    before = study.user_attrs.get("settings", settings)
    if others := [name for name in {**before, **settings} if before.get(name) != settings.get(name)]:
        name = others[0]
        raise ValueError(
            f"The trials in {job.trainer.args.output_dir} were made with {name} {before.get(name)} (now "
            f"{settings.get(name)}): choose another --output_dir."
        )
    study.set_user_attr("settings", settings)


def search(job: Job, space: dict[str, Any], trials: int) -> dict[str, Any]:
    """Go on until there are as many trials; returns what `search.json` holds. Trials that diverge are left out.

    Raises:
        ValueError: for a study of other settings, and values that a model or a training does not take.
    """
    trainer, base = job.trainer, job.model_config()
    fields = {name for name in space if hasattr(base, name)}

    def model_init(trial: optuna.Trial | None) -> FairForGenerativeRecommendation:
        chosen = {} if trial is None else suggest(trial, {name: space[name] for name in fields})
        try:
            config = FairConfig(**{**base.to_dict(), **chosen})
        except StrictDataclassError as error:
            raise ValueError(f"{chosen} is no model: {error.__cause__ or error}") from error
        return new_model(config, trainer.processing_class, job.centroid_start)

    output = Path(str(trainer.args.output_dir))
    output.mkdir(parents=True, exist_ok=True)
    study = {"study_name": "fair", "storage": f"sqlite:///{output / 'study.db'}"}
    finished = optuna.create_study(**study, direction="maximize", load_if_exists=True)
    check_study(finished, job, space)
    count = len(finished.get_trials(states=[optuna.trial.TrialState.COMPLETE]))
    metric = str(trainer.args.metric_for_best_model).removeprefix("eval_")

    def best_so_far(metrics: dict[str, float]) -> float:
        before = searcher.state.best_metric
        return metrics[f"eval_{metric}"] if before is None else max(before, metrics[f"eval_{metric}"])

    if count < trials:
        searcher = FairTrainer(
            model_init=model_init,
            args=trainer.args,
            processing_class=trainer.processing_class,
            train_dataset=trainer.train_dataset,
            eval_dataset=trainer.eval_dataset,
        )
        try:
            searcher.hyperparameter_search(
                hp_space=lambda trial: suggest(trial, space),
                compute_objective=best_so_far,
                n_trials=trials - count,
                direction="maximize",
                backend="optuna",
                load_if_exists=True,
                catch=(TrainingDivergedError,),
                # From another seed after every stop, or the first trials would be drawn again.
                sampler=optuna.samplers.TPESampler(seed=trainer.args.seed + count),
                **study,
            )
        except ValueError as error:
            if str(error) != "Record does not exist.":  # what Optuna says without a finished trial
                raise
            raise ValueError("Every trial diverged: search smaller values of learning_rate.") from error
    complete = optuna.load_study(**study)
    done = [
        {"number": trial.number, metric: trial.value, **trial.params}
        for trial in complete.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    ]
    found = {"best": {metric: complete.best_value, **complete.best_params}, "trials": done, **job.record}
    write_json(output / "search.json", found)
    print(f"Best of {len(done)} trials: {json.dumps(found['best'])}; all are in {output / 'search.json'}.")
    return found


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    return search(*read(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"hyperparameter_search.py: {error}")
