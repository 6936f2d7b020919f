"""Items -> codes: the semantic-ID tokenizer of FAIR models."""

from .tokenization_fair import DEFAULT_TEXT_ENCODER, FairTokenizer

FairTokenizer.register_for_auto_class("AutoTokenizer")

__all__ = ["DEFAULT_TEXT_ENCODER", "FairTokenizer"]
