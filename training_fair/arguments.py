"""The settings of run_training.py: flags, or YAML or JSON files."""

import argparse
import dataclasses
import inspect
import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from modeling_fair import FairConfig, FairTrainingArguments
from tokenization_fair import DEFAULT_TEXT_ENCODER

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
        default="leave_one_out",
        metadata={
            "help": "what is kept for evaluation; 'none' trains on everything, with settings of an earlier run",
            "choices": ["leave_one_out", "global_time", "none"],
        },
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
    centroid_start: bool = field(
        default=False,
        metadata={"help": "initialise code embeddings from the codebooks' centroids: items start as similar as texts"},
    )
    cooccurrence_prior: bool = field(
        default=False,
        metadata={
            "help": "add the training's co-occurrence counts and similar items to the model, with --prior_weight, "
            "--prior_repeat (what is best in validation where they are 0) and --prior_similar_weight (where it is not "
            "given), validated by at most 10,000 users; beside a model of items as a mixture, of --prior_level or the "
            "best one. A training that goes on keeps what its checkpoint has"
        },
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "FAIR checkpoint to go on from, with its tokenizer; items it lacks are added, popularity and the "
            "prior are counted anew in the interactions that are given"
        },
    )


# What a checkpoint to go on from has settled already.
OF_A_FIT = ("text_encoder", "pca_dim", "whiten", "collisions", "centroid_start")
# Fields of the model that follow from the tokenizer and the data.
DERIVED = ("codebook_fingerprint", "num_known_items", "num_adopted_items", "prior_size")

# Flags of one text, which argparse does not check where they come from a file.
OWN_TEXTS = {
    spec.name
    for part in (DataArguments, TokenizerArguments)
    for spec in dataclasses.fields(part)
    if spec.type in (str, str | None)
}
# What a flag's type is called.
KINDS: dict[Any, str] = {int: "a whole number", float: "a number", string_to_bool: "true or false"}

# A field's lines in FairConfig's docstring: names, type, text.
DOCUMENTED = re.compile(r"^    ([a-z][\w, ]*) \(`.*?\): (.*?)(?=^    [a-z]|\n\n)", re.MULTILINE | re.DOTALL)
FIELD_HELPS = {
    name: " ".join(text.split()).replace("%", "%%")  # as argparse wants it
    for names, text in DOCUMENTED.findall(inspect.cleandoc(FairConfig.__doc__ or ""))
    for name in names.split(", ")
}
# The model's other fields are flags under their own names and defaults.
ModelArguments = dataclasses.make_dataclass(
    "ModelArguments",
    [
        (
            spec.name,
            float | None if spec.default is None else type(spec.default),  # those without a value are numbers
            field(default=spec.default, metadata={"help": FIELD_HELPS.get(spec.name, "")}),
        )
        for spec in dataclasses.fields(FairConfig)
        if spec.name in FairConfig.__annotations__ and spec.name not in DERIVED
    ],
)


def checked(value: Any, action: argparse.Action, path: str) -> Any:
    """A setting of a file as its flag takes it: argparse itself checks flags alone.

    Raises:
        ValueError: where it does not.
    """
    choices, kind, of_text = action.choices, KINDS.get(action.type), action.type
    if value == action.default and type(value) is type(action.default):
        return value
    if choices is not None and value not in choices:
        raise ValueError(f"{path} sets {action.dest} to {value!r}: choose one of {', '.join(map(str, choices))}.")
    if action.dest in OWN_TEXTS and (value is None or isinstance(value, list | dict)):
        raise ValueError(f"{path} sets {action.dest} to {value!r}: give one text.")
    if isinstance(value, int | float) and of_text is str and not isinstance(value, bool):
        return str(value)
    if kind is None or not callable(of_text):
        return value
    try:
        return of_text(str(value))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise ValueError(f"{path} sets {action.dest} to {value!r}: give {kind}.") from error


def parse_arguments(arguments: list[str]) -> tuple[DataArguments, TokenizerArguments, Any, FairTrainingArguments]:
    """Flags, after YAML or JSON files, if any, whose settings they overrule, as a later file's do an earlier one's.

    Raises:
        ValueError: naming a setting of a file that is no flag, or none that it takes.
    """
    groups: Any = (DataArguments, TokenizerArguments, ModelArguments, FairTrainingArguments)
    parser = HfArgumentParser(
        groups,
        usage="run_training.py [settings.yaml ...] [--flag value ...]",
        description="Settings come as flags, or from YAML or JSON files given first, such as those in configs/: a "
        "recipe, a data set, or both. Flags overrule files, and a later file an earlier one.",
    )
    known: dict[str, argparse.Action] = {}
    for action in parser._actions:
        known.setdefault(action.dest, action)  # a flag's own comes before that of its --no_flag
    settings: dict[str, Any] = {}
    while arguments and arguments[0].endswith((".yaml", ".yml", ".json")):
        path, *arguments = arguments
        with open(path, encoding="utf-8") as file:
            try:
                of_file = yaml.safe_load(file) or {}  # JSON is YAML
            except yaml.YAMLError as error:
                raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
        if not isinstance(of_file, dict):
            raise ValueError(f"{path} holds no settings: files of data are given by flags, such as --items_file.")
        if unknown := sorted(set(map(str, of_file)) - set(known)):
            raise ValueError(f"{path} sets {', '.join(unknown)}, which no flag does: see --help.")
        for name, value in of_file.items():
            of_file[name] = checked(value, known[name], path)
        if set(of_file) & set(SOURCES):
            settings = {name: value for name, value in settings.items() if name not in SOURCES}
        settings |= of_file
    if {argument.split("=")[0].replace("-", "_") for argument in arguments} & {f"__{name}" for name in SOURCES}:
        settings = {name: value for name, value in settings.items() if name not in SOURCES}
    listed = {name for name in settings if known[name].nargs in ("+", "*") and isinstance(settings[name], str)}
    parser.set_defaults(**{name: [value] if name in listed else value for name, value in settings.items()})
    everything = parser.parse_args(arguments).split == "none"
    if everything:  # there is nobody to evaluate with
        arguments = [*arguments, "--eval_strategy", "no", "--load_best_model_at_end", "false"]
    parsed: Any = parser.parse_args_into_dataclasses(arguments)
    if everything:
        parsed[-1].early_stopping_patience = None
    return parsed
