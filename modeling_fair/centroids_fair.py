"""Code embeddings initialised from the centroids of the codebooks, so that items start as similar as their texts."""

from typing import Any

import torch
from torch import nn


@torch.no_grad()
def start_at_centroids(model: Any, tokenizer: Any) -> None:
    """Initialise the code embeddings of a new model from the codes' centroids, each codebook in directions of its own,
    and as large as random ones. What the codes of two items add to their vectors then has the cosine of what they say
    of their texts (about that, where `hidden_size` is below the width of the codebooks side by side). Own vectors of
    known items (`item_residuals`) stay random.

    Args:
        model: a [`FairForGenerativeRecommendation`] before any training; changed in place.
        tokenizer: a fitted [`FairTokenizer`].

    Raises:
        ValueError: for a tokenizer with other codebooks than the model's.
    """
    embeddings, centroids = model.model.embeddings, torch.from_numpy(tokenizer.codebooks.centroids)
    books, size, width = centroids.shape
    if (books, size) != (embeddings.num_codebooks, embeddings.codebook_size):
        raise ValueError(
            f"The tokenizer has {books} codebooks of {size} codes but the model {embeddings.num_codebooks} of "
            f"{embeddings.codebook_size}: make the model for this tokenizer."
        )
    weight = embeddings.codes.weight  # the last row is the mask code's
    directions = nn.init.orthogonal_(weight.new_empty(books * width, weight.shape[1])).view(books, width, -1)
    placed = torch.einsum("mkw,mwd->mkd", centroids.to(weight), directions).flatten(0, 1)
    weight[:-1] = placed * (weight[:-1].square().mean() / placed.square().mean().clamp(min=1e-12)).sqrt()
