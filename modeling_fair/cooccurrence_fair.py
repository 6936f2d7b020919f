"""Count which items stand near each other in training sequences, and which are alike: what the prior holds."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy import sparse

from .new_items_fair import lenders_of, lent_counts
from .sparse_fair import COUNTED_ITEMS, largest

EXACT_ITEMS = 50_000  # of more, similar ones are looked for among a twentieth
BORROWING_ITEMS = 4096  # items whose borrowed counts are held whole at once
BORROWED_SHARE = np.float32(0.5)  # of the sum of all likenesses, that of all borrowed counts
# What validation chooses from, a step to a neighbour at a time: weights of similar items beside the counts, of the
# prior (models of codes are sure of themselves, so that theirs is large), and what it adds to a history's own items.
SIMILAR_WEIGHTS = (0.0, 2.0, 6.0)
PRIOR_WEIGHTS = (0.5, 1.0, 1.5, 2.0, 3.0, 6.0, 12.0, 24.0, 48.0, 96.0, 192.0)
# In a mixture, where the weight hangs together with the level, the weight stays what Beauty's validation said.
MIXTURE_WEIGHT = 1.5
LEVELS = tuple(
    float(level) for level in range(-8, 5)
)  # relative to a score that the model gives to what it is sure of
PRIOR_USERS = 10_000  # of whom a prior is chosen with, at the most: it takes some thirty evaluations
REPEATS = (-512.0, -128.0, -32.0, -8.0, -2.0, 0.0, 2.0, 8.0, 32.0, 128.0, 512.0)


def cooccurrence(
    train_sequences: Iterable[Sequence[int] | np.ndarray],
    num_items: int,
    *,
    window: int = 8,
    backward: float = 0.1,
    row_power: float = 0.3,
    column_power: float = 0.0,
) -> sparse.csr_array:
    """With `C[a, b]` the sum of 1 / distance over all pairs of an earlier item a and a later item b at most `window`
    positions apart, plus `backward` times the same for the reverse pair, and `D_row`, `D_col` the row and column sums
    of C, the result is `D_row^-row_power C D_col^-column_power`.

    Args:
        train_sequences: items of each user, numbers from 0 to `num_items` - 1, oldest first; items below 0 count for
            nothing.
        num_items: how many items there are.
        window: largest distance in positions at which a pair counts.
        backward: weight of the reverse pair (later -> earlier).
        row_power: how much frequent items of a history are held back, 0 (not) to 1.
        column_power: how much frequent recommendations are held back, 0 (not) to 1.

    Returns:
        (num_items, num_items), float32.

    Raises:
        ValueError: for an item of `num_items` or more.
    """
    sequences = [np.asarray(sequence, np.int64) for sequence in train_sequences]
    items = np.concatenate([np.zeros(0, np.int64), *sequences])
    if items.size and items.max() >= num_items:
        raise ValueError(f"train_sequences hold item {items.max()}: items are 0 to {num_items - 1}.")
    users = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    forward = sparse.csr_array((num_items, num_items))
    for distance in range(1, window + 1):
        earlier, later = items[:-distance], items[distance:]
        near = (users[:-distance] == users[distance:]) & (earlier >= 0) & (later >= 0)
        weights = np.full(int(near.sum()), 1 / distance)
        forward = forward + sparse.coo_array((weights, (earlier[near], later[near])), shape=forward.shape).tocsr()
    counts = forward + backward * forward.T
    row_scale = _inverse_power(counts.sum(axis=1), row_power)
    column_scale = _inverse_power(counts.sum(axis=0), column_power)
    return (sparse.diags_array(row_scale) @ counts @ sparse.diags_array(column_scale)).tocsr().astype(np.float32)


def similar_items(vectors: np.ndarray, count: int = 100, power: float = 3.0) -> sparse.csr_array:
    """For each item the items most like it, by the cosine of their vectors to a power.

    Args:
        vectors: (items, dim) float32, centred; those of 0 are like no other.
        count: similar items kept of each.
        power: more of it leaves less to the farther ones.

    Returns:
        (items, items), float32, entries above 0.
    """
    import faiss

    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    items, dim = units.shape
    large = items > EXACT_ITEMS
    index = faiss.index_factory(dim, f"IVF{round(items**0.5)},Flat" if large else "Flat", faiss.METRIC_INNER_PRODUCT)
    if large:
        faiss.extract_index_ivf(index).nprobe = max(1, round(items**0.5) // 20)
        index.train(units[np.random.default_rng(0).choice(items, EXACT_ITEMS, replace=False)])
    index.add(units)
    cosines, columns = index.search(units, min(count + 1, items))
    rows = np.repeat(np.arange(items), columns.shape[1])
    cosines, columns = cosines.ravel(), columns.ravel()
    kept = (columns >= 0) & (columns != rows) & (cosines > 0)
    values = cosines[kept].astype(np.float32) ** power
    return sparse.coo_array((values, (rows[kept], columns[kept])), shape=(items, items)).tocsr()


def borrowed_counts(
    counts: sparse.csr_array, similar: sparse.csr_array, count: int = 100, lenders: int = 20
) -> sparse.csr_array:
    """For each item the mean of the counts of the items most like it, weighted by likeness: what an item that was
    seldom met may stand beside.

    Args:
        counts: (items, items), what `cooccurrence` gives.
        similar: (items, items), what `similar_items` gives.
        count: largest entries kept of each row.
        lenders: how many of the similar items are asked.

    Returns:
        (items, items), float32; rows of items that nothing is like are empty, and no item is beside itself.
    """
    nearest = largest(similar, lenders)
    shares = (sparse.diags_array(_inverse_power(nearest.sum(axis=1), 1.0)) @ nearest).tocsr().astype(np.float32)
    parts = [sparse.csr_array((0, counts.shape[1]), dtype=np.float32)]
    for start in range(0, shares.shape[0], BORROWING_ITEMS):
        means = (shares[start : start + BORROWING_ITEMS] @ counts).tocoo()
        means.data[means.row + start == means.col] = 0
        parts.append(largest(means.tocsr(), count))
    return sparse.vstack(parts, format="csr")


def add_similar(counts: sparse.csr_array, similar: sparse.csr_array, weight: float) -> sparse.csr_array:
    """Counts, and `weight` times what similar items say, scaled to the counts' own mean."""
    if not weight or not counts.nnz or not similar.nnz:
        return counts
    return (counts + similar * np.float32(weight * counts.data.mean() / similar.data.mean())).tocsr()


