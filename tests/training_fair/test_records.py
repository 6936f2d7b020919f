import json
import subprocess
from pathlib import Path

import pytest

from training_fair.records import provenance, write_json

ROOT = Path(__file__).parents[2]


def test_the_commit_and_the_versions():
    made_with = provenance()
    if not (ROOT / ".git").exists():
        assert made_with["commit"] is None
    else:
        head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
        assert made_with["commit"] == head.stdout.strip()
    assert {"torch", "transformers"} <= set(made_with["versions"])


def test_what_cannot_be_written_leaves_the_old_record(tmp_path):
    path = tmp_path / "record.json"
    write_json(path, {"folder": tmp_path})
    assert json.loads(path.read_text()) == {"folder": str(tmp_path)}
    circle: list = []
    circle.append(circle)
    with pytest.raises(ValueError, match="[Cc]ircular"):
        write_json(path, circle)
    assert json.loads(path.read_text()) == {"folder": str(tmp_path)}
    assert list(tmp_path.iterdir()) == [path]
