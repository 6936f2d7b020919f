"""Lists of similar items, and which of them hold a user's best: what the approximate backend of the index visits.

Queries are tables of log-probabilities and an item's score is the sum of its codes' entries, so both are points of one
space in which the score is their product. Its main directions are those of sample queries (singular value
decomposition), scaled so that the distance of two items is the mean difference of their scores over the sample: there
items are put in lists by k-means. A list's rank for a user is the mean of its items' scores plus twice their
deviation, both along the query, which comes closer to its best items than the mean alone.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .decoding_fair import CHUNK_ITEMS, score_table, sum_rows, table_rows

INDEX_FILE = "item_index.safetensors"
DIMENSIONS = 64
DEVIATIONS = 2.0
ITEMS_PER_LIST = 40  # that k-means reads
MOST_LISTS = 4096


@dataclass
class Partition:
    """A catalogue in lists.

    Args:
        directions: (num_codebooks * codebook_size, dimensions): the sum of its codes' rows is an item's point.
        scales: (dimensions,), by which products of queries with `directions` are divided.
        means, variances: of the points of each list, (lists, dimensions).
        assignments: the list of each item, (catalogue,), uint16.
    """

    directions: np.ndarray
    scales: np.ndarray
    means: np.ndarray
    variances: np.ndarray
    assignments: np.ndarray

    def __post_init__(self) -> None:
        self._group()

    @property
    def nbytes(self) -> int:
        return self.members.nbytes + sum(getattr(self, field.name).nbytes for field in fields(self))

    def add(self, item_codes: torch.Tensor) -> None:
        """Put new items (new items, num_codebooks) in the lists whose means are nearest."""
        means = torch.from_numpy(self.means)
        new = [nearest(points, means).numpy() for points in points_of(item_codes, self.directions)]
        self.assignments = np.concatenate([self.assignments, *new]).astype(np.uint16)
        self._group()

    def remove(self, kept: np.ndarray) -> None:
        """Keep the items of the mask `kept` (catalogue,)."""
        self.assignments = self.assignments[kept]
        self._group()

    def visit(self, table: np.ndarray, share: float) -> np.ndarray:
        """Rows of the items to score for a query, its table of log-probabilities (entries,): whole lists, the most
        promising first, while they hold at most `share` of the catalogue, one list at the least."""
        # In torch: NumPy's products have threads of their own, which keep its from running for milliseconds.
        directions, scales, means, variances = (
            torch.from_numpy(part) for part in (self.directions, self.scales, self.means, self.variances)
        )
        query = directions.T @ torch.from_numpy(table) / scales
        promise = (means @ query + DEVIATIONS * (variances @ query.square()).sqrt()).numpy()
        sizes = np.diff(self.bounds)
        order = np.argsort(-promise)
        order = order[sizes[order] > 0]
        visited = order[: max(1, int(np.searchsorted(sizes[order].cumsum(), share * len(self.members), side="right")))]
        return np.concatenate([self.members[self.bounds[i] : self.bounds[i + 1]] for i in visited])

    def save(self, folder: str | os.PathLike, item_codes: np.ndarray) -> None:
        """Write `item_index.safetensors`, whole or not at all."""
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, INDEX_FILE)
        tensors = {field.name: np.ascontiguousarray(getattr(self, field.name)) for field in fields(self)}
        save_file(tensors, path + ".tmp", metadata={"item_codes": fingerprint(item_codes)})
        os.replace(path + ".tmp", path)

    @classmethod
    def load(cls, folder: str | os.PathLike, item_codes: np.ndarray) -> "Partition":
        """
        Raises:
            ValueError: for a broken file, and one that was saved with other items than `item_codes`.
        """
        path = os.path.join(folder, INDEX_FILE)
        try:
            with safe_open(path, framework="np") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                saved_with = (file.metadata() or {}).get("item_codes")
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file: fetch it again or fit a partition.") from error
        if saved_with != fingerprint(item_codes):
            raise ValueError(f"{path} was saved with another catalogue than item_codes: fit a partition again.")
        if set(tensors) != {field.name for field in fields(cls)}:
            raise ValueError(f"{path} lacks parts of a partition: fetch it again or fit a partition.")
        return cls(**tensors)

    def _group(self) -> None:
        """Rows list by list, which begin at `bounds`."""
        self.members = np.argsort(self.assignments, kind="stable").astype(np.int32)
        self.bounds = np.concatenate([[0], np.bincount(self.assignments, minlength=len(self.means)).cumsum()])


def fit_partition(
    item_codes: np.ndarray | torch.Tensor, query_logits: torch.Tensor, n_lists: int | None = None, seed: int = 0
) -> Partition:
    """Put a catalogue in lists for the approximate backend of [`ItemIndex`].

    Args:
        item_codes: (catalogue, num_codebooks): `tokenizer.item_codes`.
        query_logits: the model's logits for a sample of users, (queries, num_codebooks, codebook_size); a few
            thousand, of training histories.
        n_lists: default 8 times the root of the catalogue's size, 4,096 at the most.
        seed: of k-means and the decomposition.

    Raises:
        ValueError: for an empty catalogue, no queries, queries of other codebooks or not numbers, or `n_lists` outside
            1 to the smaller of 65,536 and the catalogue's size.
        ImportError: without faiss.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError("Fitting a partition needs faiss: pip install faiss-cpu.") from error
    codes, query_logits = torch.as_tensor(item_codes).cpu(), query_logits.detach().float().cpu()
    if not len(codes) or not len(query_logits):
        raise ValueError(f"A partition needs items and queries: there are {len(codes)} and {len(query_logits)}.")
    if codes.shape[1] != query_logits.shape[1] or int(codes.max()) >= query_logits.shape[2]:
        raise ValueError(
            f"item_codes has {codes.shape[1]} codes of up to {int(codes.max())} an item but query_logits are of "
            f"{query_logits.shape[1]} codebooks of {query_logits.shape[2]}: give both of one tokenizer."
        )
    if not bool(query_logits.isfinite().all()):
        raise ValueError("query_logits holds NaN or infinity: the model's weights are broken, load them again.")
    if n_lists is None:
        n_lists = min(int(8 * len(codes) ** 0.5), MOST_LISTS, len(codes))
    if not 1 <= n_lists <= min(len(codes), 65_536):
        raise ValueError(f"n_lists is {n_lists}: give 1 to {min(len(codes), 65_536)}.")
    directions, scales = main_directions(query_logits, seed)

    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(len(codes), min(len(codes), ITEMS_PER_LIST * n_lists), replace=False))
    points = torch.cat(list(points_of(codes[sample], directions))).numpy()
    clustering = faiss.Kmeans(points.shape[1], n_lists, niter=10, seed=seed, min_points_per_centroid=1)
    clustering.train(points)
    centroids = torch.from_numpy(np.array(clustering.centroids, np.float32).reshape(n_lists, -1))

    assignments = []
    sums, squares = torch.zeros_like(centroids), torch.zeros_like(centroids)
    for of_chunk in points_of(codes, directions):
        assignments.append(nearest(of_chunk, centroids))
        sums.index_add_(0, assignments[-1], of_chunk)
        squares.index_add_(0, assignments[-1], of_chunk**2)
    assigned = torch.cat(assignments)
    counts = torch.bincount(assigned, minlength=n_lists)[:, None]
    means = torch.where(counts > 0, sums / counts.clamp(min=1), centroids)
    variances = (squares / counts.clamp(min=1) - means**2).clamp(min=0).masked_fill(counts == 0, 0)
    return Partition(directions, scales, means.numpy(), variances.numpy(), assigned.numpy().astype(np.uint16))


