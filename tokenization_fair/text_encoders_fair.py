"""Item text -> vectors: any sentence-transformers model, or TF-IDF + SVD where no model can be downloaded."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

TFIDF = "tfidf"  # the name under which `text_encoder` asks for TfidfEncoder
TFIDF_WORDS = {"sublinear_tf": True, "ngram_range": (1, 2), "dtype": np.float32}
MAX_TERMS = 50_000


class TextEncoder(Protocol):
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Texts -> float32 vectors of unit length, (texts, dim)."""
        ...

    def tensors(self) -> dict[str, np.ndarray]:
        """What was fitted, to be saved with the tokenizer."""
        ...


class SentenceEncoder:
    """A sentence-transformers model.

    Args:
        name_or_path: a Hub name or a local folder.

    Raises:
        ImportError: without sentence-transformers.
        OSError: if the model can be found neither locally nor on the Hub.
    """

    def __init__(self, name_or_path: str):
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ImportError(
                "Encoding text needs sentence-transformers: pip install sentence-transformers, or use "
                f"text_encoder={TFIDF!r}."
            ) from error
        try:
            self.model = SentenceTransformer(name_or_path)
        except (OSError, ValueError) as error:
            raise OSError(
                f"The text encoder {name_or_path!r} could not be loaded: give the folder of a sentence-transformers "
                f"model, connect to the Hub, or use text_encoder={TFIDF!r}."
            ) from error

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return self.model.encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
        ).astype(np.float32)

    def tensors(self) -> dict[str, np.ndarray]:
        return {}


class TfidfEncoder:
    """Words and word pairs weighted by TF-IDF, reduced by a truncated SVD. Needs no download.

    Args:
        terms: the vocabulary, in order of columns.
        idf: (terms,).
        components: (dim, terms), of the SVD.
    """

    def __init__(self, terms: Sequence[str], idf: np.ndarray, components: np.ndarray):
        self.terms, self.idf, self.components = list(terms), idf, components
        self._vectorizer: Any = None

    @classmethod
    def fit(cls, texts: Sequence[str], dim: int = 256, seed: int = 0) -> "TfidfEncoder":
        """Fit vocabulary, weights and SVD on the texts of the items seen in training.

        Raises:
            ValueError: if the texts hold no word.
        """
        try:
            from sklearn.decomposition import TruncatedSVD
        except ImportError as error:
            raise ImportError("text_encoder='tfidf' needs scikit-learn: pip install scikit-learn.") from error
        vectorizer = cls._new_vectorizer(max_features=MAX_TERMS)
        try:
            counts = vectorizer.fit_transform(texts)
        except ValueError as error:
            raise ValueError("The item texts hold no word to encode: check which fields make the text.") from error
        dim = max(1, min(dim, min(counts.shape) - 1))
        svd = TruncatedSVD(dim, random_state=seed).fit(counts)
        terms = sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.__getitem__)
        return cls(terms, vectorizer.idf_.astype(np.float32), svd.components_.astype(np.float32))

    @staticmethod
    def _new_vectorizer(**options: Any) -> Any:
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
        except ImportError as error:
            raise ImportError("text_encoder='tfidf' needs scikit-learn: pip install scikit-learn.") from error
        return TfidfVectorizer(**TFIDF_WORDS, **options)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        if self._vectorizer is None:
            self._vectorizer = self._new_vectorizer(vocabulary={term: i for i, term in enumerate(self.terms)})
            self._vectorizer.idf_ = self.idf
        vectors = np.asarray(self._vectorizer.transform(texts) @ self.components.T, dtype=np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def tensors(self) -> dict[str, np.ndarray]:
        terms = np.frombuffer("\n".join(self.terms).encode(), dtype=np.uint8)  # a term holds no white space but " "
        return {"tfidf.terms": terms, "tfidf.idf": self.idf, "tfidf.components": self.components}

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray]) -> "TfidfEncoder":
        terms = tensors["tfidf.terms"].tobytes().decode().split("\n")
        return cls(terms, tensors["tfidf.idf"], tensors["tfidf.components"])
