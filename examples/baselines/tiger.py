"""TIGER: a T5 that spells out the residual codes of the next item, one after the other."""

from __future__ import annotations

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
        # The tree of codes: nodes of a level are the different first codes of items, in lexical order, so that the
        # children of a node stand side by side in the next level.
        self.first_child, self.token_of = [], []
        parent_of = np.zeros(items, np.int64)
        for digit in range(digits):
            _, first, node_of = np.unique(item_codes[:, : digit + 1], axis=0, return_index=True, return_inverse=True)
            parents = parent_of[first]  # of the nodes, in order
            self.first_child.append(torch.from_numpy(np.searchsorted(parents, np.arange(parents[-1] + 2))))
            self.token_of.append(self.tokens[torch.from_numpy(first), digit])
            parent_of = node_of
        self.row_of = torch.from_numpy(first)  # of the leaves
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
        rows = np.full((len(histories), self.beams), -1)
        scores = np.full((len(histories), self.beams), -np.inf, np.float32)
        for part in of_similar_length(histories):
            found, of_found = self._search([histories[number] for number in part])
            rows[part, : found.shape[1]], scores[part, : found.shape[1]] = found, of_found
        return rows, scores

    def _search(self, histories: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """A level of the tree a step. All beams of a user stand in one sequence, each blind to the others, so that
        they share what the encoder says of the history."""
        inputs = self._inputs(histories)
        encoded = self.t5.get_encoder()(**inputs)
        users = torch.arange(len(histories))[:, None]
        tokens = torch.zeros(len(histories), 1, 1, dtype=torch.long)  # (users, beams, digits so far)
        nodes, scores = torch.zeros(len(histories), 1, dtype=torch.long), torch.zeros(len(histories), 1)
        for first_child, token_of in zip(self.first_child, self.token_of, strict=True):
            beams, length = tokens.shape[1:]
            block = torch.ones(length, length, dtype=torch.bool).tril()
            sees = torch.block_diag(*[block] * beams)
            logits = self.t5(
                encoder_outputs=encoded,
                attention_mask=inputs["attention_mask"],
                decoder_input_ids=tokens.flatten(1),
                decoder_attention_mask=torch.where(sees, 0.0, torch.finfo(torch.float32).min)[None, None],
                use_cache=False,
            ).logits[:, length - 1 :: length]
            first, last = first_child[nodes], first_child[nodes + 1]
            below = first[..., None] + torch.arange(int((last - first).max()))
            there = below < last[..., None]
            below = below.where(there, 0)
            of_child = scores[..., None] + torch.log_softmax(logits.float(), dim=-1).gather(-1, token_of[below])
            of_child = of_child.masked_fill(~there, -torch.inf).flatten(1)
            scores, taken = of_child.topk(min(self.beams, of_child.shape[1]), dim=1)
            nodes = below.flatten(1).gather(1, taken)
            tokens = torch.cat([tokens[users, taken // below.shape[2]], token_of[nodes][..., None]], dim=2)
        return self.row_of[nodes].where(scores.isfinite(), -1), scores

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
