"""Makes the one text of an item that is encoded, from its fields as they stand in a file."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

DEFAULT_TEXT_FIELDS = ("title", "brand", "categories", "genres", "year", "keywords", "features", "description")
TITLE_CHARACTERS = 80
# Lists in these fields are paths from the general to the special.
_PATH_FIELDS = ("categories", "category")


def clean(text: str) -> str:
    """Text with HTML entities resolved and every run of white space made one space."""
    return " ".join(html.unescape(text).split())


def field_text(name: str, value: Any) -> str:
    """One field as text: `a > b` for a path of categories, `a > b, a > c` for several, else `a, b`; "" where empty."""
    if isinstance(value, list | tuple):
        nested = any(isinstance(part, list | tuple) for part in value)
        parts = [field_text(_PATH_FIELDS[0] if nested else "", part) for part in value]
        joint = " > " if name in _PATH_FIELDS and not nested else ", "
        return joint.join(part for part in parts if part)
    if isinstance(value, Mapping):
        return field_text("", list(value.values()))
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a year in a column with gaps
    return clean(str(value))


def item_text(record: Mapping[str, Any], fields: Sequence[str]) -> str:
    """The fields that are not empty, in the order given, joined with ". "."""
    return ". ".join(filter(None, (field_text(name, record.get(name)) for name in fields)))


def short_title(text: str) -> str:
    """The first whole words of a text, at most 80 characters."""
    if len(text) <= TITLE_CHARACTERS:
        return text
    return text[: TITLE_CHARACTERS + 1].rpartition(" ")[0] or text[:TITLE_CHARACTERS]
