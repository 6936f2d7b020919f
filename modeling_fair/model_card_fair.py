"""The model card of a checkpoint: the README.md that the Hub shows, made of what a run recorded."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .markdown_fair import markdown_table
from .metrics_fair import SEEN_REMOVED

PROTOCOLS = {"": "seen items kept", SEEN_REMOVED: "seen items removed"}
METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10", "recall@20", "ndcg@20", "mrr", "coverage@10")
SOURCES = ("dataset", "interactions_file", "sequences_file", "amazon_reviews")
CONFIG = (
    "prediction",
    "attention_type",
    "attention_norm",
    "relative_position_bias",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "num_codebooks",
    "codebook_size",
    "max_position_embeddings",
    "cosine_temperature",
    "embedding_dropout",
    "hidden_dropout",
    "attention_dropout",
    "item_residuals",
    "num_known_items",
    "prior_weight",
    "prior_similar_weight",
    "prior_repeat",
    "prior_level",
)
ARGUMENTS = (
    "centroid_start",
    "mtp_weight",
    "item_weight",
    "item_negatives",
    "item_remove_seen",
    "nrt_weight",
    "mask_probability",
    "replace_probability",
    "nrt_margin",
    "mim_weight",
    "mim_temperature",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "bf16",
    "seed",
)


def model_card(record: dict[str, Any], name: str) -> ModelCard:
    """
    Args:
        record: what `results.json` of a run holds, or some of it: `results` (split -> metrics), `split`, `config`,
            `arguments`, `text_encoder`, `id_quality` and `versions`. What is missing is not spoken of.
        name: of the model, or its id on the Hub.

    Returns:
        A card with usage, metrics of both protocols (also as the metadata that the Hub shows), training
        configuration, the quality of the item codes, intended use and limits.
    """
    results, arguments = record.get("results", {}), record.get("arguments", {})
    source = _source(arguments)
    data = ModelCardData(
        library_name="transformers",
        tags=["recommendation", "generative-recommendation", "sequential-recommendation", "semantic-ids", "fair"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="recommendation",
                task_name="Next-item recommendation",
                dataset_type=source,
                dataset_name=source,
                dataset_split="test",
                metric_type=metric,
                metric_name=f"{metric}, {protocol}",
                metric_value=results["test"][metric + suffix],
            )
            for suffix, protocol in PROTOCOLS.items()
            for metric in METRICS
            if metric + suffix in results.get("test", {})
        ]
        or None,
    )
    parts = [_usage(name), _evaluation(results, source, arguments), _training(record), _codes(record), _limits(record)]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {name.split('/')[-1]}\n\n" + "\n".join(filter(None, parts)))


def _source(arguments: dict[str, Any]) -> str:
    """What the data were read from, without the folders of the machine."""
    given = next((arguments[key] for key in SOURCES if arguments.get(key)), "unnamed data")
    return Path(given[0] if isinstance(given, list) else given).name


def _usage(name: str) -> str:
    return f"""A [FAIR](https://arxiv.org/abs/2512.11254) recommender: a user's history in, named items out. Config,
weights, tokenizer, catalogue and code are in this repository.

```python
from transformers import pipeline

recommender = pipeline("recommendation", model="{name}", trust_remote_code=True)
recommender({{"history": ["an item id", "a newer one"]}}, top_k=10)
```
"""


def _evaluation(results: dict[str, dict[str, float]], source: str, arguments: dict[str, Any]) -> str:
    if arguments.get("split") == "none":
        return "## Evaluation\n\nTrained on all interactions: none was left to evaluate it with.\n"
    rows = [
        [split.replace("_", " "), protocol, *(f"{metrics[metric + suffix]:.4f}" for metric in METRICS)]
        for split, metrics in results.items()
        for suffix, protocol in PROTOCOLS.items()
        if all(metric + suffix in metrics for metric in METRICS)
    ]
    if not rows:
        return ""
    split = {
        "leave_one_out": "Leave-one-out by time: a user's last item is test, the one before validation",
        "global_time": "Split at two points in time",
    }.get(arguments.get("split", ""), "Split by the user")
    return f"""## Evaluation

Data: {source}. {split}. All items of the catalogue are ranked, by item and not by code, equal scores in the order of
the catalogue; items of the history are among the candidates ("kept") or not ("removed").

{markdown_table(["split", "history", *METRICS], rows)}
"""


def _training(record: dict[str, Any]) -> str:
    counts = ", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in record.get("split", {}).items())
    config, arguments = record.get("config", {}), record.get("arguments", {})
    rows = [[f"`{key}`", config[key]] for key in CONFIG if config.get(key) is not None]
    rows += [[f"`{key}`", arguments[key]] for key in ARGUMENTS if key in arguments and _counts(key, arguments)]
    versions = ", ".join(f"{name} {number}" for name, number in record.get("versions", {}).items() if number)
    text = "## Training\n\n"
    text += f"{counts[0].upper() + counts[1:]}.\n\n" if counts else ""
    if start := arguments.get("model_name_or_path"):
        text += f"This training went on from the weights and the tokenizer of `{Path(start).name}`.\n\n"
    text += markdown_table(["setting", "value"], rows) + "\n"
    return text + (f"\nMade with {versions}.\n" if versions else "")


def _counts(key: str, arguments: dict[str, Any]) -> bool:
    """Whether a setting had any effect."""
    if key == "num_train_epochs":
        return not arguments.get("max_steps", -1) > 0
    if key == "max_steps":
        return arguments[key] > 0
    if key in ("mask_probability", "replace_probability", "nrt_margin"):
        return bool(arguments.get("nrt_weight"))
    if key == "mim_temperature":
        return bool(arguments.get("mim_weight"))
    return arguments[key] is not None


def _codes(record: dict[str, Any]) -> str:
    quality = record.get("id_quality", {}).get("catalogue")
    if not quality:
        return ""
    rows = [
        [key.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else value]
        for key, value in quality.items()
    ]
    if encoder := record.get("text_encoder"):
        rows.insert(0, ["text encoder", Path(encoder).name if Path(encoder).is_absolute() else encoder])
    return f"""## Item codes

How well the codes tell the items of the catalogue apart, and how evenly the codebooks are used:

{markdown_table(["quality", "value"], rows)}
"""


def _limits(record: dict[str, Any]) -> str:
    config = record.get("config", {})
    own = config.get("item_residuals") or config.get("prior_size")
    known = (
        "Items met in training have a vector of their own or co-occurrence counts beside their codes; new items have "
        "their codes alone until `model.adopt_new_items(tokenizer)` lends them those of similar items: expect less of "
        "them."
        if own
        else "Items are known by their codes alone, which are made of their texts: poor texts are poorly told apart."
    )
    return f"""## Intended use and limits

To rank the items of this catalogue for users with a history of item ids, oldest first. New items are added by
`tokenizer.add_items` and taken out by `remove_items`, without retraining. Users without any known item get the items
most often met in training.

The model repeats what its training interactions show, popularity and gaps included; offline metrics say nothing of
what a recommendation changes. It reads the last {config.get("max_position_embeddings", 50)} items of a history, and
neither times nor context. {known}
"""
