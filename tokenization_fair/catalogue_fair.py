"""The catalogue: the items that have codes, in rows, with the text that names them."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ITEM_FIELDS = ("item_id", "title", "text")


class Catalogue:
    """Items in rows. Row numbers are what models, filters and evaluation use for items.

    Args:
        items: mappings with `item_id` and, optionally, `title` and `text`.

    Raises:
        ValueError: naming the id, for an item without an id or with the id of another.
    """

    def __init__(self, items: Iterable[Mapping[str, Any]] = ()):
        self.items: list[dict[str, str]] = []
        self.rows: dict[str, int] = {}
        self.add(items)

    def __len__(self) -> int:
        return len(self.items)

    def add(self, items: Iterable[Mapping[str, Any]]) -> None:
        """Append items; nothing is appended if one of them is refused."""
        new: dict[str, dict[str, str]] = {}
        for item in items:
            item_id = item.get("item_id")
            if item_id is None or str(item_id) == "":
                raise ValueError(f"An item has no item_id: {dict(item)!r:.200}; give each item one.")
            if str(item_id) in self.rows or str(item_id) in new:
                raise ValueError(f"The item id {str(item_id)!r} stands twice: give each item one row.")
            new[str(item_id)] = {name: str(item[name]) for name in ITEM_FIELDS if item.get(name) is not None}
        self.rows.update(zip(new, range(len(self.items), len(self.items) + len(new)), strict=True))
        self.items.extend(new.values())

    def remove(self, item_ids: Sequence[str]) -> list[int]:
        """Remove items; the rows behind them move up. Returns the rows that are left, by their old numbers.

        Raises:
            ValueError: naming an id that is not in the catalogue.
        """
        gone = {self.row(item_id) for item_id in item_ids}
        kept = [row for row in range(len(self.items)) if row not in gone]
        self.items = [self.items[row] for row in kept]
        self.rows = {item["item_id"]: row for row, item in enumerate(self.items)}
        return kept

    def row(self, item_id: str) -> int:
        """Row of an item.

        Raises:
            ValueError: naming the id if it is not in the catalogue.
        """
        try:
            return self.rows[str(item_id)]
        except KeyError:
            raise ValueError(f"The item id {str(item_id)!r} is not in the catalogue of {len(self)} items.") from None

    def save(self, path: str | os.PathLike) -> None:
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in self.items)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Catalogue":
        """Read what `save` wrote.

        Raises:
            ValueError: naming file and line, for a line that is no JSON object.
        """

        def items() -> Iterable[Mapping[str, Any]]:
            with open(path, encoding="utf-8") as file:
                for number, line in enumerate(file, start=1):
                    try:
                        item = json.loads(line)
                    except ValueError as error:
                        raise ValueError(f"{path}, line {number} is not valid JSON: fetch the file again.") from error
                    if not isinstance(item, dict):
                        raise ValueError(f"{path}, line {number} is not a JSON object: fetch the file again.")
                    yield item

        return cls(items())
