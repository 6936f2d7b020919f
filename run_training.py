"""Train FAIR: interactions and item texts in, one folder with model, tokenizer and catalogue out.

    python run_training.py --dataset demo --output_dir runs/demo
    python run_training.py --interactions_file log.csv --items_file items.csv --output_dir runs/shop
    accelerate launch run_training.py configs/beauty.yaml --learning_rate 3e-3

Settings come as flags, or from a YAML or JSON file given first, which flags after it overrule.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from datasets import Dataset, DatasetDict
from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser, set_seed
from transformers.trainer_utils import get_last_checkpoint

from data_fair import (
    SplitReport,
    amazon_interactions,
    amazon_items,
    describe_split,
    load_named,
    read_interactions,
    read_items,
    read_sequence_file,
    split_by_time,
    split_leave_one_out,
)
from modeling_fair import FairConfig, FairForGenerativeRecommendation, FairTrainer, FairTrainingArguments
from modeling_fair.cooccurrence_fair import ChosenPrior, choose_prior, prior_parts
from modeling_fair.metrics_fair import metrics_table
from modeling_fair.plots_fair import import_matplotlib, plot_training
from tokenization_fair import DEFAULT_TEXT_ENCODER, FairTokenizer
from tokenization_fair.codebooks_fair import check_finite, check_shape
from tokenization_fair.preprocessing_fair import prepare_datasets

SOURCES = ("dataset", "sequences_file", "interactions_file", "amazon_reviews")


@dataclass
class DataArguments:
    """Where interactions and items come from: one of dataset, sequences_file, interactions_file, amazon_reviews."""

    dataset: str | None = field(
        default=None, metadata={"help": "named data set: demo, amazon_2014:<Category> or movielens:100k"}
    )
    sequences_file: str | None = field(
        default=None, metadata={"help": "lines of 'user item item …', oldest first, plain or gzipped"}
    )
    interactions_file: list[str] | None = field(
        default=None, metadata={"help": "CSV, JSONL or Parquet files, one interaction a row, plain or gzipped"}
    )
    amazon_reviews: str | None = field(default=None, metadata={"help": "raw Amazon review file"})
    amazon_metadata: str | None = field(default=None, metadata={"help": "raw Amazon metadata file"})
    amazon_year: int = field(default=2014, metadata={"help": "release of the raw Amazon files: 2014, 2018 or 2023"})
    items_file: list[str] | None = field(
        default=None, metadata={"help": "CSV, JSONL or Parquet files, one item a row"}
    )
    item_embeddings: str | None = field(
        default=None, metadata={"help": ".npy of (items, dim) floats in the order of the items file, instead of text"}
    )
    user_column: str = field(default="user_id", metadata={"help": "of the interactions file"})
    item_column: str = field(default="item_id", metadata={"help": "of the interactions file"})
    timestamp_column: str | None = field(
        default="timestamp", metadata={"help": "of the interactions file; 'none' if the rows are in order of time"}
    )
    item_id_column: str | None = field(
        default=None, metadata={"help": "of the items file; default the first of item_id, id, asin, parent_asin"}
    )
    title_column: str = field(default="title", metadata={"help": "of the items file: what names an item in results"})
    text_fields: list[str] | None = field(
        default=None, metadata={"help": "columns of the items file that make the text; default all that are known"}
    )
    allow_items_without_text: bool = field(
        default=False, metadata={"help": "keep items without any text instead of stopping at the first"}
    )
    k_core: int = field(
        default=0, metadata={"help": "drop users and items with fewer interactions, until none is left"}
    )
    split: str = field(
        default="leave_one_out", metadata={"help": "evaluation split", "choices": ["leave_one_out", "global_time"]}
    )
    validation_share: float = field(default=0.1, metadata={"help": "share of interactions, for the global_time split"})
    test_share: float = field(default=0.1, metadata={"help": "share of interactions, for the global_time split"})
    cache_dir: str | None = field(
        default=None, metadata={"help": "where prepared data are kept; default datasets' own"}
    )


@dataclass
class TokenizerArguments:
    """How items get codes; num_codebooks and codebook_size are fields of the model."""

    text_encoder: str = field(
        default=DEFAULT_TEXT_ENCODER, metadata={"help": "sentence-transformers name or folder, or tfidf"}
    )
    pca_dim: int = field(default=128, metadata={"help": "dimensions that PCA keeps of the text vectors"})
    whiten: bool = field(default=True, metadata={"help": "whether PCA scales its dimensions to equal variance"})
    collisions: str = field(
        default="resolve", metadata={"help": "items with equal codes", "choices": ["resolve", "keep"]}
    )
    tokenizer_work_dir: str | None = field(
        default=None,
        metadata={"help": "folder that keeps finished batches of items, for a run that goes on where one stopped"},
    )
    cooccurrence_prior: bool = field(
        default=False,
        metadata={
            "help": "add the training's co-occurrence counts and similar items to the model, with --prior_weight or, "
            "where that is 0, the weight that is best in validation"
        },
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "FAIR checkpoint to go on from, with its tokenizer; items it lacks are added"}
    )


# What a checkpoint to go on from has settled already.
OF_A_FIT = ("text_encoder", "pca_dim", "whiten", "collisions")
# Fields of the model that follow from the tokenizer and the data.
DERIVED = ("codebook_fingerprint", "num_known_items", "prior_size")

# The model's other fields are flags under their own names and defaults.
ModelArguments = dataclasses.make_dataclass(
    "ModelArguments",
    [
        (spec.name, type(spec.default), field(default=spec.default, metadata={"help": "see FairConfig"}))
        for spec in dataclasses.fields(FairConfig)
        if spec.name in FairConfig.__annotations__ and spec.name not in DERIVED
    ],
)


def parse_arguments(arguments: list[str]) -> tuple[DataArguments, TokenizerArguments, Any, FairTrainingArguments]:
    """Flags, after an optional YAML or JSON file whose settings they overrule.

    Raises:
        ValueError: naming a setting of the file that is no flag.
    """
    groups: Any = (DataArguments, TokenizerArguments, ModelArguments, FairTrainingArguments)
    parser = HfArgumentParser(groups)
    if arguments and arguments[0].endswith((".yaml", ".yml", ".json")):
        with open(arguments[0], encoding="utf-8") as file:
            try:
                settings = yaml.safe_load(file) or {}  # JSON is YAML
            except yaml.YAMLError as error:
                raise ValueError(f"{arguments[0]} is not valid YAML: {' '.join(str(error).split())}") from error
        known = {action.dest: action for action in parser._actions}
        if unknown := sorted(set(settings) - set(known)):
            raise ValueError(f"{arguments[0]} sets {', '.join(unknown)}, which no flag does: see --help.")
        arguments = arguments[1:]
        if {argument.split("=")[0].replace("-", "_") for argument in arguments} & {f"__{name}" for name in SOURCES}:
            settings = {name: value for name, value in settings.items() if name not in SOURCES}
        listed = {name for name in settings if known[name].nargs in ("+", "*") and isinstance(settings[name], str)}
        parser.set_defaults(**{name: [value] if name in listed else value for name, value in settings.items()})
    return parser.parse_args_into_dataclasses(arguments)  # type: ignore[return-value]


def load_data(data: DataArguments) -> tuple[Dataset, Dataset]:
    """Sequences and items of whichever source was given.

    Raises:
        ValueError: for no source, several, or one without its items.
    """
    given = [name for name in SOURCES if getattr(data, name) is not None]
    if len(given) != 1:
        raise ValueError(f"Give one of --{', --'.join(SOURCES)}; this run has {' and '.join(given) or 'none'}.")
    if data.k_core and (data.dataset or data.sequences_file):
        raise ValueError(f"--k_core filters interactions: leave it out with --{given[0]}, which is taken as it is.")
    allow_no_text = data.allow_items_without_text or data.item_embeddings is not None
    text: dict[str, Any] = {"text_fields": data.text_fields, "allow_items_without_text": allow_no_text}
    if data.dataset:
        return load_named(data.dataset, cache_dir=data.cache_dir)
    if data.amazon_reviews:
        if not data.amazon_metadata:
            raise ValueError("--amazon_reviews needs --amazon_metadata, the file with the items' texts.")
        sequences = amazon_interactions(
            data.amazon_reviews, data.amazon_year, cache_dir=data.cache_dir, k_core=data.k_core
        )
        keep = set(interaction_counts(sequences)[0].to_pylist())
        return sequences, amazon_items(data.amazon_metadata, data.amazon_year, keep=keep, **text)
    if not data.items_file:
        raise ValueError(f"--{given[0]} needs --items_file, the file with the items' texts.")
    if data.sequences_file:
        sequences = read_sequence_file(data.sequences_file, cache_dir=data.cache_dir)
    else:
        sequences = read_interactions(
            data.interactions_file or [],
            user_column=data.user_column,
            item_column=data.item_column,
            timestamp_column=None if data.timestamp_column in (None, "none") else data.timestamp_column,
            k_core=data.k_core,
            cache_dir=data.cache_dir,
        )
    items = read_items(data.items_file, id_column=data.item_id_column, title_column=data.title_column, **text)
    return sequences, items


def split_data(sequences: Dataset, data: DataArguments) -> tuple[DatasetDict, SplitReport]:
    if data.split == "global_time":
        splits = split_by_time(sequences, data.validation_share, data.test_share)
    else:
        splits = split_leave_one_out(sequences)
    report = describe_split(splits, sequences)
    if len(splits["validation"]) == 0 or len(splits["test"]) == 0:
        raise ValueError(f"The {data.split} split leaves no user to evaluate: {report}")
    return splits, report


def _arrow_column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """A column as it lies on disk, memory-mapped."""
    column = dataset.with_format("arrow")[name][:]
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])


def interaction_counts(sequences: Dataset) -> tuple[pa.Array, np.ndarray]:
    """Ids of the items that the sequences hold, and how often each stands there, (ids,) int64."""
    lists = _arrow_column(sequences, "item_ids")
    counts = pc.value_counts(pa.chunked_array([pc.list_flatten(chunk) for chunk in lists.chunks]))
    return counts.field("values"), counts.field("counts").to_numpy()


def item_counts(sequences: Dataset, items: Dataset) -> np.ndarray:
    """Interactions of each item, (items,) int64.

    Raises:
        ValueError: naming one, if the interactions hold items that the items lack.
    """
    met, times = interaction_counts(sequences)
    rows = pc.index_in(met, value_set=_arrow_column(items, "item_id").cast(met.type))
    if rows.null_count:
        missing = sorted(met.filter(rows.is_null()).to_pylist())
        raise ValueError(
            f"The interactions hold {len(missing)} item(s) that the items lack, such as {missing[0]!r}: add them to "
            "the items, or take them out of the interactions."
        )
    counts = np.zeros(len(items), dtype=np.int64)
    counts[rows.to_numpy()] = times
    return counts


def load_embeddings(path: str | None) -> np.ndarray | None:
    if path is None:
        return None
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a whole .npy file of numbers: write it with numpy.save.") from error


def make_tokenizer(
    items: Dataset, train: Dataset, data: DataArguments, settings: TokenizerArguments, model: Any, seed: int
) -> FairTokenizer:
    """The tokenizer of the checkpoint to go on from, with the items it lacks, or a new one."""
    embeddings = load_embeddings(data.item_embeddings)
    if embeddings is not None:
        check_shape(embeddings, len(items), f"vectors of {data.item_embeddings}")
        check_finite(embeddings, range(len(items)), f"vectors of {data.item_embeddings}")
    if settings.model_name_or_path is None:
        counts = item_counts(train, items)
        met = _arrow_column(items, "item_id").filter(pa.array(counts > 0))
        return FairTokenizer.fit(
            items,
            embeddings=embeddings,
            text_encoder=settings.text_encoder,
            num_codebooks=model.num_codebooks,
            codebook_size=model.codebook_size,
            pca_dim=settings.pca_dim,
            whiten=settings.whiten,
            fit_item_ids=(item_id for chunk in met.chunks for item_id in chunk.to_pylist()),
            item_counts=counts,
            collisions=settings.collisions,
            model_max_length=model.max_position_embeddings,
            seed=seed,
            work_dir=settings.tokenizer_work_dir,
        )
    try:
        tokenizer = FairTokenizer.from_pretrained(settings.model_name_or_path)
    except OSError as error:
        raise ValueError(
            f"--model_name_or_path {settings.model_name_or_path} is neither a folder nor a repository of the Hub that "
            "can be reached: name a folder that a run wrote."
        ) from error
    new = np.flatnonzero(tokenizer.catalogue.rows_of(items["item_id"]) < 0)
    tokenizer.add_items(
        items.select(new),
        None if embeddings is None else embeddings[new],
        work_dir=settings.tokenizer_work_dir,
        show_progress=True,
    )
    return tokenizer


def provenance() -> dict[str, Any]:
    """Commit and versions that a result was made with."""
    packages = ("torch", "transformers", "accelerate", "datasets", "faiss-cpu", "numpy")
    versions: dict[str, str | None] = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # such as faiss from conda
            versions[name] = None
    folder = Path(__file__).parent
    commit = None
    if (folder / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    return {"commit": commit, "versions": versions}


def write_json(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")
    os.replace(temporary, path)


@dataclass
class Job:
    """All that a run trains on, ready and checked."""

    trainer: FairTrainer
    test_dataset: Dataset
    resume: bool | str | None
    record: dict[str, Any]
    cooccurrence_prior: bool = False

    def model_config(self) -> FairConfig:
        """As it is now."""
        assert self.trainer.model is not None
        return self.trainer.model.config  # type: ignore[return-value]


def prepare(arguments: list[str]) -> Job:
    """Read and check everything, and make the trainer; nothing is written to the output folder before.

    Raises:
        ValueError, OSError, ImportError: one sentence on what is wrong with the arguments or the files.
    """
    data, settings, model_fields, args = parse_arguments(arguments)
    import_matplotlib()  # wanted in the end, missed now
    output = Path(str(args.output_dir))
    resume: bool | str | None = args.resume_from_checkpoint
    resume = {"true": True, "1": True, "false": None, "0": None}.get(str(resume).lower(), resume)
    if resume is True:
        resume = get_last_checkpoint(str(output)) if output.is_dir() else None
        if resume is None:
            raise ValueError(f"{output} holds no checkpoint to resume: start without --resume_from_checkpoint.")
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output_dir {output} is a file: name a folder, which is made where there is none.")
    if resume and not Path(str(resume)).is_dir():
        raise ValueError(f"--resume_from_checkpoint {resume} is not a folder: give that of a checkpoint.")
    if not resume and (any(output.glob("checkpoint-*")) or (output / "model.safetensors").exists()):
        raise ValueError(
            f"{output} holds the model or checkpoints of another run: choose another --output_dir, delete it, or go "
            "on with --resume_from_checkpoint true."
        )
    set_seed(args.seed)
    try:
        known = int(model_fields.item_residuals)  # how many is known when there is a tokenizer
        config = FairConfig(**dataclasses.asdict(model_fields), num_known_items=known)
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__ or error)) from error

    shared = output.with_name(f"{output.name}.preparing")  # where the other processes find the tokenizer
    with args.main_process_first(desc="preparing data"):
        sequences, items = load_data(data)
        item_counts(sequences, items)  # raises where they do not fit together
        splits, report = split_data(sequences, data)
        if args.process_index == 0 and not resume:
            tokenizer = make_tokenizer(items, splits["train"], data, settings, config, args.seed)
            prepared = prepare_datasets(splits, tokenizer)
            if args.world_size > 1:
                tokenizer.save_pretrained(shared)
        else:
            tokenizer = FairTokenizer.from_pretrained(str(resume or shared))
            prepared = prepare_datasets(splits, tokenizer)
        if not len(prepared["train"]):
            raise ValueError(
                "No user has 2 items left to train on: the leave_one_out split keeps a user's last two for evaluation."
            )
    if args.process_index == 0:
        print(f"Data: {report}\nItem codes: {tokenizer.quality()}\nTraining on {args.world_size} process(es).")

    if settings.model_name_or_path is not None:
        model = FairForGenerativeRecommendation.from_pretrained(settings.model_name_or_path)
    else:
        config.codebook_size = tokenizer.codebook_size
        if config.item_residuals or settings.cooccurrence_prior:
            config.num_known_items = tokenizer.num_known_items
        model = FairForGenerativeRecommendation(config)
    trainer = FairTrainer(
        model=model,
        args=args,
        processing_class=tokenizer,
        train_dataset=prepared["train"],
        eval_dataset=prepared["validation"],
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
    return Job(trainer, prepared["test"], resume, record, settings.cooccurrence_prior)


def add_prior(trainer: FairTrainer, without: dict[str, float]) -> ChosenPrior:
    """Add the prior that is best to a trained model, whose validation metrics without it are known."""
    model = trainer.model
    assert isinstance(model, FairForGenerativeRecommendation)
    assert isinstance(trainer.train_dataset, Dataset)

    def validate(counts: Any, weight: float) -> dict[str, float]:
        model.set_prior(counts if weight else None, weight)
        return plain_names(trainer.evaluate())

    parts = prior_parts(trainer.train_dataset, trainer.processing_class)
    chosen = choose_prior(*parts, without, validate, model.config.prior_weight)
    model.set_prior(chosen.counts if chosen.weight else None, chosen.weight)
    return chosen


def plain_names(metrics: dict[str, float]) -> dict[str, float]:
    """Metrics without the split's name before theirs."""
    return {name.removeprefix("eval_").removeprefix("test_"): value for name, value in metrics.items()}


