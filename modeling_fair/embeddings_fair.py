"""Item codes -> item vectors."""

import torch
from torch import nn
from transformers.utils import is_torchdynamo_exporting

from .configuration_fair import FairConfig
from .decoding_fair import CHUNK_ITEMS


class PositionEmbedding(nn.Embedding):
    """What the place in a history adds to an item's vector. A class of its own, since transformers starts modules of
    other packages that hold no parameter themselves (here `FairEmbeddings`) with nothing but their children's."""


class FairEmbeddings(nn.Module):
    """An item's vector is the mean of the embeddings of its codes. Where items are predicted it has length 1: that of

        sqrt(num_codebooks) * mean of the embeddings + the item's own vector

    (the root gives the mean the deviation of one embedding), with an own vector of known items only."""

    def __init__(self, config: FairConfig):
        super().__init__()
        self.num_codebooks = config.num_codebooks
        self.codebook_size = config.codebook_size
        # All codebooks one after the other; the row after the last code is the mask code, shared by all codebooks.
        self.codes = nn.Embedding(config.num_codebooks * config.codebook_size + 1, config.hidden_size)
        self.positions = PositionEmbedding(config.max_position_embeddings, config.hidden_size)
        self.predicts_items = config.prediction == "items"
        self.residuals: nn.Embedding | None = None
        if config.item_residuals:  # the last row, always 0, is that of all unknown items
            known = config.num_known_items
            self.residuals = nn.Embedding(known + 1, config.hidden_size, padding_idx=known)
        self.trained_times = 0  # for those who keep what they computed of these weights

    def train(self, mode: bool = True) -> "FairEmbeddings":
        self.trained_times += mode
        return super().train(mode)

    def item_vectors(self, codes: torch.Tensor, known_ids: torch.Tensor | None = None) -> torch.Tensor:
        """Codes (..., num_codebooks), each from 0 to `codebook_size` (the mask code), and numbers among the known
        items (...), -1 for others -> vectors (..., hidden_size)."""
        vectors = self.sums(codes, known_ids)
        return nn.functional.normalize(vectors, dim=-1) if self.predicts_items else vectors

    @torch.no_grad()
    def lengths(self, codes: torch.Tensor, known_ids: torch.Tensor | None) -> torch.Tensor:
        """What the sums of items (items, num_codebooks) are divided by, (items,), float32; chunk by chunk, from
        wherever codes are."""
        device = self.codes.weight.device
        parts = [slice(start, start + CHUNK_ITEMS) for start in range(0, len(codes), CHUNK_ITEMS)]
        known = (None if known_ids is None else known_ids[part].to(device) for part in parts)
        sums = (self.sums(codes[part].to(device), of_part) for part, of_part in zip(parts, known, strict=True))
        lengths = [torch.linalg.vector_norm(of_chunk.float(), dim=-1).clamp(min=1e-12) for of_chunk in sums]
        return torch.cat([self.codes.weight.new_empty(0, dtype=torch.float32), *lengths])

    def sums(self, codes: torch.Tensor, known_ids: torch.Tensor | None = None) -> torch.Tensor:
        """Item vectors before they are given length 1."""
        if codes.shape[-1] != self.num_codebooks:
            raise ValueError(
                f"Items have {codes.shape[-1]} codes but the model reads {self.num_codebooks}: "
                "use the tokenizer that the checkpoint was trained with."
            )
        codes = codes.long()  # among bytes, 256 is 0: code 0 would be taken for the mask code
        first = torch.arange(self.num_codebooks, device=codes.device) * self.codebook_size
        mask_row = self.num_codebooks * self.codebook_size
        rows = torch.where(codes == self.codebook_size, mask_row, codes + first)
        if is_torchdynamo_exporting():  # embedding_bag becomes a loop over items in ONNX
            vectors = self.codes(rows).mean(dim=-2)
        else:
            vectors = nn.functional.embedding_bag(rows.reshape(-1, self.num_codebooks), self.codes.weight, mode="mean")
            vectors = vectors.view(*codes.shape[:-1], self.codes.weight.shape[1])
        if self.predicts_items:
            vectors = vectors * self.num_codebooks**0.5
        if self.residuals is None or known_ids is None:
            return vectors
        return vectors + self.residuals(torch.where(known_ids < 0, self.residuals.num_embeddings - 1, known_ids))

    def with_known_items(self, own: torch.Tensor) -> nn.Embedding:
        """Own vectors of the known items and of more, (items, hidden_size)."""
        assert self.residuals is not None
        weight = self.residuals.weight
        known = torch.cat([weight.data[:-1], own.to(weight), weight.data[-1:]])
        return nn.Embedding.from_pretrained(known, freeze=not weight.requires_grad, padding_idx=len(known) - 1)

    def codebooks(self) -> torch.Tensor:
        """Embeddings of the codes, (num_codebooks, codebook_size, hidden_size)."""
        return self.codes.weight[:-1].unflatten(0, (self.num_codebooks, self.codebook_size))
