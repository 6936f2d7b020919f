"""Queries of a trained checkpoint, and catalogues of any size out of one catalogue's item vectors."""

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

import modeling_fair  # noqa: F401  registers the classes

PART = 65_536


def read_histories(data: str) -> list[list[str]]:
    """Item ids of each user of `sequences.txt`, oldest first."""
    with open(Path(data) / "sequences.txt", encoding="utf-8") as file:
        return [line.split()[1:] for line in file]


def load_checkpoint(folder: str) -> tuple[torch.nn.Module, modeling_fair.FairTokenizer]:
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def noisy_codes(tokenizer: modeling_fair.FairTokenizer, vectors: np.ndarray, count: int, noise: float) -> np.ndarray:
    """A catalogue of `count` items, (count, num_codebooks): the rows of `vectors` (unit length) over and over, each
    with Gaussian noise of expected norm `noise`, brought back to unit length and encoded by the fitted tokenizer."""
    rng = np.random.default_rng(0)
    codes = np.empty((count, tokenizer.num_codebooks), np.uint8)
    for start in tqdm(range(0, count, PART), desc=f"Encoding {count} items"):
        rows = np.arange(start, min(count, start + PART)) % len(vectors)
        part = vectors[rows].astype(np.float32)
        part += rng.standard_normal(part.shape, dtype=np.float32) * np.float32(noise / part.shape[1] ** 0.5)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        codes[start : start + len(rows)] = tokenizer.codebooks.encode(part)
    return codes


@torch.no_grad()
def query_logits(
    model: torch.nn.Module, tokenizer: modeling_fair.FairTokenizer, histories: list[list[str]]
) -> torch.Tensor:
    """Logits of the codes of the item after each history, (histories, num_codebooks, codebook_size)."""
    parts = []
    for start in range(0, len(histories), 64):
        encoded = tokenizer(histories[start : start + 64], return_tensors="pt")
        encoded.pop("item_ids")
        parts.append(model(**encoded, packed=True).logits[:, 0].float())
    return torch.cat(parts)


def sample_queries(
    model: torch.nn.Module, tokenizer: modeling_fair.FairTokenizer, data: str, train: int, test: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits after `train` prefixes of training histories (all but a user's last two items), and after the test
    histories of `test` other users."""
    histories = read_histories(data)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(histories))
    prefixes = [histories[user][: rng.integers(1, len(histories[user]) - 1)] for user in order[test:][:train]]
    held_out = [histories[user][:-1] for user in order[:test]]
    return query_logits(model, tokenizer, prefixes), query_logits(model, tokenizer, held_out)