def train(job: Job) -> dict[str, Any]:
    """Train, evaluate and save; returns what `results.json` holds."""
    trainer, output = job.trainer, Path(str(job.trainer.args.output_dir))
    if job.cooccurrence_prior:  # that of a checkpoint to go on from would be part of what is evaluated without one
        assert isinstance(trainer.model, FairForGenerativeRecommendation)
        trainer.model.set_prior(None, trainer.model.config.prior_weight)
    trainer.train(resume_from_checkpoint=job.resume)
    validation, tried = plain_names(trainer.evaluate()), {}

    def test() -> dict[str, float]:
        return plain_names(trainer.evaluate(job.test_dataset, metric_key_prefix="test"))

    evaluated = {"validation": validation, "test": test()}
    if job.cooccurrence_prior:
        without = {f"{split}_without_prior": metrics for split, metrics in evaluated.items()}
        chosen = add_prior(trainer, validation)
        evaluated = {"validation": chosen.validation, "test": test(), **without}
        tried = {"priors": chosen.tried}
    results = {
        "results": evaluated,
        **tried,
        "train_seconds": sum(log.get("train_runtime", 0.0) for log in trainer.state.log_history),
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
        print(metrics_table({f"FAIR, {split}": metrics for split, metrics in results["results"].items()}))
        print(f"Saved model, tokenizer and catalogue to {output}.")
    return results


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run a whole job; returns what `results.json` holds."""
    return train(prepare(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    try:
        prepared_job = prepare(sys.argv[1:])
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"run_training.py: {error}")
    train(prepared_job)
