"""FAIR under transformers' common tests, in configurations that differ in what a checkpoint holds or in what runs."""

import copy
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from unittest import mock

import torch
from torch import nn
from transformers import initialization as init
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.testing_utils import torch_device
from transformers_tests import test_modeling_common
from transformers_tests.test_configuration_common import ConfigTester

from modeling_fair import FairConfig, FairForGenerativeRecommendation, FairModel
from modeling_fair.attention_fair import ResidualProjection
from modeling_fair.modeling_fair import FairPreTrainedModel

# Where the suite looks up which models are base models, without a loss.
MODEL_MAPPING_NAMES[FairConfig.model_type] = FairModel.__name__

set_every_epsilon = test_modeling_common.set_config_for_less_flaky_test


def set_our_epsilon(config: FairConfig) -> None:
    """The suite sets an epsilon under all names that any model has for it, and saves the configuration. Ours refuses
    to be loaded with names it does not know, so it keeps its own."""
    before = set(vars(config))
    set_every_epsilon(config)
    for name in set(vars(config)) - before:
        delattr(config, name)


test_modeling_common.set_config_for_less_flaky_test = set_our_epsilon

init_weights = FairPreTrainedModel._init_weights


def init_every_weight(self: FairPreTrainedModel, module: nn.Module) -> None:
    """Ours start with blocks that add nothing, of which the suite could not tell two forms of attention apart."""
    init_weights(self, module)
    if isinstance(module, ResidualProjection):
        init.normal_(module.weight, std=self.config.initializer_range)


FairPreTrainedModel._init_weights = init_every_weight


class FairModelTester:
    """A small model's configuration and inputs, under the names that the suite asks for."""

    is_training = True
    batch_size, seq_length = 3, 6
    hidden_size, num_attention_heads, num_hidden_layers = 32, 2, 2

    def __init__(self, fields: dict):
        self.fields = {
            "num_codebooks": 4,
            "codebook_size": 8,
            "hidden_size": self.hidden_size,
            "intermediate_size": 48,
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "max_position_embeddings": 12,
            **fields,
        }

    def prepare_config_and_inputs_for_common(self) -> tuple[FairConfig, dict[str, torch.Tensor]]:
        """The same at every call, with padding."""
        config, shape = FairConfig(**self.fields), (self.batch_size, self.seq_length)
        draw = torch.Generator().manual_seed(0)
        lengths = torch.tensor([[self.seq_length], [4], [1]])
        inputs = {
            "input_ids": torch.randint(config.codebook_size, (*shape, config.num_codebooks), generator=draw),
            "attention_mask": (torch.arange(self.seq_length) < lengths).long(),
        }
        if config.num_known_items:
            inputs["known_ids"] = torch.randint(-1, config.num_known_items, shape, generator=draw)
        return config, {name: tensor.to(torch_device) for name, tensor in inputs.items()}


class FairTests(test_modeling_common.ModelTesterMixin):
    """What all configurations share; `fields` is what sets one apart."""

    all_model_classes = (FairModel, FairForGenerativeRecommendation)
    additional_model_inputs = ("known_ids",)
    # Otherwise that test skips itself wherever a configuration's file does not begin with a copyright from 2023 on.
    test_can_init_all_missing_weights_before_2023 = True
    fields: dict = {}

    def setUp(self) -> None:
        self.model_tester = FairModelTester(self.fields)
        self.config_tester = ConfigTester(self, FairConfig, has_text_modality=False, **self.model_tester.fields)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = copy.deepcopy(inputs_dict)
        if return_labels and issubclass(model_class, FairForGenerativeRecommendation):
            inputs["labels"] = inputs["input_ids"].roll(-1, dims=1)
        return inputs

    @contextmanager
    def embedding_items(self) -> Iterator[None]:
        """The suite makes `inputs_embeds` with the module that `get_input_embeddings` gives. Here that is the table of
        codes, while an item's vector is made of several of them, and of one of its own where it is known."""
        known_ids = self.model_tester.prepare_config_and_inputs_for_common()[1].get("known_ids")

        def embedder(model):
            return partial(model.base_model.embeddings.item_vectors, known_ids=known_ids)

        with (
            mock.patch.object(FairModel, "get_input_embeddings", embedder),
            mock.patch.object(FairForGenerativeRecommendation, "get_input_embeddings", embedder),
        ):
            yield

    def test_inputs_embeds(self):
        with self.embedding_items():
            super().test_inputs_embeds()

    def test_inputs_embeds_matches_input_ids(self):
        with self.embedding_items():
            super().test_inputs_embeds_matches_input_ids()

    def test_config(self):
        self.config_tester.run_common_tests()

    @unittest.skip("codes are those of the tokenizer's fit, so resize_token_embeddings refuses: tests/modeling_fair")
    def test_resize_tokens_embeddings(self): ...

    @unittest.skip("positions are learned for max_position_embeddings items and histories cut to them: no resizing")
    def test_resize_position_vector_embeddings(self): ...

    @unittest.skip("for models composed of several; FAIR is one")
    def test_sdpa_can_dispatch_composite_models(self): ...


class CodesFocusedTest(FairTests, unittest.TestCase):
    """The paper's model."""


class CodesStandardTest(FairTests, unittest.TestCase):
    fields = {"attention_type": "standard"}


class ItemsResidualsPriorTest(FairTests, unittest.TestCase):
    """All that configs/fair_best.yaml has."""

    fields = {"prediction": "items", "item_residuals": True, "num_known_items": 5, "prior_size": 7}


class NormalisedMapsTest(FairTests, unittest.TestCase):
    fields = {"attention_norm": "softmax_abs"}

    @unittest.skip("maps that are normalised need the eager form, so another is refused: tests/modeling_fair")
    def test_can_set_attention_dynamically(self): ...

    @unittest.skip("maps that are normalised need the eager form, so another is refused: tests/modeling_fair")
    def test_sdpa_can_dispatch_non_composite_models(self): ...
