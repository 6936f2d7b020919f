"""Item vectors -> codes: PCA, then an optimised product quantiser (OPQ). Fitted with faiss, applied with numpy alone.

OPQ: Ge et al., "Optimized Product Quantization", 2013. Following FAIR and RPG, a vector is whitened by PCA, rotated so
that its parts are independent, and cut into `num_codebooks` parts; each part's code is its nearest centroid.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

logger = logging.getLogger(__name__)

FIT_SAMPLE = 200_000  # vectors that a fit reads at most: 780 a centroid, where faiss asks for 39 to 256
ENCODE_CHUNK = 16_384


def check_shape(vectors: np.ndarray, count: int, what: str = "item embeddings") -> None:
    """Check that `vectors` are (count, dim) floats.

    Raises:
        ValueError: naming what is wrong.
    """
    if vectors.ndim != 2 or len(vectors) != count:
        raise ValueError(
            f"The {what} have shape {tuple(vectors.shape)} but there are {count} items: give one row an item."
        )
    if not np.issubdtype(vectors.dtype, np.floating):
        raise ValueError(f"The {what} hold {vectors.dtype}: give float16, float32 or float64.")


def check_finite(vectors: np.ndarray, rows: np.ndarray | range, what: str = "item embeddings") -> None:
    """Check that the vectors of some rows hold neither NaN nor infinity.

    Raises:
        ValueError: naming the first row that does.
    """
    for start in range(0, len(vectors), ENCODE_CHUNK):
        finite = np.isfinite(vectors[start : start + ENCODE_CHUNK]).all(axis=1)
        if not finite.all():
            row = int(rows[start + int(np.argmin(finite))])
            raise ValueError(f"The {what} hold NaN or infinity in row {row} (counted from 0): encode that item again.")


@dataclass
class Codebooks:
    """A fitted quantiser.

    Args:
        mean: (dim,), subtracted first.
        projection: (dim, width), whitening PCA; columns past the rank of small data are 0.
        rotation: (width, width), orthogonal.
        centroids: (num_codebooks, codebook_size, width / num_codebooks).
    """

    mean: np.ndarray
    projection: np.ndarray
    rotation: np.ndarray
    centroids: np.ndarray

    @property
    def num_codebooks(self) -> int:
        return self.centroids.shape[0]

    @property
    def codebook_size(self) -> int:
        return self.centroids.shape[1]

    def tensors(self) -> dict[str, np.ndarray]:
        """What was fitted, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "Codebooks":
        """What `tensors` gave, possibly among others."""
        return cls(**{field.name: tensors[field.name] for field in fields(cls)})

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any number of the fit."""
        digest = hashlib.sha256()
        for tensor in self.tensors().values():
            digest.update(np.ascontiguousarray(tensor).tobytes())
        return digest.hexdigest()[:16]

    def rotate(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (n, dim) -> their parts (n, num_codebooks, width / num_codebooks). In float64, so that codes do not
        hang on how many vectors are encoded at once."""
        if vectors.shape[1] != len(self.mean):
            raise ValueError(
                f"The item embeddings have {vectors.shape[1]} dimensions but the tokenizer was fitted on "
                f"{len(self.mean)}: encode items with the encoder it was fitted with."
            )
        projected = (vectors.astype(np.float64) - self.mean) @ self.projection.astype(np.float64)
        return (projected @ self.rotation.astype(np.float64)).reshape(len(vectors), self.num_codebooks, -1)

    def distances(self, parts: np.ndarray) -> np.ndarray:
        """Squared distance of each part to each centroid, (n, num_codebooks, codebook_size)."""
        centroids = self.centroids.astype(np.float64)
        products = np.einsum("ncd,ckd->nck", parts, centroids, optimize=True)
        return (parts**2).sum(-1, keepdims=True) - 2 * products + (centroids**2).sum(-1)

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (n, dim) -> codes (n, num_codebooks), the nearest centroid of each part."""
        codes: np.ndarray = np.empty((len(vectors), self.num_codebooks), dtype=code_dtype(self.codebook_size))
        # |part - centroid|^2 / 2 without |part|^2, which is the same for all centroids, in one product: [part, 1] with
        # [-centroid, |centroid|^2 / 2]. A codebook at a time, so that the distances of a chunk stay in the cache.
        centroids = self.centroids.astype(np.float64)
        halves = (centroids**2).sum(axis=-1, keepdims=True) / 2
        tables = np.concatenate([-centroids, halves], axis=-1).transpose(0, 2, 1)
        for start in range(0, len(vectors), 1024):
            parts = self.rotate(np.asarray(vectors[start : start + 1024]))
            padded = np.concatenate([parts, np.ones_like(parts[..., :1])], axis=-1)
            for codebook, table in enumerate(tables):
                codes[start : start + 1024, codebook] = (padded[:, codebook] @ table).argmin(axis=-1)
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes (n, num_codebooks) -> their centroids side by side, (n, width) float32: what they say of the vectors,
        whitened and rotated, so that one direction weighs as much as another."""
        parts = [centroids[of_digit] for centroids, of_digit in zip(self.centroids, codes.T, strict=True)]
        return np.concatenate(parts, axis=1)

    def reconstruction_error(self, vectors: np.ndarray, codes: np.ndarray) -> float:
        """Mean squared distance between vectors and their quantised forms, as a share of the vectors' variance in the
        quantiser's space: 0 is exact, 1 as good as the mean of all vectors."""
        sample = np.linspace(0, len(vectors) - 1, min(len(vectors), ENCODE_CHUNK)).astype(int)  # bounds memory
        vectors, codes = np.asarray(vectors[sample]), codes[sample]
        parts = self.rotate(vectors)
        quantised = self.centroids[np.arange(self.num_codebooks), codes].astype(np.float64)
        variance = ((parts - parts.mean(axis=0)) ** 2).sum()
        return float(((parts - quantised) ** 2).sum() / variance) if variance > 0 else 0.0


