"""Items are as like each other as what their codes say of their texts, before anything is learned."""

import numpy as np
import pytest
import torch

from modeling_fair import FairConfig, FairForGenerativeRecommendation
from modeling_fair.centroids_fair import start_at_centroids

SIZES = {"num_codebooks": 4, "codebook_size": 8, "intermediate_size": 16, "num_attention_heads": 2}


def cosines(vectors: np.ndarray) -> np.ndarray:
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units @ units.T


@pytest.mark.parametrize("prediction", ["codes", "items"])
def test_items_are_as_like_as_their_texts(fitted, prediction):
    wide = fitted.codebooks.centroids.shape[2] * 4 + 6
    model = FairForGenerativeRecommendation(FairConfig(hidden_size=wide, prediction=prediction, **SIZES))
    weight = model.model.embeddings.codes.weight
    before = weight.detach().clone()
    start_at_centroids(model, fitted)
    codes = fitted.item_codes
    vectors = model.model.embeddings.sums(torch.from_numpy(codes)).detach().numpy()
    np.testing.assert_allclose(cosines(vectors), cosines(fitted.codebooks.decode(codes)), atol=1e-5)
    assert torch.equal(weight[-1], before[-1]), "the mask code has no centroid"
    torch.testing.assert_close(weight[:-1].square().mean(), before[:-1].square().mean())
    assert weight.requires_grad


def test_narrow_models_are_about_right(fitted):
    """Fewer directions than the codebooks are wide: what is alike stays more alike than what is not."""
    model = FairForGenerativeRecommendation(FairConfig(hidden_size=8, **SIZES))
    start_at_centroids(model, fitted)
    vectors = model.model.embeddings.sums(torch.from_numpy(fitted.item_codes)).detach().numpy()
    pairs = np.triu_indices(len(vectors), 1)
    found, wanted = cosines(vectors)[pairs], cosines(fitted.codebooks.decode(fitted.item_codes))[pairs]
    assert np.corrcoef(found, wanted)[0, 1] > 0.5


def test_another_tokenizers_codebooks_are_refused(fitted):
    model = FairForGenerativeRecommendation(FairConfig(hidden_size=8, **{**SIZES, "codebook_size": 4}))
    with pytest.raises(ValueError, match="4 codebooks of 8 codes but the model 4 of 4"):
        start_at_centroids(model, fitted)
