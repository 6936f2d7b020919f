"""`pipeline("recommendation")`: item ids of a history in, named items out."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, ModelCard
from transformers import Pipeline
from transformers.utils import cached_file

from .index_fair import ItemIndex, as_codes
from .partition_fair import INDEX_FILE

DEFAULTS: dict[str, Any] = {"top_k": 10, "remove_seen": True, "exclude": None, "allow": None}
CARD = ("README.md", "training.png")
REQUEST_KEYS = {"history", *DEFAULTS}


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
        if self.model.config.model_type != "fair" or not hasattr(self.model, "recommend"):
            raise ValueError(
                f"{self.model.name_or_path or 'The model'} holds a {type(self.model).__name__}, no "
                "FairForGenerativeRecommendation: give the folder of a checkpoint that run_training.py wrote."
            )
        expected = getattr(self.model.config, "codebook_fingerprint", None)
        if expected is not None and expected != self.tokenizer.codebook_fingerprint:
            raise ValueError(
                f"The model was trained on the codes of tokenizer fit {expected} but this tokenizer is of fit "
                f"{self.tokenizer.codebook_fingerprint}: load both from one checkpoint folder."
            )
        if self.model.config.num_known_items not in (0, self.tokenizer.num_known_items):
            raise ValueError(
                f"The model knows {self.model.config.num_known_items} items but this tokenizer "
                f"{self.tokenizer.num_known_items}: load both from one checkpoint folder."
            )
        if self.tokenizer.model_max_length > self.model.config.max_position_embeddings:
            raise ValueError(
                f"The tokenizer keeps {self.tokenizer.model_max_length} items of a history but the model reads "
                f"{self.model.config.max_position_embeddings}: set tokenizer.model_max_length to that."
            )
        self.model.eval()  # one that comes from its training would answer with dropout
        self._index: ItemIndex | None = None
        self._indexed: tuple[Any, Any] = (None, None)  # the tokenizer's codes and the index's that fit each other

    @property
    def index(self) -> ItemIndex:
        """The tokenizer's catalogue, built when it is first asked for and after every change of the catalogue that it
        has not gone through itself: first with the partition of the checkpoint's folder, where one was saved, later
        without.

        Raises:
            ValueError: where it was changed and the tokenizer was not.
        """
        if self._index is None:
            self.index = self._saved_index() or self._exact_index()
        elif self._indexed[0] is not self.tokenizer.item_codes and self._misfit(self._index) is not None:
            if self._index.partition is not None:
                warnings.warn(
                    "The catalogue has changed and is searched exactly from now on: set the pipeline's index to one "
                    "with a partition again.",
                    stacklevel=2,
                )
            self.index = self._exact_index()
        elif self._indexed[0] is not self.tokenizer.item_codes or self._indexed[1] is not self._index.item_codes:
            self.index = self._index
        assert self._index is not None
        return self._index

    @index.setter
    def index(self, index: ItemIndex) -> None:
        if (misfit := self._misfit(index)) is not None:
            raise ValueError(misfit)
        if index.known_ids is None:
            index.known_ids = torch.as_tensor(self.tokenizer.known_ids).to(index.item_codes.device)
        self._index, self._indexed = index, (self.tokenizer.item_codes, index.item_codes)

    def _misfit(self, index: ItemIndex) -> str | None:
        """What keeps an index from serving the tokenizer's catalogue, if anything."""
        codes = as_codes(self.tokenizer.item_codes).to(index.item_codes.device)
        if not torch.equal(index.item_codes, codes):
            return (
                f"The index has {len(index)} items of other codes than the tokenizer's {len(codes)}: change both "
                "alike, or build it of tokenizer.item_codes."
            )
        known_ids = torch.as_tensor(self.tokenizer.known_ids).to(codes.device)
        if index.known_ids is not None and not torch.equal(index.known_ids, known_ids):
            return "The index numbers known items otherwise than the tokenizer: build it with tokenizer.known_ids."
        return None

    @property
    def popularity(self) -> torch.Tensor:
        """Scores of the catalogue's items for users without a known item, (catalogue,): logarithms of their shares of
        the training's interactions."""
        counts = torch.as_tensor(self.tokenizer.item_counts, dtype=torch.float32)
        return torch.log((counts + 0.5) / (counts + 0.5).sum())

    def _exact_index(self) -> ItemIndex:
        return ItemIndex(self.tokenizer.item_codes, device=self.device)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save model, tokenizer and code, and what else there is: the model card of its folder, and the partition of
        its index."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.tokenizer.save_pretrained(save_directory)
        others: tuple[str, ...] = CARD
        partition = Path(save_directory) / INDEX_FILE
        if self._index is None:
            others = (*CARD, INDEX_FILE)
        elif self.index.partition is not None:
            self.index.save_pretrained(save_directory)
        else:
            partition.unlink(missing_ok=True)  # one of another catalogue
        for name in others:
            path, copy = self._own_file(name), Path(save_directory) / name
            if path and not (copy.exists() and copy.samefile(path)):
                shutil.copyfile(path, copy)

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        commit_message: str = "Upload recommender",
    ) -> str:
        """Push all that `save_pretrained` saves, in one commit.

        Args:
            repo_id: name of the repository on the Hub, made where it does not exist.
            private: whether it is made a private one.
            token: that of the machine's login by default.
            revision: the branch to commit to, made where it does not exist; `main` by default.
            commit_message: of the commit.

        Returns:
            The URL of the commit.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            readme = Path(folder) / "README.md"
            if readme.exists():  # it names the folder that it was written for
                card = ModelCard.load(readme)
                name = str(card.data.model_name)
                card.text = card.text.replace(f'model="{name}"', f'model="{repo_id}"')
                card.text = card.text.replace(f"# {name.split('/')[-1]}\n", f"# {repo_id.split('/')[-1]}\n", 1)
                card.data.model_name = repo_id
                card.save(readme)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, revision=revision, commit_message=commit_message
            )
        return str(commit.commit_url)

    def _own_file(self, name: str) -> str | None:
        """A file of the folder or repository that the model came from, where it has it."""
        source = self.model.name_or_path
        if not source or os.path.isdir(source) or os.path.isabs(source):
            local = os.path.join(source, name)
            return local if source and os.path.isfile(local) else None
        path = cached_file(
            source,
            name,
            revision=getattr(self.model.config, "_commit_hash", None),
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return path or None

    def _saved_index(self) -> ItemIndex | None:
        path = self._own_file(INDEX_FILE)
        if not path or self.device.type != "cpu":  # on an accelerator, exact search
            return None
        try:
            return ItemIndex.from_pretrained(os.path.dirname(path), self.tokenizer.item_codes)
        except (ValueError, ImportError) as error:  # such as that of faiss, which exact search does without
            warnings.warn(
                f"The catalogue is searched exactly, without the partition saved for it: {error}", stacklevel=2
            )
            return None

    def __call__(  # type: ignore[override]
        self,
        requests: Mapping[str, Any] | Iterable[Mapping[str, Any]],
        *,
        top_k: int | None = None,
        remove_seen: bool | None = None,
        exclude: Iterable[str] | None = None,
        allow: Iterable[str] | None = None,
        batch_size: int | None = None,
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """
        Args:
            requests: one request or any number of them.
            top_k: items to return at the most; default 10, or what the pipeline was made with.
            remove_seen: whether items of the history are left out; default true, likewise.
            exclude, allow: item ids never to return, or the only ones to.
            batch_size: requests answered at once; default 32, likewise.

        Returns:
            For each request a list of `{"item_id", "score", "title"}`, best first; a single request gives its own
            list alone. Scores order the items of one request: of a model that predicts codes, the mean
            log-probability of the item's codes, of one that predicts items, the cosine of state and item divided by
            `cosine_temperature`; with the prior, if the model has one.
        """
        given = {"top_k": top_k, "remove_seen": remove_seen, "exclude": exclude, "allow": allow}
        defaults = {
            **DEFAULTS,
            **self._defaults,
            **{name: value for name, value in given.items() if value is not None},
        }
        for name in ("exclude", "allow"):  # once for all requests
            defaults[name] = self._rows(defaults[name], name)
        batch_size = next(size for size in (batch_size, self._batch_size, 32) if size is not None)
        batch_size = whole_number(batch_size, "batch_size")
        single = isinstance(requests, Mapping)
        if isinstance(requests, (str, bytes)) or not isinstance(requests, Iterable):
            raise ValueError(f'A request is {{"history": [item ids]}}; this is {requests!r:.100}.')
        many: Iterable[Any] = [requests] if single else requests
        complete = [self._complete(request, defaults) for request in many]
        answers: list[list[dict[str, Any]]] = []
        for start in range(0, len(complete), batch_size):
            answers += super().__call__({"requests": complete[start : start + batch_size]})
        return answers[0] if single else answers

    def _complete(self, request: Mapping[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
        """A request with all keys; `exclude` and `allow` are catalogue rows, the very list of `defaults` where the
        request has none of its own."""
        if not isinstance(request, Mapping) or "history" not in request:
            raise ValueError(f'A request is {{"history": [item ids]}}; this is {request!r:.100}.')
        if unknown := set(request) - REQUEST_KEYS:
            raise ValueError(
                f"A request has no {', '.join(sorted(map(repr, unknown)))}: use {', '.join(sorted(REQUEST_KEYS))}."
            )
        own = {name: self._rows(request[name], name) for name in ("exclude", "allow") if name in request}
        complete = {**defaults, **request, **own}
        check_options(complete)
        # No answer is longer than the catalogue, so a larger number must not cost more either.
        return {**complete, "top_k": min(int(complete["top_k"]), max(len(self.index), 1))}

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict, dict, dict]:
        """What `pipeline(...)` is given holds for all calls."""
        if unknown := set(kwargs) - set(DEFAULTS):
            raise ValueError(f"The pipeline has no {', '.join(sorted(unknown))}: use {', '.join(sorted(DEFAULTS))}.")
        for name in ("exclude", "allow"):  # a generator would serve the first call alone
            if kwargs.get(name) is not None:
                kwargs[name] = listed(kwargs[name], name)
        check_options(kwargs)
        self._defaults: dict[str, Any] = {**getattr(self, "_defaults", {}), **kwargs}
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
        any_empty = not encoded["attention_mask"].any(dim=1).all()
        output = self.model.recommend(
            encoded["input_ids"].to(self.device),
            encoded["attention_mask"].to(self.device),
            [
                rows if request["remove_seen"] else []
                for rows, request in zip(input_tensors["seen"], requests, strict=True)
            ],
            encoded["known_ids"].to(self.device),
            index=self.index,
            top_k=max(request["top_k"] for request in requests),
            exclude=of_all(requests, "exclude"),
            allow=of_all(requests, "allow"),
            empty_history_scores=self.popularity if any_empty else None,
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

    def _rows(self, item_ids: Iterable[str] | None, name: str) -> list[int] | None:
        """Catalogue rows of item ids.

        Raises:
            ValueError: naming an id that is not in the catalogue.
        """
        if item_ids is None:
            return None
        given = [str(item_id) for item_id in listed(item_ids, name)]
        rows = self.tokenizer.catalogue.rows_of(given).tolist()
        if -1 in rows:
            raise ValueError(
                f"{name}: the item id {given[rows.index(-1)]!r} is not in the catalogue of {len(self.index)} items."
            )
        return rows


def listed(item_ids: Any, name: str) -> list[Any]:
    """Raises ValueError for what is no list of item ids."""
    if isinstance(item_ids, (str, bytes)) or not isinstance(item_ids, Iterable):
        raise ValueError(f"{name} is {item_ids!r}: give a list of item ids.")
    return list(item_ids)


def whole_number(value: Any, name: str) -> int:
    """Raises ValueError for what is no integer of at least 1."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}: give a whole number of at least 1.")
    return int(value)


def check_options(options: Mapping[str, Any]) -> None:
    """Raises ValueError for a `top_k` or `remove_seen` of another kind."""
    if "top_k" in options:
        whole_number(options["top_k"], "top_k")
    if not isinstance(options.get("remove_seen", True), bool):
        raise ValueError(f"remove_seen is {options['remove_seen']!r}: give True or False.")


def of_all(requests: list[dict[str, Any]], name: str) -> Any:
    """A filter of all requests: one list where they share it, else one each."""
    filters = [request[name] for request in requests]
    return filters[0] if all(of_request is filters[0] for of_request in filters) else filters
