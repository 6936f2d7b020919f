# Copyright 2026 The FAIR for Transformers authors. Licensed under the Apache License, Version 2.0.
"""Configuration of FAIR models."""

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

ATTENTION_TYPES = ("focused", "standard")
PREDICTIONS = ("codes", "items")
ATTENTION_NORMS = ("rms_output", "relu", "l1", "layer_norm", "softmax", "softmax_abs")

# Keys that are no fields of FairConfig but that transformers, its Trainer or its Auto classes write to configurations.
_KEYS_OF_TRANSFORMERS = set(
    "_attn_implementation _attn_implementation_internal _commit_hash _experts_implementation_internal _name_or_path "
    "attn_implementation auto_map bos_token_id custom_pipelines eos_token_id experts_implementation is_decoder "
    "model_type name_or_path num_labels output_attentions pad_token_id quantization_config tie_word_embeddings "
    "torch_dtype use_cache".split()
)


@strict
class FairConfig(PreTrainedConfig):
    r"""
    Configuration of [`FairModel`] and [`FairForGenerativeRecommendation`]. The defaults are the paper's
    (arXiv 2512.11254): 22.1 M parameters.

    Args:
        num_codebooks (`int`, defaults to 32): codes of an item, which is also the number of prediction heads (L).
        codebook_size (`int`, defaults to 256): different codes in each codebook. The code `codebook_size` itself is
            the mask code, which only inputs may hold.
        hidden_size (`int`, defaults to 512): width of item vectors and states (d).
        num_hidden_layers (`int`, defaults to 2): decoder layers.
        num_attention_heads (`int`, defaults to 4): attention heads; focused attention has two branches in each.
        intermediate_size (`int`, defaults to 2048): width of the SwiGLU feed-forward block.
        max_position_embeddings (`int`, defaults to 50): items of a history that the model can read.
        attention_type (`str`, defaults to `"focused"`): `"focused"` (the difference of two attention maps) or
            `"standard"` (the first map alone).
        attention_norm (`str`, defaults to `"rms_output"`): how focused attention normalises the difference
            `lambda1 A1 - lambda2 A2`: `"rms_output"` (not at all; the output of each head is RMS-normalised instead,
            the only form that fused attention kernels can compute), `"relu"` (negative weights dropped, then each row
            divided by its sum), `"l1"` (each row divided by its sum of absolute values), `"layer_norm"` (of each row
            over the visible items), `"softmax"` or `"softmax_abs"` (softmax again, of the signed or of the absolute
            values).
        lambda1_init, lambda2_init (`float`, default to 1.0 and 0.5): where the two weights start. They are learned
            per head as exponentials, so they stay positive and a subtraction never turns into an addition.
        relative_position_bias (`bool`, defaults to `False`): whether attention scores have a learned bias for the
            distance between two items, see [`~relative_positions_fair.RelativePositionBias`].
        cosine_temperature (`float`, defaults to 0.07): what the cosine between a head's state and a code embedding,
            or between a state and an item, is divided by.
        prediction (`str`, defaults to `"codes"`): `"codes"` (the paper's heads: a distribution over each codebook) or
            `"items"` (no heads: an item's score is the cosine between the state and the item's vector, which the item
            loss trains).
        num_known_items (`int`, defaults to 0): items that the model can tell apart beside their codes: those that the
            tokenizer's fit met in training, `tokenizer.num_known_items`. All others, such as items added later, are
            placed by their codes alone, until they are adopted. 0 where neither of the next two is used.
        num_adopted_items (`int`, defaults to 0): how many of the known items, the last ones, borrow their counts of
            others, see [`~modeling_fair.FairForGenerativeRecommendation.adopt_new_items`], which sets it.
        item_residuals (`bool`, defaults to `False`): whether each known item has a vector of its own, added to that
            of its codes. Needs `prediction="items"`.
        prior_size (`int`, defaults to 0): entries of the co-occurrence prior, see [`~prior_fair.CoOccurrencePrior`];
            `set_prior` sets it.
        prior_weight (`float`, defaults to 0.0): weight of the prior's logarithm in an item's score; in a mixture, what
            all scores are divided by before they are exponents.
        prior_level (`float`, *optional*): makes a mixture of model and prior instead of a product, in which the prior
            has this score to share out, so it is as large as scores are: beside items up to 1 / `cosine_temperature`.
        prior_repeat (`float`, defaults to 0.0): what the prior adds to the scores of the known items
            that the model reads in the history: below 0 where users do not come back for an item.
        prior_similar_weight (`float`, *optional*): weight of similar items among what the prior holds, 0 for none of
            them; `run_training.py` makes the prior of them, and sets it where it is not given.
        prior_floor (`float`, defaults to 0.001): what the prior of a product counts where it has nothing.
        prior_history (`int`, defaults to 20): newest items of a history that the prior looks at.
        prior_decay (`float`, defaults to 0.5): weight of an item there relative to the next newer one.
        hidden_act (`str`, defaults to `"silu"`): the gate of the feed-forward block.
        attention_dropout, hidden_dropout, embedding_dropout (`float`, default to 0.0): dropout of attention maps, of
            what each block adds, and of item vectors.
        rms_norm_eps (`float`, defaults to 1e-6): added to the mean square by every RMS normalisation.
        initializer_range (`float`, defaults to 0.02): standard deviation of the initial weights.
        codebook_fingerprint (`str`, *optional*): fingerprint of the tokenizer whose codes the model was trained on;
            the trainer sets it and `recommend` pipelines check it.

    Raises:
        ValueError: for fields that do not fit each other and for keys that no field has, such as a misspelt one.
    """

    model_type = "fair"
    keys_to_ignore_at_inference = ["branch_attentions"]

    num_codebooks: int = 32
    codebook_size: int = 256
    hidden_size: int = 512
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    intermediate_size: int = 2048
    max_position_embeddings: int = 50
    attention_type: str = "focused"
    attention_norm: str = "rms_output"
    lambda1_init: float | int = 1.0
    lambda2_init: float | int = 0.5
    relative_position_bias: bool = False
    cosine_temperature: float | int = 0.07
    prediction: str = "codes"
    num_known_items: int = 0
    num_adopted_items: int = 0
    item_residuals: bool = False
    prior_size: int = 0
    prior_weight: float | int = 0.0
    prior_level: float | int | None = None
    prior_repeat: float | int = 0.0
    prior_similar_weight: float | int | None = None
    prior_floor: float = 1e-3
    prior_history: int = 20
    prior_decay: float | int = 0.5
    hidden_act: str = "silu"
    attention_dropout: float | int = 0.0
    hidden_dropout: float | int = 0.0
    embedding_dropout: float | int = 0.0
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    codebook_fingerprint: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        unknown = sorted(set(kwargs) - _KEYS_OF_TRANSFORMERS)
        if unknown:
            raise ValueError(
                f"FairConfig has no field {', '.join(map(repr, unknown))}: correct the name, or update this package "
                "if the checkpoint was written by a newer version of it."
            )
        kwargs.pop("custom_pipelines", None)  # derived, see below
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As of all configurations of transformers: those of saved ones too.

        Raises:
            ValueError: for values that this version does not know.
        """
        try:
            return super().from_dict(config_dict, **kwargs)
        except StrictDataclassError as error:
            reason = str(error.__cause__ or error).splitlines()[-1].strip()
            raise ValueError(
                f"{reason} If the checkpoint was written by a newer version of this package, update the package."
            ) from error

    def validate_architecture(self) -> None:
        """Called by transformers whenever a configuration is made."""
        for name in ("num_codebooks", "codebook_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                     "intermediate_size", "max_position_embeddings", "lambda1_init", "lambda2_init",
                     "cosine_temperature", "prior_floor", "prior_history",
                     "prior_decay", "rms_norm_eps"):  # fmt: skip
            if not 0 < getattr(self, name) < math.inf:  # which is false of what is no number, too
                raise ValueError(f"FairConfig.{name} is {getattr(self, name)}: give it a value above 0.")
        for name in ("num_known_items", "num_adopted_items", "prior_size", "prior_weight", "prior_similar_weight",
                     "initializer_range"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"FairConfig.{name} is {value}: give it a value of at least 0.")
        for name in ("prior_level", "prior_repeat"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"FairConfig.{name} is {value}: give it a number.")
        if self.hidden_act not in ACT2FN:
            raise ValueError(
                f"FairConfig.hidden_act is {self.hidden_act!r}: choose one of transformers' activations, such as silu."
            )
        if self.prior_level is not None and self.prior_size and not self.prior_weight:
            raise ValueError("FairConfig.prior_level needs a prior_weight above 0.")
        for name in ("attention_dropout", "hidden_dropout", "embedding_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"FairConfig.{name} is {getattr(self, name)}: give it a value from 0 to below 1.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"FairConfig.hidden_size is {self.hidden_size}: give it a multiple of num_attention_heads "
                f"({self.num_attention_heads})."
            )
        if self.attention_type not in ATTENTION_TYPES:
            raise ValueError(
                f"FairConfig.attention_type is {self.attention_type!r}: choose one of {', '.join(ATTENTION_TYPES)}."
            )
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"FairConfig.prediction is {self.prediction!r}: choose one of {', '.join(PREDICTIONS)}.")
        if self.item_residuals and self.prediction != "items":
            raise ValueError("FairConfig.item_residuals needs prediction='items': heads score codes alone.")
        if (self.item_residuals or self.prior_size) and not self.num_known_items:
            raise ValueError(
                "FairConfig.item_residuals and prior_size need num_known_items: that of a tokenizer fitted with "
                "item_counts."
            )
        if self.attention_norm not in ATTENTION_NORMS:
            raise ValueError(
                f"FairConfig.attention_norm is {self.attention_norm!r}: choose one of {', '.join(ATTENTION_NORMS)}."
            )

    @property
    def normalises_scores(self) -> bool:
        """Whether attention maps themselves are normalised, which fused attention kernels cannot do."""
        return self.attention_type == "focused" and self.attention_norm != "rms_output"

    @property
    def custom_pipelines(self) -> dict[str, Any]:
        """Where `pipeline(..., trust_remote_code=True)` finds the pipeline in a checkpoint folder. Empty where this
        package is installed: the task is registered there, and no remote code is needed."""
        return self._remote_pipelines() if type(self).__module__.startswith("transformers_modules") else {}

    @staticmethod
    def _remote_pipelines() -> dict[str, Any]:
        return {"recommendation": {"impl": "pipeline_fair.RecommendationPipeline", "pt": ["AutoModel"]}}

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "custom_pipelines": self._remote_pipelines()}


__all__ = ["ATTENTION_NORMS", "ATTENTION_TYPES", "FairConfig"]
