import logging

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization_fair.codebooks_fair import Codebooks, check_finite, check_shape, fit_codebooks, sample_rows


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    generator = np.random.default_rng(0)
    return (generator.normal(size=(600, 12)) @ generator.normal(size=(12, 24))).astype(np.float32)


@pytest.fixture(scope="module")
def codebooks(vectors) -> Codebooks:
    return fit_codebooks(vectors, num_codebooks=4, codebook_size=16, pca_dim=12, whiten=True, seed=0)


def test_shapes_and_whitening(codebooks, vectors):
    assert codebooks.centroids.shape == (4, 16, 3)
    parts = codebooks.rotate(vectors).reshape(600, 12)
    np.testing.assert_allclose(np.cov(parts.T), np.eye(12), atol=0.02)
    np.testing.assert_allclose(codebooks.rotation @ codebooks.rotation.T, np.eye(12), atol=1e-4)


def test_codes_are_those_of_faiss(codebooks, vectors):
    quantiser = faiss.ProductQuantizer(12, 4, 4)
    faiss.copy_array_to_vector(codebooks.centroids.ravel(), quantiser.centroids)
    parts = np.ascontiguousarray(codebooks.rotate(vectors).reshape(600, 12), dtype=np.float32)
    packed = quantiser.compute_codes(parts)
    codes = np.stack([packed[:, 0] & 15, packed[:, 0] >> 4, packed[:, 1] & 15, packed[:, 1] >> 4], axis=1)
    assert (codes == codebooks.encode(vectors)).mean() > 0.999  # float32 against float64


def test_decoded_codes_are_the_nearest_to_the_rotated_vectors(codebooks, vectors):
    parts = codebooks.rotate(vectors)
    decoded = codebooks.decode(codebooks.encode(vectors))
    assert decoded.shape == (600, 12) and decoded.dtype == np.float32
    away = np.square(decoded.reshape(600, 4, 3) - parts).sum(axis=-1)
    np.testing.assert_allclose(away, codebooks.distances(parts).min(axis=-1), atol=1e-4)


def test_codes_do_not_hang_on_how_many_are_encoded(codebooks, vectors):
    together = codebooks.encode(vectors)
    alone = np.concatenate([codebooks.encode(vectors[i : i + 1]) for i in range(100)])
    assert np.array_equal(together[:100], alone)


def test_quantisation_is_better_than_the_mean(codebooks, vectors):
    error = codebooks.reconstruction_error(vectors, codebooks.encode(vectors))
    assert 0 < error < 0.5


@settings(max_examples=15, deadline=None)
@given(count=st.integers(2, 40), dim=st.integers(1, 9), codebooks=st.integers(1, 6), seed=st.integers(0, 99))
def test_any_small_catalogue_can_be_coded(count, dim, codebooks, seed):
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float16)
    fitted = fit_codebooks(vectors, codebooks, 256, 128, True, seed)
    codes = fitted.encode(vectors)
    assert codes.shape == (count, codebooks) and codes.dtype == np.uint8
    assert fitted.codebook_size <= count and codes.max() < fitted.codebook_size


def test_small_catalogue_shrinks_the_codebooks_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        fitted = fit_codebooks(np.random.default_rng(0).normal(size=(100, 8)), 4, 256, 128, True, 0)
    assert fitted.codebook_size == 64
    assert "100 items" in caplog.text and "64" in caplog.text


def test_vectors_without_full_rank_are_coded():
    generator = np.random.default_rng(0)
    vectors = (generator.normal(size=(500, 5)) @ generator.normal(size=(5, 32)) * 5).astype(np.float32)
    codes = fit_codebooks(vectors, 4, 16, 128, True, 0).encode(vectors)
    assert len(np.unique(codes, axis=0)) > 400
    twins = np.repeat(np.eye(2, 8, dtype=np.float32), 20, axis=0)
    assert len(np.unique(fit_codebooks(twins, 4, 16, 128, True, 0).encode(twins), axis=0)) == 2


def test_same_seed_same_fit(vectors):
    fits = [fit_codebooks(vectors, 4, 16, 12, True, seed=3).fingerprint() for _ in range(2)]
    assert fits[0] == fits[1]


def test_a_fit_reads_a_seeded_sample_of_many_rows(monkeypatch):
    rows = np.arange(10, 110)
    assert sample_rows(rows, 0) is rows
    monkeypatch.setattr("tokenization_fair.codebooks_fair.FIT_SAMPLE", 20)
    drawn = sample_rows(rows, 0)
    assert len(np.intersect1d(drawn, rows)) == 20 and (np.diff(drawn) > 0).all()
    assert np.array_equal(drawn, sample_rows(rows, 0)) and not np.array_equal(drawn, sample_rows(rows, 1))


@pytest.mark.parametrize(
    "bad, named",
    [
        (np.array([[0.0, np.nan], [1.0, 2.0]]), "row 0"),
        (np.array([[0.0, 1.0], [np.inf, 2.0]], dtype=np.float16), "row 1"),
        (np.zeros((2, 2), dtype=np.int64), "int64"),
        (np.zeros((3, 2)), "2 items"),
        (np.zeros(2), "2 items"),
    ],
)
def test_bad_vectors_are_named(bad, named):
    with pytest.raises(ValueError, match=named):
        check_shape(bad, 2)
        check_finite(bad, range(2))


def test_other_bad_arguments_are_named(vectors, codebooks):
    with pytest.raises(ValueError, match="power of two"):
        fit_codebooks(vectors, 4, 100, 12, True, 0)
    with pytest.raises(ValueError, match="at least 2"):
        fit_codebooks(vectors[:1], 4, 16, 12, True, 0)
    with pytest.raises(ValueError, match="23 dimensions"):
        codebooks.encode(vectors[:, :23])