def prior_parts(train_dataset: Any, tokenizer: Any) -> tuple[Any, Any]:
    """What a prior is made of.

    Args:
        train_dataset: prepared training sequences, with `item_ids` (catalogue rows).
        tokenizer: a fitted [`FairTokenizer`].

    Returns:
        Co-occurrence counts of the sequences, as they were cut to what a model reads, at most 1,000 an item, and lent
        ones of known items that the sequences lack; and what similar items say: which are like an item by their codes
        and, half as much in sum, which stand beside those. Both sparse, known items by known items. Sequences and
        counts are held in memory.
    """
    sequences = [tokenizer.known_ids_of(np.asarray(rows)) for rows in train_dataset["item_ids"]]
    counts = largest(cooccurrence(sequences, tokenizer.num_known_items), COUNTED_ITEMS)
    there = np.flatnonzero(tokenizer.known_ids >= 0)
    decoded = tokenizer.codebooks.decode(tokenizer.item_codes[there])
    vectors = np.zeros((tokenizer.num_known_items, decoded.shape[1]), np.float32)
    vectors[tokenizer.known_ids[there]] = decoded
    met = np.isin(np.arange(len(vectors)), np.concatenate([np.zeros(0, np.int64), *sequences]))
    counts = with_lent_counts(counts, met, vectors)
    similar = similar_items(vectors)
    borrowed = borrowed_counts(counts, similar)
    if borrowed.nnz:
        similar = (similar + borrowed * (BORROWED_SHARE * similar.sum() / borrowed.sum())).tocsr()
    return counts, similar


def with_lent_counts(counts: sparse.csr_array, met: np.ndarray, vectors: np.ndarray) -> sparse.csr_array:
    """Counts in which items that were never met have what `adopt_new_items` lends: adopted items are such, in a
    training that goes on, as long as its log lacks them.

    Args:
        counts: (items, items), what `cooccurrence` gives.
        met: (items,) bool.
        vectors: of the items, (items, dim) float32.

    Returns:
        (items, items), float32.
    """
    lending, borrowing = np.flatnonzero(met), np.flatnonzero(~met)
    if not len(lending) or not len(borrowing):
        return counts
    of_lending = counts[lending][:, lending]
    arrays = of_lending.data, of_lending.indices, of_lending.indptr
    lent = lent_counts(arrays, *lenders_of(vectors[borrowing], vectors[lending]))
    place = np.argsort(np.concatenate([lending, borrowing]))
    return lent[place][:, place]


def prior_users(validation_dataset: Any) -> Any:
    """The users of a prepared data set that a prior is chosen with: all of a small one, some at random of a large one,
    the same each time."""
    users = len(validation_dataset)
    if users <= PRIOR_USERS:
        return validation_dataset
    return validation_dataset.select(np.sort(np.random.default_rng(0).choice(users, PRIOR_USERS, replace=False)))


