"""What the page asks of a checkpoint: items by words, their titles, and recommendations."""

import json
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

FILES = ("config.json", "tokenizer_config.json")
HINT = "name a folder that run_training.py made, such as runs/demo after `make demo`, or a Hub repository."


class CheckpointError(ValueError):
    """A checkpoint that cannot be shown; its message is one sentence for the visitor."""


class Recommender:
    """A checkpoint that is ready to be asked."""

    def __init__(self, pipeline: Any):
        self.pipeline, self.model, self.tokenizer = pipeline, pipeline.model.eval(), pipeline.tokenizer
        self.item_ids: Sequence[str] = self.tokenizer.catalogue.item_ids
        self.has_titles = any(self.tokenizer.catalogue.titles)
        self.reads = self.tokenizer.model_max_length

    @classmethod
    def load(cls, checkpoint: str) -> "Recommender":
        """
        Args:
            checkpoint: a folder, or the id of a Hub repository. Its own code runs only where this package is not
                installed.

        Raises:
            CheckpointError: for what is not a FAIR checkpoint, saying what is missing.
        """
        check_folder(checkpoint)
        # Imported here, for it takes seconds in which the page can already say that it loads.
        from safetensors import SafetensorError
        from transformers import pipeline

        try:
            import modeling_fair  # noqa: F401 (it registers the pipeline)

            own_code = False
        except ImportError:
            own_code = True
        try:
            loaded = pipeline("recommendation", model=checkpoint, trust_remote_code=own_code)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            if not os.path.isdir(checkpoint):
                raise CheckpointError(f"There is no folder or Hub repository {checkpoint!r}: {HINT}") from error
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise CheckpointError(f"The folder {checkpoint!r} could not be loaded: {reason}") from error
        if not len(loaded.tokenizer.catalogue):
            raise CheckpointError(f"The catalogue of {checkpoint!r} has no items: add some with tokenizer.add_items.")
        return cls(loaded)

    def titles(self, item_ids: Sequence[str]) -> list[str]:
        """Titles of items; an item without one is named by its id.

        Raises:
            ValueError: naming an id that is not in the catalogue.
        """
        return self.tokenizer.titles([self.tokenizer.catalogue.row(item_id) for item_id in item_ids])

    def search(self, words: str, limit: int) -> tuple[list[str], bool]:
        """Ids of the first `limit` items, in catalogue order, with all words in their title or id, whatever their
        case; and whether there are more."""
        wanted = words.casefold().split()

        def found() -> Iterator[str]:
            catalogue = self.tokenizer.catalogue
            for item_id, title in zip(catalogue.item_ids, catalogue.titles, strict=True):
                text = f"{title} {item_id}".casefold()
                if all(word in text for word in wanted):
                    yield item_id

        first = list(islice(found(), limit + 1))
        return first[:limit], len(first) > limit

    def popular(self, limit: int) -> list[str]:
        """Ids of the items most often met in training."""
        rows = np.argsort(-self.tokenizer.item_counts, kind="stable")[:limit]
        return [self.item_ids[row] for row in rows.tolist()]

    def recommend(self, history: Sequence[str], remove_seen: bool, top_k: int) -> list[dict[str, Any]]:
        """What the pipeline gives: `{"item_id", "score", "title"}`, best first."""
        return self.pipeline({"history": list(history)}, top_k=top_k, remove_seen=remove_seen)

    def example(self, seed: int, length: int) -> list[str]:
        """A history that hangs together: an item met often, and each time what is recommended next."""
        start = self.popular(100)
        history = [start[seed % len(start)]]
        while len(history) < min(length, len(self.item_ids)):
            history.append(self.recommend(history, True, 1)[0]["item_id"])
        return history


def check_folder(checkpoint: str) -> None:
    """Raises CheckpointError for a folder that lacks a file or holds another kind of model."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        return
    missing = [name for name in FILES if not (folder / name).is_file()]
    if not any(folder.glob("model*.safetensors")):  # large models come in parts
        missing.append("model.safetensors")
    if missing:
        raise CheckpointError(f"The folder {checkpoint!r} has no {missing[0]}, so it is no checkpoint: {HINT}")
    try:
        model_type = json.loads((folder / FILES[0]).read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder / FILES[0]} cannot be read: save or fetch the checkpoint again.") from error
    if model_type != "fair":
        raise CheckpointError(f"The folder {checkpoint!r} holds a model of type {model_type!r}, not 'fair': {HINT}")
