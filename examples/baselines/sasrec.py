"""SASRec: self-attention over item vectors, trained with the full softmax over items."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn


class SASRec(nn.Module):
    """Kang and McAuley, 2018 (arXiv 1808.09781), with cross-entropy over all items in place of one negative, which
    makes it far stronger (arXiv 2309.07602).

    Args:
        num_items: size of the catalogue.
        hidden_size: width of item vectors and states.
        num_layers, num_heads: of the causal, pre-norm Transformer.
        intermediate_size: width of the feed-forward block.
        max_length: newest items of a history that are read.
        embedding_dropout, dropout: of item vectors, and inside the layers.
    """

    def __init__(
        self,
        num_items: int,
        hidden_size: int = 256,
        num_layers: int = 2,
        num_heads: int = 4,
        intermediate_size: int = 512,
        max_length: int = 50,
        embedding_dropout: float = 0.4,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.max_length = max_length
        self.items = nn.Embedding(num_items + 1, hidden_size, padding_idx=num_items)
        self.positions = nn.Embedding(max_length, hidden_size)
        self.dropout = nn.Dropout(embedding_dropout)
        layer = nn.TransformerEncoderLayer(
            hidden_size, num_heads, intermediate_size, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers, nn.LayerNorm(hidden_size), enable_nested_tensor=False)
        nn.init.normal_(self.items.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)
        with torch.no_grad():
            self.items.weight[num_items].zero_()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Catalogue rows (batch, items), padded on the right with num_items -> states (batch, items, hidden_size)."""
        length = rows.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=rows.device).triu(1)
        vectors = self.dropout(self.items(rows) + self.positions.weight[:length])
        return self.layers(vectors, mask=causal, is_causal=True)

    def _padded(self, histories: Sequence[Sequence[int]]) -> torch.Tensor:
        recent = [torch.tensor(list(history[-self.max_length :]), dtype=torch.long) for history in histories]
        return nn.utils.rnn.pad_sequence(recent, batch_first=True, padding_value=self.items.padding_idx)

    def fit(
        self,
        train_sequences: Sequence[Sequence[int]],
        validate: Callable[[SASRec], float],
        *,
        epochs: int = 30,
        patience: int = 5,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        warmup: float = 0.05,
        bf16: bool = False,
        seed: int = 0,
    ) -> SASRec:
        """Train, and keep the weights of the epoch that was best in validation.

        Args:
            train_sequences: catalogue rows a user, oldest first, of at most `max_length` + 1 items.
            validate: metric of the model, larger is better; called after every epoch.
            epochs, patience: at most so many epochs, and so many without a better metric.
            batch_size: sequences a step, those of similar length not put together.
            learning_rate, warmup: peak of the cosine schedule, and share of the steps before it.
            bf16: whether matrix products are in bfloat16.
            seed: of the order of the sequences.

        Returns:
            This model, trained.
        """
        optimizer = torch.optim.AdamW(self.parameters(), learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
        order = np.random.default_rng(seed)
        sequences = [sequence for sequence in train_sequences if len(sequence) > 1]
        steps = epochs * math.ceil(len(sequences) / batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step / steps, warmup))
        best, weights, since = -math.inf, copy.deepcopy(self.state_dict()), 0
        for _ in range(epochs):
            self.train()
            shuffled = order.permutation(len(sequences))
            for start in range(0, len(sequences), batch_size):
                rows = self._padded([sequences[n] for n in shuffled[start : start + batch_size]])
                targets = rows[:, 1:]
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    states = self(rows[:, :-1])[targets != self.items.padding_idx]
                    logits = states @ self.items.weight[:-1].T
                known = targets[targets != self.items.padding_idx]
                loss = nn.functional.cross_entropy(logits.float(), known)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.parameters(), 1.0)
                optimizer.step()
                schedule.step()
            metric = validate(self.eval())
            since += 1
            if metric > best:
                best, weights, since = metric, copy.deepcopy(self.state_dict()), 0
            if since >= patience:
                break
        self.load_state_dict(weights)
        return self.eval()

    @torch.no_grad()
    def scores(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """Score all items for each history that has an item, float32 of shape (users, num_items), larger is better."""
        rows = self._padded(histories)
        lengths = torch.tensor([min(len(history), self.max_length) for history in histories])
        states = self(rows)[torch.arange(len(rows)), lengths - 1]
        return torch.log_softmax(states.float() @ self.items.weight[:-1].T, dim=1).numpy()


def _cosine(progress: float, warmup: float) -> float:
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