@dataclass
class ChosenPrior:
    """What `choose_prior` found.

    Args:
        counts: of the prior that is best.
        similar_weight: that of similar items among them.
        weight: its weight, 0 where none is best.
        repeat: what it adds to the scores of a history's own items.
        level: that of a mixture, `None` for a product.
        validation: metrics with it, of the users that it was chosen with.
        tried: all that was evaluated: `{"similar_weight", "prior_weight", "prior_repeat", "prior_level",
            "validation"}` each.
    """

    counts: Any
    similar_weight: float
    weight: float
    repeat: float
    level: float | None
    validation: dict[str, float]
    tried: list[dict[str, Any]]


def choose_prior(
    counts: Any,
    similar: Any,
    without: dict[str, float],
    validate: Callable[[Any, float, float, float | None], dict[str, float]],
    weight: float = 0.0,
    repeat: float = 0.0,
    levels: Sequence[float] | None = None,
    similar_weight: float | None = None,
) -> ChosenPrior:
    """The prior that is best in validation (of the users that `prior_users` gives), or none where that is better
    still.

    Args:
        counts, similar: what `prior_parts` gives.
        without: validation metrics without a prior.
        validate: those with a prior of some counts, weight, repeat and level.
        weight, repeat: of the prior, where they are not to be chosen: not 0. There is a prior then.
        levels: for a mixture, what to choose its level from, in order; of one alone, there is a prior. `None` for a
            product.
        similar_weight: of similar items, where it is not to be chosen.
    """
    tried: dict[tuple[Any, ...], dict[str, float]] = {}

    def score(setting: tuple[Any, ...]) -> float:
        of_similar, of_prior, of_repeats, level = setting
        if setting not in tried:
            tried[setting] = validate(add_similar(counts, similar, of_similar), of_prior, of_repeats, level)
        return prior_score(tried[setting])

    def neighbours(setting: tuple[Any, ...], *places: int) -> list[tuple[Any, ...]]:
        """The setting and those that are a step or none from it in each of some places."""
        values: list[Sequence[Any]] = [(value,) for value in setting]
        for place in places:
            rung = ladders[place].index(setting[place])
            values[place] = (setting[place], *ladders[place][max(rung - 1, 0) : rung + 2])
        return list(product(*values))

    # Each given the others, in turns; similar items last: beside a model that is sure of itself, a prior of a low
    # weight says little of them, as a small repeat changes nothing: that is looked for on the whole ladder first, and
    # the smallest of equals is taken.
    repeats, weights = (repeat,) if repeat else REPEATS, (weight,) if weight else PRIOR_WEIGHTS
    first, level = weight or 1.0, None
    if levels is not None:
        first, level = weight or MIXTURE_WEIGHT, levels[len(levels) // 2]
        weights = (first,)
    similars = SIMILAR_WEIGHTS if similar_weight is None else (similar_weight,)
    ladders: dict[int, Sequence[Any]] = {2: repeats, 1: weights, 3: levels or (None,), 0: similars}
    best: tuple[Any, ...] = max(((similars[0], first, value, level) for value in sorted(repeats, key=abs)), key=score)
    settled = False
    while not settled:
        before = best
        for place in ladders:
            while (better := max(neighbours(best, place), key=score)) != best:
                best = better
        # Less of similar items and more of the prior, or the other way round, may be better where neither is alone.
        best = max(neighbours(best, 0, 1, 3), key=score)  # 1 or 3 is what there is to choose of the prior
        settled = best == before
    names = ("similar_weight", "prior_weight", "prior_repeat", "prior_level")
    listed = [{**dict(zip(names, key, strict=True)), "validation": tried[key]} for key in tried]
    given = weight or repeat or (levels is not None and len(levels) == 1)
    if not given and prior_score(without) >= prior_score(tried[best]):
        return ChosenPrior(counts, 0.0, 0.0, 0.0, None, without, listed)
    of_similar, of_prior, of_repeats, level = best
    made = add_similar(counts, similar, of_similar)
    return ChosenPrior(made, of_similar, of_prior, of_repeats, level, tried[best], listed)


def prior_score(validation: dict[str, float]) -> float:
    """What priors are compared by: NDCG@10 with seen items kept and removed, which want different weights, summed."""
    return validation["ndcg@10"] + validation["ndcg@10_seen_removed"]


def _inverse_power(sums: np.ndarray, power: float) -> np.ndarray:
    """sums ** -power, and 0 where the sum is 0 (an item without a pair)."""
    return np.where(sums > 0, np.maximum(sums, 1e-12) ** -power, 0.0)
