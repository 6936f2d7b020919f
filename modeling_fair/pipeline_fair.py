"""`pipeline("recommendation")`: item ids of a history in, named items out."""

import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import Pipeline
from transformers.utils import cached_file

from .index_fair import ItemIndex
from .partition_fair import INDEX_FILE

REQUEST_KEYS = {"history", "top_k", "remove_seen", "exclude", "allow"}


class RecommendationPipeline(Pipeline):
    """Recommends items of the tokenizer's catalogue.

        >>> recommender = pipeline("recommendation", model=folder)
        >>> recommender({"history": ["p0017", "p0421"]}, top_k=2)
        [{'item_id': ..., 'score': ..., 'title': ...}, {'item_id': ..., 'score': ..., 'title': ...}]

    A request is `{"history": [item ids, oldest first]}`; it may carry its own `top_k`, `remove_seen`, `exclude` and
    `allow`, which go before those of the call. Item ids of the history that are not in the catalogue are skipped with
    a warning. A user without any known item is served the items most often met in training, with the logarithm of
    their share of interactions for a score.

    Raises:
        ValueError: for a request of another form, ids in `exclude` or `allow` that are not in the catalogue, and a
            tokenizer of another fit than the model's.
    """

    model: Any
    tokenizer: Any

    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False
    _load_tokenizer: Any = True

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        expected = getattr(self.model.config, "codebook_fingerprint", None)
        if expected is not None and expected != self.tokenizer.codebook_fingerprint:
            raise ValueError(
                f"The model was trained on the codes of tokenizer fit {expected} but this tokenizer is of fit "
                f"{self.tokenizer.codebook_fingerprint}: load both from one checkpoint folder."
            )
        self._index: ItemIndex | None = None
        self._indexed: Any = None  # the tokenizer's codes that the index was built of

    @property
    def index(self) -> ItemIndex:
        """The tokenizer's catalogue, built when it is first asked for and after every change of the catalogue: first
        with the partition of the checkpoint's folder, where one was saved, later without."""
        if self._index is None:
            self.index = self._saved_index() or ItemIndex(self.tokenizer.item_codes, device=self.device)
        elif self._indexed is not self.tokenizer.item_codes:
            self.index = ItemIndex(self.tokenizer.item_codes, device=self.device)
        assert self._index is not None
        return self._index

    @index.setter
    def index(self, index: ItemIndex) -> None:
        if len(index) != len(self.tokenizer.item_codes):
            raise ValueError(
                f"The index has {len(index)} items but the tokenizer {len(self.tokenizer.item_codes)}: "
                "build it of tokenizer.item_codes."
            )
        self._index, self._indexed = index, self.tokenizer.item_codes

    def _saved_index(self) -> ItemIndex | None:
        name = self.model.name_or_path
        path = name and cached_file(
            name,
            INDEX_FILE,
            revision=getattr(self.model.config, "_commit_hash", None),
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if not path or self.device.type != "cpu":  # on an accelerator, exact search
            return None
        try:
            return ItemIndex.from_pretrained(os.path.dirname(path), self.tokenizer.item_codes)
        except ValueError as error:
            warnings.warn(
                f"The catalogue is searched exactly, without the partition saved for it: {error}", stacklevel=2
            )
            return None

    def __call__(  # type: ignore[override]
        self,
        requests: Mapping[str, Any] | Iterable[Mapping[str, Any]],
        *,
        top_k: int = 10,
        remove_seen: bool = True,
        exclude: list[str] | None = None,
        allow: list[str] | None = None,
        batch_size: int = 32,
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """
        Args:
            requests: one request or any number of them.
            top_k: items to return at the most.
            remove_seen: whether items of the history are left out.
            exclude, allow: item ids never to return, or the only ones to.
            batch_size: requests answered at once.

        Returns:
            For each request a list of `{"item_id", "score", "title"}`, best first; a single request gives its own
            list alone. The score is the mean log-probability of the item's codes.
        """
        defaults = {"top_k": top_k, "remove_seen": remove_seen, "exclude": exclude, "allow": allow}
        single = isinstance(requests, Mapping)
        if isinstance(requests, (str, bytes)) or not isinstance(requests, Iterable):
            raise ValueError(f'A request is {{"history": [item ids]}}; this is {requests!r:.100}.')
        listed: Iterable[Any] = [requests] if single else requests
        complete = [self._complete(request, defaults) for request in listed]
        answers: list[list[dict[str, Any]]] = []
        for start in range(0, len(complete), batch_size):
            answers += super().__call__({"requests": complete[start : start + batch_size]})
        return answers[0] if single else answers

    @staticmethod
    def _complete(request: Mapping[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(request, Mapping) or "history" not in request:
            raise ValueError(f'A request is {{"history": [item ids]}}; this is {request!r:.100}.')
        if unknown := set(request) - REQUEST_KEYS:
            raise ValueError(
                f"A request has no {', '.join(map(repr, sorted(unknown)))}: use {', '.join(sorted(REQUEST_KEYS))}."
            )
        return {**defaults, **request}

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict, dict, dict]:
        return {}, {}, {}

    def preprocess(self, input_: Any, **preprocess_parameters: Any) -> dict[str, Any]:
        requests = input_["requests"]
        histories = [request["history"] for request in requests]
        if not all(isinstance(history, (list, tuple)) for history in histories):
            raise ValueError('The "history" of a request is a list of item ids, oldest first.')
        whole = self.tokenizer.rows_of(histories)
        known = [[self.tokenizer.catalogue.item_ids[row] for row in rows] for rows in whole]
        encoded = self.tokenizer(known, return_tensors="pt")
        return {"encoded": encoded, "seen": whole, "requests": requests}

    def _forward(self, input_tensors: dict[str, Any], **forward_parameters: Any) -> Any:
        """One (rows, scores) a request."""
        encoded, requests = input_tensors["encoded"], input_tensors["requests"]
        counts = torch.as_tensor(self.tokenizer.item_counts, dtype=torch.float32)
        popularity = torch.log((counts + 0.5) / (counts + 0.5).sum())
        allow = [None if request["allow"] is None else self._rows(request["allow"], "allow") for request in requests]
        output = self.model.recommend(
            encoded["input_ids"].to(self.device),
            encoded["attention_mask"].to(self.device),
            [
                rows if request["remove_seen"] else []
                for rows, request in zip(input_tensors["seen"], requests, strict=True)
            ],
            index=self.index,
            top_k=max(request["top_k"] for request in requests),
            exclude=[self._rows(request["exclude"] or [], "exclude") for request in requests],
            allow=allow,
            empty_history_scores=popularity,
        )
        rows, scores = output.item_ids.cpu(), output.scores.cpu()
        return [(rows[i, : request["top_k"]], scores[i, : request["top_k"]]) for i, request in enumerate(requests)]

    def postprocess(self, model_outputs: Any, **postprocess_parameters: Any) -> list[list[dict[str, Any]]]:
        answers = []
        for rows, scores in model_outputs:
            kept = [(row, score) for row, score in zip(rows.tolist(), scores.tolist(), strict=True) if row >= 0]
            titles = self.tokenizer.titles([row for row, _ in kept])
            answers.append(
                [
                    {"item_id": self.tokenizer.catalogue.item_ids[row], "score": score, "title": title}
                    for (row, score), title in zip(kept, titles, strict=True)
                ]
            )
        return answers

    def _rows(self, item_ids: Iterable[str], name: str) -> list[int]:
        try:
            return [self.tokenizer.catalogue.row(item_id) for item_id in item_ids]
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
