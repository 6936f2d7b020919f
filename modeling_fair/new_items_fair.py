# Copyright 2026 The FAIR for Transformers authors. Licensed under the Apache License, Version 2.0.
"""What new items borrow of those that training met."""

from typing import Any

import numpy as np
import torch

from .sparse_fair import COUNTED_ITEMS, largest

LENDERS = 5  # items that each new one borrows of
POWER = 3.0  # of cosines: more of it leaves less to the farther ones
CHUNK_CELLS = 2**24  # cosines held at once


@torch.inference_mode(False)
@torch.no_grad()
def adopt(model: Any, tokenizer: Any) -> int:
    """What [`FairForGenerativeRecommendation.adopt_new_items`] does."""
    config, embeddings = model.config, model.model.embeddings
    # Those that were adopted earlier lend nothing, so that what an item borrows does not hang on when it came.
    trained = config.num_known_items - config.num_adopted_items
    new = np.flatnonzero(tokenizer.known_ids < 0)
    known = np.flatnonzero((tokenizer.known_ids >= 0) & (tokenizer.known_ids < trained))
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
    # All that may fail comes before the first change.
    counts = None if model.prior is None else lent_counts(model.prior.arrays(), lenders, shares)
    residuals = None
    if embeddings.residuals is not None:
        residuals = embeddings.with_known_items(lent_vectors(embeddings.residuals.weight, lenders, shares))
    adopted = config.num_adopted_items + len(new)
    config.num_known_items += len(new)
    if counts is not None:
        try:
            model.set_prior(counts, config.prior_weight, config.prior_repeat, config.prior_level)
        except BaseException:
            config.num_known_items -= len(new)
            raise
    config.num_adopted_items = adopted
    if residuals is not None:
        embeddings.residuals = residuals
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
    size = max(1, CHUNK_CELLS // max(1, len(of_known)))
    for start in range(0, len(vectors), size):
        part = vectors[start : start + size]
        cosines = part @ units.T / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
        nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        likeness = np.maximum(np.take_along_axis(cosines, nearest, axis=1), 0) ** POWER
        rows[start : start + size] = nearest
        shares[start : start + size] = likeness / np.maximum(likeness.sum(axis=1, keepdims=True), 1e-12)
    return rows, shares


def lent_vectors(own: torch.Tensor, lenders: np.ndarray, shares: np.ndarray) -> torch.Tensor:
    """Own vectors of known items (known, dim) -> those of new ones, the means of their lenders', (new, dim)."""
    weights = torch.from_numpy(shares).to(own.device, own.dtype)
    return (weights[..., None] * own[torch.from_numpy(lenders).to(own.device)]).sum(dim=1)


def lent_counts(counts: tuple[np.ndarray, np.ndarray, np.ndarray], lenders: np.ndarray, shares: np.ndarray) -> Any:
    """Counts of known items and new ones.

    A new item stands beside what its lenders stand beside, as they do in the mean. To be found it stands beside each
    lender, too, as that one's closest neighbour does. At most 1,000 counts are lent either way.

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
    columns = largest((lent @ (of_known + closest).T).tocsr(), COUNTED_ITEMS).T
    columns = sparse.hstack([of_known, columns], format="csr")
    rows = (lent @ columns).tocoo()
    rows.data[rows.col == known + rows.row] = 0  # no item stands beside itself
    rows = largest(rows.tocsr(), COUNTED_ITEMS)
    full = sparse.vstack([columns, rows], format="csr").astype(np.float32)
    full.eliminate_zeros()
    return full
