"""Sequences of item ids -> examples of catalogue rows, through `datasets`, which caches each step."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from datasets.fingerprint import Hasher

from .catalogue_fair import Catalogue
from .tokenization_fair import FairTokenizer

# Part of every prepared split's fingerprint: raise it when what is prepared changes.
PREPARING_VERSION = 1


def windows(rows: Sequence[int], max_length: int) -> list[list[int]]:
    """Cut a training sequence into windows of at most `max_length` inputs and the item after them, from its end, so
    that every item but the first is a target exactly once.

    Args:
        rows: a user's training items, oldest first.
        max_length: items that the model reads.

    Returns:
        Windows of 2 to `max_length + 1` items, oldest first; none for a sequence of fewer than 2 items.
    """
    ends = range(len(rows), 1, -max_length)
    return [list(rows[max(0, end - max_length - 1) : end]) for end in ends][::-1]


def prepare_datasets(splits: DatasetDict, tokenizer: FairTokenizer, max_length: int | None = None) -> DatasetDict:
    """Tokenise the splits that `data_fair` makes.

    Args:
        splits: `train` with `item_ids`; `validation` and `test` with `history` and `target`; or some of them.
        tokenizer: fitted, with every item of the splits in its catalogue.
        max_length: items that the model reads; default `tokenizer.model_max_length`.

    Returns:
        `train` with `item_ids` (rows) and `example_id`; the others with `item_ids` (the last rows of the
        history), `target_id` and `seen_ids` (the whole history).

    Raises:
        ValueError: naming an item that is not in the catalogue.
    """
    limit = max_length or tokenizer.model_max_length
    catalogue = tokenizer.catalogue.fingerprint()
    prepared = {}
    for name, split in splits.items():
        prepare = _training_examples if name == "train" else _evaluation_examples
        prepared[name] = split.map(
            prepare,
            batched=True,
            remove_columns=split.column_names,
            fn_kwargs={"catalogue": tokenizer.catalogue, "limit": limit},
            # Of its own, or datasets would pickle the whole catalogue to make one.
            new_fingerprint=Hasher.hash((PREPARING_VERSION, name, split._fingerprint, catalogue, limit)),
            desc=f"Tokenising the {name} split",
        )
    if "train" in prepared:
        prepared["train"] = _numbered(prepared["train"])
    return DatasetDict(prepared)


def _numbered(train: Dataset) -> Dataset:
    return train.map(
        lambda _, indices: {"example_id": indices}, with_indices=True, batched=True, desc="Numbering examples"
    )


def _rows(sequences: Sequence[Sequence[str]], catalogue: Catalogue) -> list[list[int]]:
    rows = catalogue.rows_of(item_id for item_ids in sequences for item_id in item_ids)
    if (rows < 0).any():
        missing = next(islice((item_id for item_ids in sequences for item_id in item_ids), int(rows.argmin()), None))
        raise ValueError(f"The interactions hold item {missing!r}, which the items do not: add it to the items.")
    ends = np.cumsum([len(item_ids) for item_ids in sequences])
    return [of_user.tolist() for of_user in np.split(rows, ends[:-1])]


def _training_examples(batch: dict[str, list[Any]], catalogue: Catalogue, limit: int) -> dict[str, list[Any]]:
    return {"item_ids": [window for rows in _rows(batch["item_ids"], catalogue) for window in windows(rows, limit)]}


def _evaluation_examples(batch: dict[str, list[Any]], catalogue: Catalogue, limit: int) -> dict[str, list[Any]]:
    histories = _rows(batch["history"], catalogue)
    return {
        "item_ids": [history[-limit:] for history in histories],
        "target_id": _rows([batch["target"]], catalogue)[0],
        "seen_ids": histories,
    }
