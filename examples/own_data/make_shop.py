"""Write the files of a small simulated shop, in the form that shops have them: `items.csv`, `log.csv`, and next day's
`items_tomorrow.csv` and `log_tomorrow.csv`, which hold some items and purchases more.

python examples/own_data/make_shop.py FOLDER
"""

import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data_fair.demo_store import simulate_store  # noqa: E402

NEW_ITEMS = 10  # the last of the catalogue, that the shop has from tomorrow on


def main(folder: str) -> None:
    sequences, items = simulate_store(num_users=600, num_items=300)
    new = set(items["item_id"][-NEW_ITEMS:])
    rows = [
        (when, user["user_id"], item)
        for user in sequences
        for item, when in zip(user["item_ids"], user["timestamps"], strict=True)
    ]
    rows.sort()
    cut = rows[int(0.97 * len(rows))][0]
    old = [(user, item, when) for when, user, item in rows if when < cut and item not in new]
    late = [(user, item, when) for when, user, item in rows if when >= cut]
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    texts = [(item["item_id"], item["title"], item["text"]) for item in items]
    header, columns = ("item_id", "title", "description"), ("user_id", "item_id", "timestamp")
    _write(out / "items.csv", header, [row for row in texts if row[0] not in new])
    _write(out / "items_tomorrow.csv", header, texts)
    _write(out / "log.csv", columns, old)
    _write(out / "log_tomorrow.csv", columns, old + late)


def _write(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
