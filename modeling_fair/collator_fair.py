"""Rows of the catalogue -> padded batches of codes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch


class FairDataCollator:
    """Pads prepared examples (see `prepare_datasets`) on the right and looks up their codes.

    A training example `{"item_ids": [rows], "example_id"}` supervises every position with the codes of the next item.
    An evaluation example `{"item_ids": [rows], "target_id", "seen_ids": [rows]}` supervises the last one.

    Args:
        tokenizer: a fitted [`FairTokenizer`].
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """
        Returns:
            `input_ids` (batch, items, num_codebooks), `attention_mask` and `known_ids` (batch, items), `labels`
            (batch, items, num_codebooks) with -100 where nothing is supervised; for training `next_ids` (batch,
            items), the catalogue rows of the labels with -1 where there are none, `history_ids`, those of the inputs,
            and `example_ids` (batch,), for evaluation `target_ids` (batch,) and `seen_ids` (batch, n), padded with -1.

        Raises:
            ValueError: for an example that was not prepared, or has too few items.
        """
        training = "target_id" not in examples[0]
        if training and "example_id" not in examples[0]:
            raise ValueError(f"The data set has the columns {', '.join(examples[0])}: give one of prepare_datasets.")
        sequences = [example["item_ids"] for example in examples]
        if short := [number for number, items in enumerate(sequences) if len(items) < 1 + training]:
            need = "2 items, the last one a target" if training else "an item in its history"
            raise ValueError(f"Example {short[0]} of the batch has {len(sequences[short[0]])} items: it needs {need}.")
        items = _pad([sequence[:-1] for sequence in sequences] if training else sequences)
        if training:
            next_items = _pad([sequence[1:] for sequence in sequences])
        else:
            next_items = np.full_like(items, -1)
            for row, (sequence, example) in enumerate(zip(sequences, examples, strict=True)):
                next_items[row, len(sequence) - 1] = example["target_id"]
        labels = np.where((next_items >= 0)[..., None], self.tokenizer.codes_of(next_items), -100)
        batch = {
            "input_ids": self.tokenizer.codes_of(items),
            "attention_mask": (items >= 0).astype(np.int64),
            "known_ids": self.tokenizer.known_ids_of(items),
            "labels": labels,
        }
        if training:
            batch["next_ids"], batch["history_ids"] = next_items, items
            batch["example_ids"] = np.array([example["example_id"] for example in examples], dtype=np.int64)
        else:
            batch["target_ids"] = np.array([example["target_id"] for example in examples], dtype=np.int64)
            batch["seen_ids"] = _pad([example["seen_ids"] for example in examples])
        return {name: torch.from_numpy(array) for name, array in batch.items()}


def _pad(rows: Sequence[Sequence[int]]) -> np.ndarray:
    padded = np.full((len(rows), max(map(len, rows))), -1, dtype=np.int64)
    for row, of_user in enumerate(rows):
        padded[row, : len(of_user)] = of_user
    return padded
