"""Interactions -> sequences -> splits, on `datasets`; no model and no tokenizer in here."""

from data_fair.amazon import amazon_interactions, amazon_items
from data_fair.interactions import read_interactions
from data_fair.item_text import DEFAULT_TEXT_FIELDS
from data_fair.items import read_items
from data_fair.named import load_named
from data_fair.sequence_files import read_sequence_file
from data_fair.splits import SplitReport, describe_split, split_by_time, split_leave_one_out

__all__ = [
    "DEFAULT_TEXT_FIELDS",
    "SplitReport",
    "amazon_interactions",
    "amazon_items",
    "describe_split",
    "load_named",
    "read_interactions",
    "read_items",
    "read_sequence_file",
    "split_by_time",
    "split_leave_one_out",
]
