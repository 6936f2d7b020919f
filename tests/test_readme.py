"""Every snippet of the README and docs/ runs as shown: Python blocks in order, in one process, after the demo and its
export; blocks marked long for two steps. `make` targets are run by CI."""

import csv
import gzip
import os
import re
import shlex
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGES = {
    page: (ROOT / page).read_text() for page in ("README.md", "docs/parts.md", "docs/measured.md", "docs/choices.md")
}
SHORT = ["--max_steps", "2"]  # of blocks marked long


def blocks(page: str) -> list[tuple[str, str, str]]:
    """(mark, language, text) of each."""
    found = re.findall(r"^(?:<!-- (\w+) -->\n)?```(\w+)\n(.*?)^```", page, flags=re.M | re.S)
    return [(mark, language, text.replace("\\\n", " ")) for mark, language, text in found]


BLOCKS = {page: blocks(text) for page, text in PAGES.items()}
COMMANDS = [
    (mark, line)
    for page in ("README.md", "docs/parts.md")
    for mark, language, text in BLOCKS[page]
    if language == "bash"
    for line in text.splitlines()
]
LONG = [line for mark, line in COMMANDS if mark == "long"]
AS_SHOWN = [line for mark, line in COMMANDS if mark != "long" and not line.startswith("make ")]


def run(command: list[str], folder: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A working folder as a reader has it: this project's files, a log, the demo's run (shortened) and what commands
    that are not marked long make of it."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("run_training.py", "configs", "examples", "metrics"):
        (folder / name).symlink_to(ROOT / name)
    with open(folder / "log.csv", "w", newline="") as log, open(folder / "items.csv", "w", newline="") as items:
        csv.writer(log).writerows(
            [["user_id", "item_id", "timestamp"]]
            + [[f"u{user}", f"i{(user * 7 + n * 3) % 50}", n] for user in range(30) for n in range(6)]
        )
        csv.writer(items).writerows([["item_id", "title"], *([f"i{n}", f"thing {n} kind {n % 5}"] for n in range(50))])
    run([sys.executable, "examples/demo.py", *SHORT], folder)
    for command in AS_SHOWN:
        run(shlex.split(command), folder)
    return folder


def test_the_demo_leaves_a_checkpoint_and_its_export(folder):
    assert (folder / "runs/demo/model.safetensors").exists()
    assert (folder / "runs/onnx/recommend.onnx").exists()


def test_python_blocks(folder):
    """Those of the Hub are run by test_hub.py."""
    of_all = [block for page in BLOCKS.values() for block in page]
    python = [text for mark, language, text in of_all if language == "python" and mark != "hub"]
    assert len(python) >= 5
    (folder / "readme.py").write_text("\n".join(python))
    run([sys.executable, "readme.py"], folder)


@pytest.mark.parametrize("command", LONG)
def test_long_blocks(folder, command):
    run([*shlex.split(command), *SHORT], folder)


def test_the_run_on_beauty_on_a_slice(folder, real_data):
    """Of its first 300 items."""
    beauty = real_data / "beauty"
    users = []
    for line in (beauty / "sequences.txt").read_text().splitlines():
        user, *items = line.split()
        kept = [item for item in items if int(item) <= 300]
        users += [" ".join([user, *kept])] if len(kept) > 3 else []
    (folder / "sequences.txt").write_text("\n".join(users[:50]) + "\n")
    with gzip.open(beauty / "items.jsonl.gz", "rt") as source, gzip.open(folder / "items.jsonl.gz", "wt") as part:
        part.writelines(islice(source, 300))
    np.save(folder / "minilm_l6.npy", np.load(beauty / "minilm_l6.float16.npy")[:300])
    ((mark, _, command),) = BLOCKS["docs/measured.md"]
    assert mark == "long"
    run([*shlex.split(command), *SHORT], folder)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = [line.split()[1] for _, line in COMMANDS if line.startswith("make ")]
    assert targets and all(f"\n{target}:" in makefile for target in targets)


def test_files_that_are_named_exist():
    text = "\n".join(PAGES.values())
    folders = "benchmarks|configs|data_fair|docs|examples|images|metrics|modeling_fair|tests|tokenization_fair"
    names = set(re.findall(rf"(?<![\w/])(?:\.\./)?((?:{folders})/[\w./-]*)", text))
    assert names
    for name in names:
        assert (ROOT / name).exists(), name
