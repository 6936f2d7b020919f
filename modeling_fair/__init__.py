"""Codes -> states -> code logits -> item scores -> named items: FAIR on transformers."""

from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.pipelines import PIPELINE_REGISTRY

from tokenization_fair import FairTokenizer

from .configuration_fair import FairConfig
from .index_fair import ItemIndex
from .modeling_fair import FairForGenerativeRecommendation, FairModel
from .partition_fair import fit_partition
from .pipeline_fair import RecommendationPipeline

if TYPE_CHECKING:
    from .collator_fair import FairDataCollator
    from .trainer_fair import FairTrainer
    from .training_arguments_fair import FairTrainingArguments

FairConfig.register_for_auto_class()
FairForGenerativeRecommendation.register_for_auto_class("AutoModel")
AutoConfig.register(FairConfig.model_type, FairConfig, exist_ok=True)
AutoModel.register(FairConfig, FairForGenerativeRecommendation, exist_ok=True)
AutoTokenizer.register(FairConfig, slow_tokenizer_class=FairTokenizer, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline("recommendation", pipeline_class=RecommendationPipeline, pt_model=AutoModel)


def __getattr__(name: str) -> Any:
    """Training comes with accelerate, which loading and recommending do without: import it when it is asked for."""
    if name == "FairDataCollator":
        from .collator_fair import FairDataCollator

        return FairDataCollator
    if name == "FairTrainer":
        from .trainer_fair import FairTrainer

        return FairTrainer
    if name == "FairTrainingArguments":
        from .training_arguments_fair import FairTrainingArguments

        return FairTrainingArguments
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "FairConfig",
    "FairDataCollator",
    "FairForGenerativeRecommendation",
    "FairModel",
    "FairTokenizer",
    "FairTrainer",
    "FairTrainingArguments",
    "ItemIndex",
    "RecommendationPipeline",
    "fit_partition",
]