def main_directions(query_logits: torch.Tensor, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`directions` and `scales` of [`Partition`]."""
    queries = torch.cat([score_table(of_users).T for of_users in query_logits.split(256)])
    # What a query adds to all codes of a codebook it adds to all items, which changes no ranking.
    queries = queries.view(query_logits.shape)
    queries = (queries - queries.mean(dim=-1, keepdim=True)).flatten(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, singular, vectors = torch.svd_lowrank(queries, q=min(DIMENSIONS + 32, *queries.shape), niter=3)
    kept = min(DIMENSIONS, max(1, int((singular > 1e-4 * singular[0]).sum())))
    deviations = (singular[:kept] / len(queries) ** 0.5).clamp(min=1e-12)
    return (vectors[:, :kept] * deviations).contiguous().numpy(), (deviations**2).numpy()


def points_of(item_codes: torch.Tensor, directions: np.ndarray) -> Iterator[torch.Tensor]:
    """Points of the items, chunk by chunk."""
    table = torch.from_numpy(directions)
    for codes in item_codes.split(CHUNK_ITEMS):
        yield sum_rows(table, table_rows(codes, len(table) // codes.shape[1]))


def nearest(points: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """The nearest of `centroids` to each point, (points,)."""
    half_norms = (centroids**2).sum(dim=1) / 2
    return torch.cat([(part @ centroids.T - half_norms).argmax(dim=1) for part in points.split(1024)])


def fingerprint(item_codes: np.ndarray) -> str:
    """16 hexadecimal digits that change with any code."""
    return hashlib.sha256(np.ascontiguousarray(item_codes).tobytes()).hexdigest()[:16]


__all__ = ["Partition", "fit_partition"]
