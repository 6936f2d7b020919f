"""What a result is kept with."""

import json
import os
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def provenance() -> dict[str, Any]:
    """Commit and versions that a result was made with."""
    packages = ("torch", "transformers", "accelerate", "datasets", "faiss-cpu", "numpy")
    versions: dict[str, str | None] = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # such as faiss from conda
            versions[name] = None
    folder = Path(__file__).resolve().parents[1]
    commit = None
    if (folder / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    return {"commit": commit, "versions": versions}


def write_json(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")
    os.replace(temporary, path)
