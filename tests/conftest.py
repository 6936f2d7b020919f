"""Small real parts that many tests share."""

import gzip
import json
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from datasets import Dataset, DatasetDict  # noqa: E402

from modeling_fair import FairConfig, FairForGenerativeRecommendation  # noqa: E402
from tokenization_fair import FairTokenizer  # noqa: E402
from tokenization_fair.preprocessing_fair import prepare_datasets  # noqa: E402

NUM_ITEMS = 40


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data sets."""
    folder = os.environ.get("FAIR_TEST_DATA")
    if not folder:
        pytest.skip("FAIR_TEST_DATA is not set: real data sets are not committed with the project")
    if not Path(folder).is_dir():
        pytest.skip(f"FAIR_TEST_DATA names {folder}, which is not a folder here")
    return Path(folder)


@pytest.fixture(scope="session")
def config() -> FairConfig:
    """Of a small model; tests that change a field make their own of it."""
    return FairConfig(
        num_codebooks=4,
        codebook_size=8,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=2,
        max_position_embeddings=12,
    )


@pytest.fixture(scope="session")
def make_model(config):
    """Models whose parameters are far enough from zero that every part matters."""

    def make(seed: int = 0, **fields) -> FairForGenerativeRecommendation:
        torch.manual_seed(seed)
        model = FairForGenerativeRecommendation(FairConfig(**{**config.to_dict(), **fields}))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
            if model.model.embeddings.residuals is not None:  # that of unknown items stays 0
                model.model.embeddings.residuals.weight[-1] = 0
        return model.eval()

    return make


@pytest.fixture(scope="session")
def items() -> list[dict[str, str]]:
    kinds = ["tent", "stove", "lamp", "rope", "boots"]
    return [
        {
            "item_id": f"p{i}",
            "title": f"{kinds[i % 5]} number {i}",
            "text": f"{kinds[i % 5]} model {i // 5} outdoor {i}",
        }
        for i in range(NUM_ITEMS)
    ]


@pytest.fixture(scope="session")
def embeddings() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(NUM_ITEMS, 16)).astype(np.float32)


@pytest.fixture(scope="session")
def fitted(items, embeddings) -> FairTokenizer:
    """A tokenizer of 40 items with 4 codes of 8; tests that change one fit their own."""
    return FairTokenizer.fit(
        items,
        embeddings=embeddings,
        num_codebooks=4,
        codebook_size=8,
        model_max_length=12,
        item_counts={f"p{i}": i for i in range(NUM_ITEMS)},
    )


@pytest.fixture(scope="session")
def prepared(fitted) -> DatasetDict:
    """Training and validation examples of 16 users of that tokenizer's items."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(3, 11, 16)
    sequences = [[f"p{i}" for i in generator.choice(NUM_ITEMS, length, replace=False)] for length in lengths]
    users = [str(user) for user in range(16)]
    splits = DatasetDict(
        train=Dataset.from_dict({"user_id": users, "item_ids": [s[:-1] for s in sequences]}),
        validation=Dataset.from_dict(
            {"user_id": users, "history": [s[:-1] for s in sequences], "target": [s[-1] for s in sequences]}
        ),
    )
    return prepare_datasets(splits, fitted)


@pytest.fixture
def shop(tmp_path) -> dict[str, str]:
    """A log of 60 users and 40 items as CSV, the items as gzipped JSONL."""
    generator = np.random.default_rng(0)
    with open(tmp_path / "log.csv", "w") as file:
        file.write("customer,sku,when\n")
        for user in range(60):
            for time, item in enumerate(generator.choice(40, generator.integers(3, 9), replace=False)):
                file.write(f"u{user},p{item},{time * 100 + user}\n")
    with gzip.open(tmp_path / "items.jsonl.gz", "wt") as file:
        for item in range(40):
            kind = ("tent", "stove", "lamp", "rope")[item % 4]
            file.write(json.dumps({"item_id": f"p{item}", "title": f"{kind} model {item}", "brand": "Acme"}) + "\n")
    return {"log": str(tmp_path / "log.csv"), "items": str(tmp_path / "items.jsonl.gz"), "out": str(tmp_path / "run")}
