# Copyright 2026 The FAIR for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What new items borrow of those that training met."""

from typing import Any

import numpy as np
import torch

LENDERS = 5  # items that each new one borrows of
POWER = 3.0  # of cosines: more of it leaves less to the farther ones
CHUNK_ITEMS = 1024


def adopt(model: Any, tokenizer: Any) -> int:
    """What [`FairForGenerativeRecommendation.adopt_new_items`] does."""
    config, embeddings = model.config, model.model.embeddings
    new, known = np.flatnonzero(tokenizer.known_ids < 0), np.flatnonzero(tokenizer.known_ids >= 0)
    if (embeddings.residuals is None and model.prior is None) or not len(new) or not len(known):
        return 0
    if config.num_known_items != tokenizer.num_known_items:
        raise ValueError(
            f"The model knows {config.num_known_items} items but this tokenizer {tokenizer.num_known_items}: use the "
            "tokenizer of its checkpoint."
        )
    of_new, of_known = (tokenizer.codebooks.decode(tokenizer.item_codes[rows]) for rows in (new, known))
    rows, shares = lenders_of(of_new, of_known)
    lenders = tokenizer.known_ids[known][rows]
    counts = None if model.prior is None else lent_counts(model.prior.arrays(), lenders, shares)
    config.num_known_items += len(new)
    if counts is not None:
        adopted = config.num_adopted_items + len(new)
        model.set_prior(counts, config.prior_weight, config.prior_repeat, config.prior_level)
        config.num_adopted_items = adopted
    if embeddings.residuals is not None:
        embeddings.add_known_items(lent_vectors(embeddings.residuals.weight, lenders, shares))
    tokenizer.number_new_items()
    return len(new)


def lenders_of(vectors: np.ndarray, of_known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The known items that new ones are most like, by the cosine of their vectors.

    Args:
        vectors: of the new items, (new, dim) float32.
        of_known: of the known ones, (known, dim) float32.

    Returns:
        Rows of `of_known`, (new, lenders), and their shares, cosines to the third power that sum to 1, or to 0 for an
        item that is like none.
    """
    count = min(LENDERS, len(of_known))
    units = of_known / np.maximum(np.linalg.norm(of_known, axis=1, keepdims=True), 1e-12)
    rows, shares = np.zeros((len(vectors), count), np.int64), np.zeros((len(vectors), count), np.float32)
    for start in range(0, len(vectors), CHUNK_ITEMS):
        part = vectors[start : start + CHUNK_ITEMS]
        cosines = part @ units.T / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
        nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        likeness = np.maximum(np.take_along_axis(cosines, nearest, axis=1), 0) ** POWER
        rows[start : start + CHUNK_ITEMS] = nearest
        shares[start : start + CHUNK_ITEMS] = likeness / np.maximum(likeness.sum(axis=1, keepdims=True), 1e-12)
    return rows, shares


def lent_vectors(own: torch.Tensor, lenders: np.ndarray, shares: np.ndarray) -> torch.Tensor:
    """Own vectors of known items (known, dim) -> those of new ones, the means of their lenders', (new, dim)."""
    weights = torch.from_numpy(shares).to(own.device, own.dtype)
    return (weights[..., None] * own[torch.from_numpy(lenders).to(own.device)]).sum(dim=1)


def lent_counts(counts: tuple[np.ndarray, np.ndarray, np.ndarray], lenders: np.ndarray, shares: np.ndarray) -> Any:
    """Counts of known items and new ones.

    A new item stands beside what its lenders stand beside, as they do in the mean, and beside each lender itself as
    that one's closest neighbour does.

    Args:
        counts: those of the known items, (known, known): values, columns and offsets of the rows.
        lenders, shares: numbers of known items, and how much each of them lends, (new, lenders).

    Returns:
        scipy sparse array (known + new, known + new).

    Raises:
        ImportError: without scipy.
    """
    try:
        from scipy import sparse
    except ImportError as error:
        raise ImportError("Lending counts to new items needs scipy: pip install scipy.") from error
    new, known = len(lenders), len(counts[2]) - 1
    of_known = sparse.csr_array(counts, shape=(known, known))
    places = np.repeat(np.arange(new), lenders.shape[1]), lenders.ravel()
    lent = sparse.coo_array((shares.ravel(), places), shape=(new, known)).tocsr()
    closest = sparse.diags_array(of_known.max(axis=1).toarray().ravel())
    columns = sparse.hstack([of_known, (of_known + closest) @ lent.T], format="csr")
    rows = (lent @ columns).tolil()
    rows.setdiag(0, k=known)  # no item stands beside itself
    full = sparse.vstack([columns, rows.tocsr()], format="csr").astype(np.float32)
    full.eliminate_zeros()
    return full
