"""TIGER: a T5 that spells out the residual codes of the next item, one after the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import faiss
import numpy as np
import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from examples.baselines.training import of_similar_length

CODES = 256  # of a digit


def residual_codes(vectors: np.ndarray, fit_rows: np.ndarray, digits: int = 3) -> np.ndarray:
    """Text vectors (items, dim) -> codes (items, digits + 1), uint8: those of a residual quantiser fitted on
    `fit_rows`, and a last digit that tells items of equal codes apart.

    Raises:
        ValueError: where more than 256 items have equal codes.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    bits = min(8, int(np.log2(len(fit_rows))))  # few items cannot fill 256 clusters
    quantiser = faiss.ResidualQuantizer(vectors.shape[1], digits, bits)
    quantiser.max_beam_size = 1
    quantiser.train(vectors[fit_rows])
    codes = faiss.unpack_bitstrings(quantiser.compute_codes(vectors), digits, bits).astype(np.uint8)
    _, groups = np.unique(codes, axis=0, return_inverse=True)
    order = np.argsort(groups, kind="stable")
    of_group = np.diff(np.flatnonzero(np.r_[True, np.diff(groups[order]) > 0, True]))
    if of_group.max() > CODES:
        raise ValueError(f"{of_group.max()} items have equal codes: fit more digits.")
    last = np.empty(len(codes), np.uint8)
    last[order] = np.concatenate([np.arange(size) for size in of_group])
    return np.column_stack([codes, last])


class TIGER(nn.Module):
    """Rajput et al., 2023 (arXiv 2305.05065): encoder and decoder of 4 layers over the codes of the last items, beam
    search among the catalogue's items alone. Without its token of the user, and with k-means residuals (faiss) in
    place of an RQ-VAE's.

    Args:
        item_codes: of each item of the catalogue, no two alike, (items, digits), as `residual_codes` makes them.
        hidden_size, num_layers, num_heads, intermediate_size: of encoder and decoder; heads are 64 wide.
        max_length: newest items of a history that are read.
        dropout: inside the layers.
        beams: items found for a user.
    """

    def __init__(
        self,
        item_codes: np.ndarray,
        hidden_size: int = 128,
        num_layers: int = 4,
        num_heads: int = 6,
        intermediate_size: int = 1024,
        max_length: int = 20,
        dropout: float = 0.1,
        beams: int = 50,
    ) -> None:
        super().__init__()
        items, digits = item_codes.shape
        self.max_length, self.digits, self.beams = max_length, digits, min(beams, items)
        # Token 0 pads and starts; each digit has tokens of its own behind it.
        self.tokens = 1 + torch.from_numpy(item_codes.astype(np.int64)) + CODES * torch.arange(digits)
        self.rows = {tuple(tokens): row for row, tokens in enumerate(self.tokens.tolist())}
        following = defaultdict(set)
        for tokens in self.rows:
            for digit, token in enumerate(tokens):
                following[tokens[:digit]].add(token)
        self.following = {prefix: sorted(tokens) for prefix, tokens in following.items()}
        self.t5 = T5ForConditionalGeneration(
            T5Config(
                vocab_size=1 + CODES * digits,
                d_model=hidden_size,
                d_kv=64,
                d_ff=intermediate_size,
                num_layers=num_layers,
                num_heads=num_heads,
                dropout_rate=dropout,
                pad_token_id=0,
                eos_token_id=None,
                decoder_start_token_id=0,
            )
        )

    def _inputs(self, histories: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        recent = [self.tokens[list(history[-self.max_length :])].flatten() for history in histories]
        tokens = nn.utils.rnn.pad_sequence(recent, batch_first=True)
        return {"input_ids": tokens, "attention_mask": (tokens > 0).long()}

    def loss_of(self, batch: list[Sequence[int]], random: np.random.Generator) -> torch.Tensor:
        """Cross-entropy of the codes of one random target of each sequence of catalogue rows."""
        places = [int(random.integers(1, len(sequence))) for sequence in batch]
        histories = [sequence[:place] for sequence, place in zip(batch, places, strict=True)]
        targets = self.tokens[[sequence[place] for sequence, place in zip(batch, places, strict=True)]]
        loss = torch.zeros(())
        for part in of_similar_length(histories):
            output = self.t5(**self._inputs([histories[number] for number in part]), labels=targets[part])
            loss = loss + output.loss * len(part) / len(batch)
        return loss

    @torch.no_grad()
    def best(self, histories: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """The items that beam search finds for each history that has an item: (catalogue rows, log-probabilities),
        (users, beams) each, best first; rows are -1 where it found fewer."""
        found = self.t5.generate(
            **self._inputs(histories),
            max_new_tokens=self.digits,
            num_beams=self.beams,
            num_return_sequences=self.beams,
            length_penalty=0.0,  # the sum of log-probabilities as it is
            prefix_allowed_tokens_fn=lambda _, tokens: self.following[tuple(tokens[1:].tolist())],
            return_dict_in_generate=True,
            output_scores=True,
        )
        scores = found.sequences_scores.view(len(histories), self.beams).numpy()
        rows = [self.rows.get(tuple(tokens), -1) for tokens in found.sequences[:, 1:].tolist()]
        return np.where(np.isfinite(scores), np.array(rows).reshape(scores.shape), -1), scores

    def scores(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """Score all items for each history that has an item, float32 of shape (users, num_items), larger is better;
        items that beam search does not find come 1 after the last one that it finds."""
        return dense(*self.best(histories), len(self.tokens))


def dense(rows: np.ndarray, scores: np.ndarray, num_items: int) -> np.ndarray:
    """Found items and their scores, as of [`TIGER.best`] -> scores of all items."""
    kept = np.where(rows >= 0, scores, np.inf)
    of_items = np.repeat(kept.min(axis=1)[:, None] - 1, num_items + 1, axis=1).astype(np.float32)
    np.put_along_axis(of_items, rows, np.where(rows >= 0, scores, 0).astype(np.float32), axis=1)
    return of_items[:, :-1]
