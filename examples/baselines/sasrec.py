"""SASRec: self-attention over item vectors, trained with the full softmax over items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from examples.baselines.training import of_similar_length


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

    def _padded(self, histories: Sequence[Sequence[int]], length: int) -> torch.Tensor:
        recent = [torch.tensor(list(history[-length:]), dtype=torch.long) for history in histories]
        return nn.utils.rnn.pad_sequence(recent, batch_first=True, padding_value=self.items.padding_idx)

    def loss_of(self, batch: list[Sequence[int]], random: np.random.Generator) -> torch.Tensor:
        """Cross-entropy of all targets of each sequence of catalogue rows, their mean."""
        losses, supervised = [], 0
        for part in of_similar_length(batch):
            rows = self._padded([batch[number] for number in part], self.max_length + 1)
            targets = rows[:, 1:]
            there = targets != self.items.padding_idx
            logits = self(rows[:, :-1])[there] @ self.items.weight[:-1].T
            losses.append(nn.functional.cross_entropy(logits.float(), targets[there], reduction="sum"))
            supervised += int(there.sum())
        return torch.stack(losses).sum() / supervised

    @torch.no_grad()
    def scores(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """Score all items for each history that has an item, float32 of shape (users, num_items), larger is better."""
        scores = np.empty((len(histories), self.items.num_embeddings - 1), np.float32)
        for part in of_similar_length(histories):
            rows = self._padded([histories[number] for number in part], self.max_length)
            lengths = (rows != self.items.padding_idx).sum(dim=1)
            states = self(rows)[torch.arange(len(rows)), lengths - 1]
            scores[part] = torch.log_softmax(states.float() @ self.items.weight[:-1].T, dim=1).numpy()
        return scores
