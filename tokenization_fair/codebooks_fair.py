"""Item vectors -> codes: PCA, then an optimised product quantiser (OPQ). Fitted with faiss, applied with numpy alone.

OPQ: Ge et al., "Optimized Product Quantization", 2013. Following FAIR and RPG, a vector is whitened by PCA, rotated so
that its parts are independent, and cut into `num_codebooks` parts; each part's code is its nearest centroid.
"""

import hashlib
import logging
from dataclasses import dataclass, fields

import numpy as np

logger = logging.getLogger(__name__)

FIT_SAMPLE = 200_000  # vectors that a fit reads at most: 780 a centroid, where faiss asks for 39 to 256
ENCODE_CHUNK = 16_384


def check_vectors(vectors: np.ndarray, count: int, what: str = "item embeddings") -> np.ndarray:
    """Check that `vectors` are (count, dim) finite floats.

    Raises:
        ValueError: naming what is wrong and, for values that are not finite, the first row that holds one.
    """
    if vectors.ndim != 2 or len(vectors) != count:
        raise ValueError(
            f"The {what} have shape {tuple(vectors.shape)} but there are {count} items: give one row an item."
        )
    if not np.issubdtype(vectors.dtype, np.floating):
        raise ValueError(f"The {what} hold {vectors.dtype}: give float16, float32 or float64.")
    for start in range(0, count, ENCODE_CHUNK):
        finite = np.isfinite(vectors[start : start + ENCODE_CHUNK]).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise ValueError(f"The {what} hold NaN or infinity in row {row} (counted from 0): encode that item again.")
    return vectors


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

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any number of the fit."""
        digest = hashlib.sha256()
        for field in fields(self):
            digest.update(np.ascontiguousarray(getattr(self, field.name)).tobytes())
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
        for start in range(0, len(vectors), 1024):
            parts = self.rotate(np.asarray(vectors[start : start + 1024]))
            codes[start : start + 1024] = self.distances(parts).argmin(axis=-1)
        return codes

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


def fit_codebooks(
    vectors: np.ndarray, num_codebooks: int, codebook_size: int, pca_dim: int, whiten: bool, seed: int
) -> Codebooks:
    """Fit PCA and OPQ with faiss.

    Args:
        vectors: of the items seen in training, (n, dim); a seeded sample of 200,000 is used of more.
        num_codebooks: codes an item.
        codebook_size: centroids a codebook, a power of two; made smaller, with a warning, than or equal to n.
        pca_dim: dimensions kept, rounded down to a multiple of `num_codebooks`.
        whiten: whether PCA scales its dimensions to equal variance.
        seed: of the sample and of k-means.

    Raises:
        ValueError: for fewer than 2 vectors, or a codebook size that is no power of two.
        ImportError: without faiss.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError("Fitting a tokenizer needs faiss: pip install faiss-cpu.") from error
    if codebook_size < 2 or codebook_size & (codebook_size - 1):
        raise ValueError(f"codebook_size is {codebook_size}: give a power of two, such as 256.")
    if pca_dim < 1:
        raise ValueError(f"pca_dim is {pca_dim}: give it at least 1.")
    if len(vectors) < 2:
        raise ValueError(f"A tokenizer cannot be fitted on {len(vectors)} item: give it at least 2.")
    if len(vectors) > FIT_SAMPLE:
        rows = np.random.default_rng(seed).choice(len(vectors), FIT_SAMPLE, replace=False)
        vectors = vectors[np.sort(rows)]
    vectors = check_vectors(np.ascontiguousarray(vectors, dtype=np.float32), len(vectors))
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
