"""Splits sequences into what is trained on and what is evaluated: leave-one-out, or by two points in time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc

# Part of every split's fingerprint: raise it when a rule changes.
SPLIT_VERSION = 1
_MIN_ITEMS = 3
_USERS_A_BATCH = 10_000


@dataclass(frozen=True)
class SplitReport:
    """What a split holds.

    users: all users; evaluated: users in the test split; too_short: users with fewer than 3 items, whom leave-one-out
    trains on but does not evaluate; interactions: items over all users.
    """

    users: int
    evaluated: int
    too_short: int
    interactions: int


def split_leave_one_out(sequences: datasets.Dataset) -> datasets.DatasetDict:
    """The last item of a user is the test target, the one before the validation target, the rest is trained on.

    The test history includes the validation item. Users with fewer than 3 items stay whole in train and are not
    evaluated (`describe_split` counts them).

    Args:
        sequences: `user_id` and `item_ids`, oldest first; other list columns must be parallel to `item_ids`.

    Returns:
        train with `user_id`, `item_ids` and the other list columns; validation and test with `user_id`, `history`,
        `target` and every other list column cut like the history, as `history_<name>`.

    Raises:
        ValueError: no users, or a column is missing.
    """
    return _split(sequences, cuts=None)


def split_by_time(
    sequences: datasets.Dataset, validation_share: float = 0.1, test_share: float = 0.1
) -> datasets.DatasetDict:
    """Trains on what was before one point in time for all users; evaluates on the periods after it.

    The two cuts are quantiles of all times, so that about `validation_share` of the interactions lie between them and
    `test_share` after the second. A user is evaluated in a period where it holds an item of theirs and they have an
    earlier one: the target is their first item in the period, the history all before it. Interactions at the very
    time of a cut count as after it. Either evaluation split may come out empty; users without an item before the
    first cut are left out of train.

    Args:
        sequences: as in `split_leave_one_out`, with `timestamps` that do not decrease.
        validation_share, test_share: shares of all interactions, more than 0 and together less than 1.

    Returns:
        As `split_leave_one_out`.

    Raises:
        ValueError: no `timestamps`, times out of order, shares out of range, or times so alike that nothing is left
            to train on.
    """
    if not (validation_share > 0 and test_share > 0 and validation_share + test_share < 1):
        raise ValueError(
            f"validation_share={validation_share} and test_share={test_share} must be more than 0 and together less "
            "than 1."
        )
    if "timestamps" not in sequences.column_names:
        raise ValueError(
            "split_by_time needs a timestamps column: read the data with read_interactions and a timestamp_column, "
            "or use split_leave_one_out."
        )
    times = np.concatenate([np.empty(0, np.int64), *_flat_batches(sequences, "timestamps")])
    if not len(times):
        raise ValueError("There are no interactions to split.")
    cuts = _quantile(times, 1 - validation_share - test_share), _quantile(times, 1 - test_share)
    if cuts[0] <= times.min():
        raise ValueError("The timestamps are too much alike to split by time: use split_leave_one_out.")
    return _split(sequences, cuts)


def describe_split(splits: datasets.DatasetDict, sequences: datasets.Dataset) -> SplitReport:
    """Counts what a split made of `sequences`."""
    lengths = np.concatenate([np.empty(0, np.int64), *_lengths(sequences)])
    return SplitReport(
        users=len(sequences),
        evaluated=len(splits.get("test", ())),
        too_short=int((lengths < _MIN_ITEMS).sum()),
        interactions=int(lengths.sum()),
    )


def _split(sequences: datasets.Dataset, cuts: tuple[float, float] | None) -> datasets.DatasetDict:
    for name in ("user_id", "item_ids"):
        if name not in sequences.column_names:
            raise ValueError(f"The sequences have no column {name!r} but {sequences.column_names}: use a reader.")
    if not len(sequences):
        raise ValueError("There are no users to split.")
    # New objects, because a fingerprint tells shared ones (a data set just read) from equal ones (one from the cache).
    features = datasets.Features.from_dict(sequences.features.to_dict())
    lists = {name: kind for name, kind in features.items() if isinstance(kind, datasets.List)}
    user = {"user_id": features["user_id"]}
    evaluated = {"history": lists["item_ids"], "target": lists["item_ids"].feature}
    evaluated |= {f"history_{name}": kind for name, kind in lists.items() if name != "item_ids"}

    def rows(part: str, columns: dict[str, Any]) -> datasets.Dataset:
        return sequences.map(
            _cut_batch,
            batched=True,
            # `datasets` names a module's function, not its code: the version makes a changed rule a new split.
            fn_kwargs={"part": part, "lists": list(lists), "cuts": cuts, "version": SPLIT_VERSION},
            features=datasets.Features(user | columns),
            remove_columns=sequences.column_names,
            desc=f"Splitting ({part})",
        )

    return datasets.DatasetDict(
        train=rows("train", lists), validation=rows("validation", evaluated), test=rows("test", evaluated)
    )


def _cut_batch(
    batch: dict[str, list], part: str, lists: Sequence[str], cuts: tuple[float, float] | None, version: int
) -> dict[str, list]:
    """The rows of one split that a batch of users gives."""
    others = [name for name in lists if name != "item_ids"]
    names = {"item_ids": "item_ids" if part == "train" else "history"}
    names |= {name: name if part == "train" else f"history_{name}" for name in others}
    made: dict[str, list] = {name: [] for name in ("user_id", *names.values())}
    if part != "train":
        made["target"] = []
    for row, (user, items) in enumerate(zip(batch["user_id"], batch["item_ids"], strict=True)):
        times = batch["timestamps"][row] if cuts else None
        end = _ends(user, len(items), times, cuts)[part]
        if not end:
            continue
        made["user_id"].append(user)
        for name, new_name in names.items():
            made[new_name].append(batch[name][row][:end])
        if part != "train":
            made["target"].append(items[end])
    return made


def _ends(user: str, length: int, times: Sequence[float] | None, cuts: tuple[float, float] | None) -> dict[str, int]:
    """Where each split's history ends for one user, 0 where the user is not in the split."""
    if cuts is None or times is None:
        if length < _MIN_ITEMS:
            return {"train": length, "validation": 0, "test": 0}
        return {"train": length - 2, "validation": length - 2, "test": length - 1}
    if not np.all(np.diff(np.asarray(times)) >= 0):
        raise ValueError(f"The timestamps of the user {user!r} decrease: sort each user's items by time.")
    first, second = (int(end) for end in np.searchsorted(np.asarray(times), cuts))
    return {
        "train": first,
        "validation": first if first < second else 0,
        "test": second if second < length else 0,
    }


def _quantile(values: np.ndarray, share: float) -> Any:
    """The value that a `share` of the values lie before; exact for int64."""
    position = math.ceil(share * (len(values) - 1))
    return np.partition(values, position)[position].item()


def _flat_batches(sequences: datasets.Dataset, name: str) -> list[np.ndarray]:
    batches = sequences.select_columns(name).with_format("arrow").iter(_USERS_A_BATCH)
    return [batch[name].combine_chunks().flatten().to_numpy(zero_copy_only=False) for batch in batches]


def _lengths(sequences: datasets.Dataset) -> list[np.ndarray]:
    batches = sequences.select_columns("item_ids").with_format("arrow").iter(_USERS_A_BATCH)
    return [pc.list_value_length(batch["item_ids"]).to_numpy() for batch in batches]
