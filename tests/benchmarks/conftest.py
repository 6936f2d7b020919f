"""Fixtures of the benchmarks' tests: a small data set, and a recipe made small."""

import gzip
import json

import numpy as np
import pytest


@pytest.fixture
def small() -> list[str]:
    sizes = "--hidden_size 16 --intermediate_size 16 --num_codebooks 4 --codebook_size 8"
    return [*sizes.split(), "--num_train_epochs", "1", "--use_cpu", "true"]


@pytest.fixture
def data(tmp_path) -> str:
    """60 items and 80 users, with vectors, in the folder and the form of the real data sets."""
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    users = (rng.permutation(60)[: rng.integers(5, 12)] + 1 for _ in range(80))
    lines = [" ".join(map(str, [user, *items])) for user, items in enumerate(users)]
    (folder / "sequences.txt").write_text("\n".join(lines) + "\n")
    with gzip.open(folder / "items.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"id": item, "title": f"thing {item}"}) + "\n" for item in range(1, 61))
    np.save(folder / "minilm_l6.float16.npy", rng.normal(size=(60, 16)).astype(np.float16))
    return str(folder)