def code_dtype(codebook_size: int) -> type:
    return np.uint8 if codebook_size <= 256 else np.uint16


def sample_rows(rows: np.ndarray, seed: int) -> np.ndarray:
    """The rows, in ascending order, that a fit reads of `rows`: all, or a seeded sample of 200,000."""
    if len(rows) <= FIT_SAMPLE:
        return rows
    return rows[np.sort(np.random.default_rng(seed).choice(len(rows), FIT_SAMPLE, replace=False))]


def check_fit(count: int, codebook_size: int, pca_dim: int) -> None:
    """Check what can be checked before any vector is there.

    Raises:
        ValueError: for fewer than 2 vectors, a codebook size that is no power of two, or no dimension.
    """
    if codebook_size < 2 or codebook_size & (codebook_size - 1):
        raise ValueError(f"codebook_size is {codebook_size}: give a power of two, such as 256.")
    if pca_dim < 1:
        raise ValueError(f"pca_dim is {pca_dim}: give it at least 1.")
    if count < 2:
        raise ValueError(f"A tokenizer cannot be fitted on {count} item: give it at least 2.")


def fit_codebooks(
    vectors: np.ndarray, num_codebooks: int, codebook_size: int, pca_dim: int, whiten: bool, seed: int
) -> Codebooks:
    """Fit PCA and OPQ with faiss.

    Args:
        vectors: of the items seen in training, (n, dim), or of a sample of them (`sample_rows`).
        num_codebooks: codes an item.
        codebook_size: centroids a codebook, a power of two; made smaller, with a warning, than or equal to n.
        pca_dim: dimensions kept, rounded down to a multiple of `num_codebooks`.
        whiten: whether PCA scales its dimensions to equal variance.
        seed: of k-means.

    Raises:
        ValueError: for fewer than 2 vectors, or a codebook size that is no power of two.
        ImportError: without faiss.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError("Fitting a tokenizer needs faiss: pip install faiss-cpu.") from error
    check_fit(len(vectors), codebook_size, pca_dim)
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    check_finite(vectors, range(len(vectors)))
    count, dim = vectors.shape
    if codebook_size > count:
        shrunk = 1 << (count.bit_length() - 1)
        logger.warning(
            "%d items cannot fill codebooks of %d codes: the codebooks get %d.", count, codebook_size, shrunk
        )
        codebook_size = shrunk

    most = min(pca_dim, dim, count - 1)
    pca = faiss.PCAMatrix(dim, most)
    pca.train(vectors)
    variances = faiss.vector_to_array(pca.eigenvalues)[:most] / count
    rank = max(1, int((variances > 1e-6 * variances.max()).sum()))  # directions without variance hold only rounding
    kept = rank // num_codebooks * num_codebooks or rank
    width = -(-kept // num_codebooks) * num_codebooks  # where data are too small for one dimension a codebook
    projection = np.zeros((dim, width), dtype=np.float32)
    projection[:, :kept] = faiss.vector_to_array(pca.A).reshape(-1, dim)[:kept].T
    if whiten and variances.max() > 0:
        projection[:, :kept] /= np.sqrt(variances[:kept])
    mean = faiss.vector_to_array(pca.mean).astype(np.float32)
    projected = np.ascontiguousarray((vectors - mean) @ projection)

    def new_quantiser() -> "faiss.ProductQuantizer":
        quantiser = faiss.ProductQuantizer(width, num_codebooks, codebook_size.bit_length() - 1)
        quantiser.cp.seed = seed
        quantiser.cp.min_points_per_centroid = 1  # small catalogues are no reason to warn
        return quantiser

    rotation = np.eye(width, dtype=np.float32)
    if count >= width:  # OPQMatrix corrupts memory on fewer vectors than dimensions (faiss 1.15.1)
        opq = faiss.OPQMatrix(width, num_codebooks)
        opq.pq = opq_quantiser = new_quantiser()  # named, so that it lives as long as opq
        opq.train(projected)
        rotation = faiss.vector_to_array(opq.A).reshape(width, width).T.astype(np.float32)
        del opq, opq_quantiser
    quantiser = new_quantiser()
    quantiser.train(np.ascontiguousarray(projected @ rotation))
    centroids = faiss.vector_to_array(quantiser.centroids).reshape(num_codebooks, codebook_size, -1)
    return Codebooks(mean, projection, np.ascontiguousarray(rotation), centroids.astype(np.float32))
