"""The guide for one's own data runs as shown, its trainings for two steps."""

import shlex
import sys
from pathlib import Path

from modeling_fair import FairTokenizer
from tests.test_readme import SHORT, blocks, run

ROOT = Path(__file__).parents[2]
BLOCKS = blocks((ROOT / "examples/own_data/README.md").read_text())


def test_the_guide(tmp_path):
    for name in ("run_training.py", "configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    commands = [text for _, language, text in BLOCKS if language == "bash"]
    python = "\n".join(text for _, language, text in BLOCKS if language == "python")
    assert [mark for mark, language, _ in BLOCKS if language == "bash"] == ["", *["long"] * 3]
    assert "add_items" in python and "remove_items" in python
    make, train, go_on, deploy = map(shlex.split, commands)
    run(make, tmp_path)
    run([*train, *SHORT], tmp_path)
    (tmp_path / "guide.py").write_text(
        f"{python}\nanswer = recommender({{'history': ['p0139']}}, allow=['p9000', 'p0012'])\n"
        "assert {entry['item_id'] for entry in answer} == {'p9000', 'p0012'}\n"
    )
    run([sys.executable, "guide.py"], tmp_path)
    monday = FairTokenizer.from_pretrained(tmp_path / "shop/monday")
    assert monday.catalogue.rows_of(["p9000", "p0004"]).tolist()[1] == -1
    run([*go_on, *SHORT], tmp_path)
    tuesday = FairTokenizer.from_pretrained(tmp_path / "shop/tuesday")
    assert len(tuesday.item_codes) == 301 and (tuesday.known_ids >= 0).all(), "all were adopted"
    assert tuesday.num_known_items == monday.num_known_items + 11
    shared = [item for item in monday.catalogue.item_ids if tuesday.catalogue.row(item) >= 0]
    old = monday.item_codes[monday.catalogue.rows_of(shared)]
    # An item that was taken out is a new one when it comes back.
    numbers = tuesday.known_ids[tuesday.catalogue.rows_of(["p0003", "p0004"])]
    assert numbers[0] < monday.num_known_items <= numbers[1]
    run([*deploy, *SHORT], tmp_path)
    deployed = FairTokenizer.from_pretrained(tmp_path / "shop/deployed")
    interactions = len((tmp_path / "shop/log_tomorrow.csv").read_text().splitlines()) - 1
    assert deployed.item_counts.sum() == interactions > tuesday.item_counts.sum() > monday.item_counts.sum()
    assert len(shared) == 290 and (tuesday.item_codes[tuesday.catalogue.rows_of(shared)] == old).all()
