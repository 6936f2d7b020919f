"""Sequences of item ids -> examples of catalogue rows, through `datasets`, which caches each step."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset, DatasetDict

from .tokenization_fair import FairTokenizer


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
        splits: `train` with `item_ids`; `validation` and `test` with `history` and `target`.
        tokenizer: fitted, with every item of the splits in its catalogue.
        max_length: items that the model reads; default `tokenizer.model_max_length`.

    Returns:
        `train` with `item_ids` (rows) and `example_id`; the others with `item_ids` (the last rows of the
        history), `target_id` and `seen_ids` (the whole history).

    Raises:
        ValueError: naming an item that is not in the catalogue.
    """
    limit = max_length or tokenizer.model_max_length
    prepared = {}
    for name, split in splits.items():
        prepare = _training_examples if name == "train" else _evaluation_examples
        prepared[name] = split.map(
            prepare,
            batched=True,
            remove_columns=split.column_names,
            fn_kwargs={"rows": tokenizer.catalogue.rows, "limit": limit},
            desc=f"Tokenising the {name} split",
        )
    prepared["train"] = _numbered(prepared["train"])
    return DatasetDict(prepared)


def _numbered(train: Dataset) -> Dataset:
    return train.map(
        lambda _, indices: {"example_id": indices}, with_indices=True, batched=True, desc="Numbering examples"
    )


def _rows(item_ids: Sequence[str], rows: dict[str, int]) -> list[int]:
    try:
        return [rows[item_id] for item_id in item_ids]
    except KeyError as error:
        raise ValueError(
            f"The interactions hold item {error.args[0]!r}, which the items do not: add it to the items."
        ) from None


def _training_examples(batch: dict[str, list[Any]], rows: dict[str, int], limit: int) -> dict[str, list[Any]]:
    examples = [window for item_ids in batch["item_ids"] for window in windows(_rows(item_ids, rows), limit)]
    return {"item_ids": examples}


def _evaluation_examples(batch: dict[str, list[Any]], rows: dict[str, int], limit: int) -> dict[str, list[Any]]:
    histories = [_rows(history, rows) for history in batch["history"]]
    return {
        "item_ids": [history[-limit:] for history in histories],
        "target_id": _rows(batch["target"], rows),
        "seen_ids": histories,
    }
