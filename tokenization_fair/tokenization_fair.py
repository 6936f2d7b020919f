"""The semantic-ID tokenizer: item ids in, codes out, with all it takes to give codes to new items later."""

import hashlib
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from transformers import BatchEncoding, PreTrainedTokenizer

from .catalogue_fair import Catalogue
from .codebooks_fair import FIT_SAMPLE, Codebooks, check_fit, code_dtype, fit_codebooks, sample_rows
from .semantic_ids_fair import id_quality, resolve_collisions
from .streaming_fair import BATCH_SIZE, Items, ItemVectors, WorkFolder, array_sha256, encode_items
from .tensors_fair import read_tensors, write_tensors
from .text_encoders_fair import TFIDF, SentenceEncoder, TextEncoder, TfidfEncoder

DEFAULT_TEXT_ENCODER = "sentence-transformers/sentence-t5-base"
VOCAB_FILES_NAMES = {
    "item_codes_file": "item_codes.safetensors",
    "codebooks_file": "codebooks.safetensors",
    "catalogue_file": "catalogue.safetensors",
}
COLLISIONS = ("resolve", "keep")


class FairTokenizer(PreTrainedTokenizer):
    """Turns histories of item ids into the codes that FAIR models read. Made by [`FairTokenizer.fit`] and loaded by
    `from_pretrained`, with the fitted PCA, rotation, centroids, codes and titles of the catalogue.

    Its vocabulary is the catalogue: tokens are item ids and their ids are catalogue rows.

    Args:
        item_codes_file, codebooks_file, catalogue_file: set by `from_pretrained`.
        text_encoder (`str`, *optional*): a sentence-transformers name or folder, `"tfidf"`, or `None` where the items
            came with vectors.
        collisions (`str`, defaults to `"resolve"`): `"resolve"` gives items of equal codes codes of their own,
            `"keep"` leaves them; items of equal codes have equal scores and are ranked in catalogue order.
        model_max_length (`int`, defaults to 50): items of a history that are kept, the last ones.
        id_quality (`dict`, *optional*): the report of the fit.

    Raises:
        ValueError: if some of the three files are missing or do not belong together.
    """

    vocab_files_names = VOCAB_FILES_NAMES
    model_input_names = ["input_ids", "attention_mask", "item_ids", "known_ids"]

    def __init__(
        self,
        item_codes_file: str | None = None,
        codebooks_file: str | None = None,
        catalogue_file: str | None = None,
        text_encoder: str | None = DEFAULT_TEXT_ENCODER,
        collisions: str = "resolve",
        model_max_length: int = 50,
        id_quality: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        if collisions not in COLLISIONS:
            raise ValueError(f"collisions is {collisions!r}: choose one of {', '.join(COLLISIONS)}.")
        self.text_encoder = text_encoder
        self.collisions = collisions
        self.id_quality = id_quality or {}
        self._encoder: TextEncoder | None = None
        self.codebooks: Codebooks | None = None
        self.catalogue = Catalogue()
        self.item_codes = np.zeros((0, 0), dtype=np.uint8)
        self.item_counts = np.zeros(0, dtype=np.int64)
        self.known_ids = np.zeros(0, dtype=np.int64)
        self._num_known_items = 0
        files = (item_codes_file, codebooks_file, catalogue_file)
        missing = [name for name, file in zip(VOCAB_FILES_NAMES.values(), files, strict=True) if file is None]
        if 0 < len(missing) < len(files) or (missing and kwargs.get("name_or_path")):
            folder = kwargs.get("name_or_path") or "The tokenizer's folder"
            raise ValueError(f"{folder} lacks {' and '.join(missing)}: fetch the whole folder of a checkpoint again.")
        super().__init__(
            text_encoder=text_encoder,
            collisions=collisions,
            model_max_length=model_max_length,
            id_quality=self.id_quality,
            **kwargs,
        )
        # After super().__init__, which makes a dict of whatever vocabulary there is.
        if item_codes_file and codebooks_file and catalogue_file:
            self._load(item_codes_file, codebooks_file, catalogue_file)

    # ---- Fitting -----------------------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        items: Iterable[Mapping[str, Any]],
        *,
        embeddings: np.ndarray | None = None,
        text_encoder: str | None = DEFAULT_TEXT_ENCODER,
        num_codebooks: int = 32,
        codebook_size: int = 256,
        pca_dim: int = 128,
        whiten: bool = True,
        fit_item_ids: Iterable[str] | None = None,
        item_counts: Mapping[str, int] | np.ndarray | None = None,
        collisions: str = "resolve",
        model_max_length: int = 50,
        seed: int = 0,
        batch_size: int = BATCH_SIZE,
        work_dir: str | os.PathLike | None = None,
        show_progress: bool = True,
    ) -> "FairTokenizer":
        """Fit codebooks and give every item of a catalogue its codes.

        Items are read in batches; in memory are the vectors of 200,000 of them at the most, and ids, titles and codes
        of all.

        Args:
            items: mappings with `item_id`, `text` (what is encoded) and `title`, in catalogue order: a
                `datasets.Dataset`, a sequence, or any other iterable, which is held as a list.
            embeddings: (items, dim) vectors in the same order, instead of a text encoder; they may be memory-mapped.
            text_encoder: see [`FairTokenizer`]; unused where `embeddings` are given.
            num_codebooks: codes an item (L).
            codebook_size: codes a codebook, a power of two; it shrinks, with a warning, for fewer items.
            pca_dim: dimensions that PCA keeps.
            whiten: whether PCA scales its dimensions to equal variance.
            fit_item_ids: items that the fit may look at, those seen in training; all by default. Of more than 200,000
                it looks at a seeded sample.
            item_counts: interactions of each item in training, what users without a history are served by: by item
                id, or (items,) in catalogue order. Items that have any are the known ones, see `known_ids`.
            collisions, model_max_length: see [`FairTokenizer`].
            seed: of every random choice in the fit.
            batch_size: items encoded at once. It changes no code, but for what a text encoder's rounding hangs on it.
            work_dir: folder where finished batches are kept, so that the same call goes on where an interrupted one
                stopped. It stays when all is done: delete it when the tokenizer is saved.
            show_progress: whether there is a progress bar over all items.

        Raises:
            ValueError: naming the item or argument: an id that stands twice, an item without text, vectors of the
                wrong shape or type or with NaN, a `work_dir` of other items or settings.
        """
        tokenizer = cls(text_encoder=None if embeddings is not None else text_encoder, collisions=collisions,
                        model_max_length=model_max_length)  # fmt: skip
        if embeddings is None and text_encoder is None:
            raise ValueError("Give FairTokenizer.fit a text_encoder or embeddings.")
        if num_codebooks < 1:
            raise ValueError(f"num_codebooks is {num_codebooks}: give it at least 1.")
        embeddings = None if embeddings is None else np.asanyarray(embeddings)
        source, digest = Items(items), hashlib.sha256()
        catalogue = Catalogue(source.read(digest, with_text=embeddings is None))
        rows = np.arange(len(catalogue))
        if fit_item_ids is not None:
            rows = np.unique(catalogue.rows_of(map(str, fit_item_ids)))
        sample = sample_rows(rows[rows >= 0], seed)
        check_fit(len(sample), codebook_size, pca_dim)
        counts = _counts(item_counts, catalogue)
        settings = {
            "num_codebooks": num_codebooks,
            "codebook_size": codebook_size,
            "pca_dim": pca_dim,
            "whiten": whiten,
            "seed": seed,
            "fit_items": hashlib.sha256(sample.tobytes()).hexdigest()[:16],
        }
        work = tokenizer._work_folder(work_dir, digest.hexdigest(), embeddings, batch_size, len(catalogue), settings)
        if tokenizer.text_encoder == TFIDF:
            fitted = work.step("tfidf", lambda: TfidfEncoder.fit(source.texts(sample.tolist()), seed=seed).tensors())
            tokenizer._encoder = TfidfEncoder.from_tensors(fitted)
        vectors = ItemVectors(source, embeddings, None if embeddings is not None else tokenizer._text_encoder())
        held = np.arange(len(catalogue)) if len(catalogue) <= FIT_SAMPLE else sample
        held_vectors = vectors.hold(held, batch_size, work, show_progress)

        def fit_sample() -> dict[str, np.ndarray]:
            return fit_codebooks(vectors[sample], num_codebooks, codebook_size, pca_dim, whiten, seed).tensors()

        codebooks = Codebooks.from_tensors(work.step("codebooks", fit_sample))
        codes = encode_items(vectors, len(catalogue), codebooks, batch_size, work, show_progress)
        report = id_quality(codes, codebooks.codebook_size)
        report["reconstruction_error"] = codebooks.reconstruction_error(held_vectors, codes[held])
        report["moved"] = 0
        if collisions == "resolve":
            codes, report["moved"] = resolve_collisions(codes, codebooks, vectors)
        tokenizer._set(catalogue, codebooks, codes, counts, np.where(counts > 0, np.cumsum(counts > 0) - 1, -1))
        tokenizer._report(report)
        return tokenizer

    def add_items(
        self,
        items: Iterable[Mapping[str, Any]],
        embeddings: np.ndarray | None = None,
        batch_size: int = BATCH_SIZE,
        work_dir: str | os.PathLike | None = None,
        show_progress: bool = False,
    ) -> None:
        """Give new items codes, without any training; codes and rows of the items already there stay as they are.

        Args:
            items, batch_size, work_dir, show_progress: as in [`FairTokenizer.fit`].
            embeddings: (items, dim), for tokenizers fitted on vectors and wherever they are at hand.

        Raises:
            ValueError: naming the item, for an id that is in the catalogue already and for whatever `fit` refuses.
        """
        codebooks = self._fitted()
        embeddings = None if embeddings is None else np.asanyarray(embeddings)
        source, digest = Items(items), hashlib.sha256()
        new = Catalogue(source.read(digest, with_text=embeddings is None))
        known = np.flatnonzero(self.catalogue.rows_of(new.item_ids) >= 0)
        if len(known):
            raise ValueError(
                f"The item id {new.item_ids[int(known[0])]!r} is in the catalogue already: give new items other ids."
            )
        if not len(new):
            return
        settings = {"codebook_fingerprint": codebooks.fingerprint()}
        work = self._work_folder(work_dir, digest.hexdigest(), embeddings, batch_size, len(new), settings)
        vectors = ItemVectors(source, embeddings, None if embeddings is not None else self._text_encoder())
        new_codes = encode_items(vectors, len(new), codebooks, batch_size, work, show_progress)
        codes = np.concatenate([self.item_codes, new_codes])
        if self.collisions == "resolve":
            codes, _ = resolve_collisions(codes, codebooks, vectors, first_new=len(self.catalogue))
        counts = np.concatenate([self.item_counts, np.zeros(len(new), np.int64)])
        known = np.concatenate([self.known_ids, np.full(len(new), -1)])
        self.catalogue.add_all(new)
        self._set(self.catalogue, codebooks, codes, counts, known)

    def remove_items(self, item_ids: Sequence[str]) -> None:
        """Take items out of the catalogue. The rows of the items behind them move up, so histories that were
        tokenised before must be tokenised again.

        Raises:
            ValueError: naming an id that is not in the catalogue; nothing is removed then.
        """
        codebooks = self._fitted()
        if isinstance(item_ids, str):
            raise ValueError(f"item_ids is {item_ids!r}: give a list of item ids.")
        kept = self.catalogue.remove(item_ids)
        self._set(self.catalogue, codebooks, self.item_codes[kept], self.item_counts[kept], self.known_ids[kept])

    def quality(self) -> dict[str, Any]:
        """The id-quality report of the catalogue as it stands: see `id_quality` in `semantic_ids_fair`. What the fit
        found before it resolved collisions is in the attribute `id_quality`, with `moved` (items that were given
        other codes) and `reconstruction_error`."""
        return id_quality(self.item_codes, self._fitted().codebook_size)

    # ---- Histories ---------------------------------------------------------------------------------------------

    def __call__(  # type: ignore[override]
        self,
        histories: Sequence[str] | Sequence[Sequence[str]],
        *,
        padding: bool = True,
        truncation: bool = True,
        max_length: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Tokenise histories, oldest item first.

        Args:
            histories: lists of item ids, or one such list. Ids that are not in the catalogue are skipped with a
                warning that names them.
            padding: whether shorter histories are padded to the longest, on `padding_side`.
            truncation: whether only the last `max_length` items are kept (default `model_max_length`).
            return_tensors: `"pt"` or `"np"`, which need padding; by default lists.

        Returns:
            `input_ids` (batch, items, num_codebooks) with codes 0 for padding, `attention_mask` (batch, items), and
            `item_ids` and `known_ids` (batch, items): catalogue rows, and numbers of the items among those known
            from the fit, -1 for padding (and for items that are not known). One history without `return_tensors` gives
            lists without the batch axis.

        Raises:
            ValueError: if the histories are not lists of strings, for a `max_length` below 1, or for a `padding` or
                `truncation` that is another tokenizer's.
        """
        self._fitted()
        for name, value in (("padding", padding), ("truncation", truncation)):
            if not isinstance(value, bool):
                raise ValueError(f"{name} is {value!r}: give True or False.")
        single = len(histories) > 0 and isinstance(histories[0], str)
        batch = [histories] if single else histories
        rows = self.rows_of(batch)  # type: ignore[arg-type]
        if truncation:
            limit = self.model_max_length if max_length is None else max_length
            if limit < 1:
                raise ValueError(f"max_length is {limit}: give at least 1, or truncation=False for whole histories.")
            rows = [of_user[-limit:] for of_user in rows]
        length = max(map(len, rows), default=0)
        item_ids, masks = [], []
        for of_user in rows:
            gap = [-1] * (length - len(of_user) if padding else 0)
            padded = gap + of_user if self.padding_side == "left" else of_user + gap
            item_ids.append(np.array(padded, dtype=np.int64))
            masks.append((item_ids[-1] >= 0).astype(np.int64))
        codes, known = ([look_up(of_user) for of_user in item_ids] for look_up in (self.codes_of, self.known_ids_of))
        if return_tensors is None:
            arrays = {"input_ids": codes, "attention_mask": masks, "item_ids": item_ids, "known_ids": known}
            data = {name: [array.tolist() for array in of_users] for name, of_users in arrays.items()}
            return BatchEncoding({name: values[0] for name, values in data.items()} if single else data)
        if not padding and len(set(map(len, rows))) > 1:
            raise ValueError("Histories of different lengths make no tensor: call the tokenizer with padding=True.")
        empty_codes = np.zeros((0, length, self.item_codes.shape[1]), np.int64)
        stacked = {
            "input_ids": np.stack(codes) if codes else empty_codes,
            "attention_mask": np.stack(masks) if masks else empty_codes[..., 0],
            "item_ids": np.stack(item_ids) if item_ids else empty_codes[..., 0],
            "known_ids": np.stack(known) if known else empty_codes[..., 0],
        }
        return BatchEncoding(stacked, tensor_type=return_tensors)

    def rows_of(self, histories: Sequence[Sequence[str]]) -> list[list[int]]:
        """Catalogue rows of histories of item ids, whole; ids that are not in the catalogue are skipped with one
        warning that names them."""
        for history in histories:
            listed = isinstance(history, Iterable) and not isinstance(history, (str, bytes))
            if not listed or not all(isinstance(item_id, str) for item_id in history):
                raise ValueError(f"A history is a list of item ids, which are strings; this is {history!r:.100}.")
        found = iter(self.catalogue.rows_of(item_id for history in histories for item_id in history).tolist())
        rows: list[list[int]] = []
        unknown: dict[str, None] = {}
        for history in histories:
            of_user = list(islice(found, len(history)))
            rows.append([row for row in of_user if row >= 0])
            unknown.update((item_id, None) for item_id, row in zip(history, of_user, strict=True) if row < 0)
        if unknown:
            names = ", ".join(map(repr, list(unknown)[:10]))
            names += f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
            message = f"Item ids that are not in the catalogue are skipped: {names}."
            # Without a registry, in which every text ever warned of would stay.
            warnings.warn_explicit(message, UserWarning, "<tokenizer>", 0, registry={})
        return rows

    def codes_of(self, rows: np.ndarray) -> np.ndarray:
        """Catalogue rows (...) -> codes (..., num_codebooks), int64; those of row -1 (padding) are 0."""
        if len(self.item_codes) == 0:
            return np.zeros((*rows.shape, self.item_codes.shape[1]), np.int64)
        return np.where((rows >= 0)[..., None], self.item_codes[rows].astype(np.int64), 0)

    def number_new_items(self) -> None:
        """Count items that the fit did not meet among the known ones, with the next numbers, in catalogue order. A
        model has to know them too: see [`FairForGenerativeRecommendation.adopt_new_items`], which calls this."""
        known = self.known_ids.copy()
        new = np.flatnonzero(known < 0)
        known[new] = self.num_known_items + np.arange(len(new))
        # Codes that are another array tell who keeps an index of them that the catalogue has changed.
        self._set(self.catalogue, self._fitted(), self.item_codes.copy(), self.item_counts, known)

    def known_ids_of(self, rows: np.ndarray) -> np.ndarray:
        """Catalogue rows (...) -> numbers among the known items (...), -1 for others and for row -1."""
        if len(self.known_ids) == 0:
            return np.full(rows.shape, -1)
        return np.where(rows >= 0, self.known_ids[rows], -1)

    def titles(self, rows: Sequence[int]) -> list[str]:
        """Titles of catalogue rows; an item without one is named by its id."""
        return [self.catalogue.titles[row] or self.catalogue.item_ids[row] for row in rows]

    @property
    def num_codebooks(self) -> int:
        return self._fitted().num_codebooks

    @property
    def codebook_size(self) -> int:
        return self._fitted().codebook_size

    @property
    def num_known_items(self) -> int:
        """Items that the fit met in training or that a model adopted since, those taken out included. `known_ids` has
        their numbers by catalogue row, -1 for other items; they stay whatever is added or taken out, for a model may
        know them."""
        return self._num_known_items

    @property
    def codebook_fingerprint(self) -> str:
        """Changes with the fit, not with the catalogue: a model's codes are those of one fit."""
        return self._fitted().fingerprint()

    # ---- What PreTrainedTokenizer asks for: tokens are item ids, their ids are catalogue rows -------------------

    @property
    def vocab_size(self) -> int:
        return len(self.catalogue)

    def get_vocab(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.catalogue.item_ids)}

    def _convert_token_to_id(self, token: str) -> int:
        return self.catalogue.row(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self.catalogue.item_ids[index]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the three files of a fitted tokenizer; each is complete or not there, and files of different
        catalogues or fits are told apart when they are loaded."""
        codebooks = self._fitted()
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        paths = {name: os.path.join(save_directory, prefix + file) for name, file in VOCAB_FILES_NAMES.items()}
        fitted = codebooks.tensors()
        if self.text_encoder == TFIDF:
            fitted.update(self._text_encoder().tensors())
        codes: dict[str, np.ndarray] = {
            "item_codes": self.item_codes,
            "item_counts": self.item_counts,
            "known_ids": self.known_ids,
            "num_known_items": np.array([self.num_known_items]),
        }
        of_fit, of_items = codebooks.fingerprint(), self.catalogue.fingerprint()
        # One entry each: safetensors writes several in any order, and equal tokenizers in unequal bytes.
        write_tensors(paths["codebooks_file"], fitted, {"codebook_fingerprint": of_fit})
        write_tensors(paths["item_codes_file"], codes, {"codebook_and_catalogue_fingerprint": f"{of_fit} {of_items}"})
        self.catalogue.save(paths["catalogue_file"])
        return tuple(paths.values())

    # ---- Inner parts -------------------------------------------------------------------------------------------

    def _fitted(self) -> Codebooks:
        if self.codebooks is None:
            raise ValueError("This FairTokenizer is not fitted: make one with FairTokenizer.fit or from_pretrained.")
        return self.codebooks

    def _set(
        self, catalogue: Catalogue, codebooks: Codebooks, codes: np.ndarray, counts: np.ndarray, known: np.ndarray
    ) -> None:
        self.catalogue, self.codebooks, self.known_ids = catalogue, codebooks, known
        self.item_codes, self.item_counts = codes.astype(code_dtype(codebooks.codebook_size), copy=False), counts
        self._num_known_items = max(self._num_known_items, int(known.max(initial=-1)) + 1)
        self.total_vocab_size = len(catalogue)

    def _report(self, report: dict[str, Any]) -> None:
        self.id_quality = self.init_kwargs["id_quality"] = report

    def _text_encoder(self) -> TextEncoder:
        if self._encoder is None:
            if self.text_encoder is None:
                raise ValueError("This tokenizer was fitted on vectors: give the embeddings of the items.")
            self._encoder = SentenceEncoder(self.text_encoder)
        return self._encoder

    def _work_folder(
        self,
        path: str | os.PathLike | None,
        items: str,
        embeddings: np.ndarray | None,
        batch_size: int,
        count: int,
        settings: dict[str, Any],
    ) -> WorkFolder:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: give it at least 1.")
        made_for = {"items": count, "items_sha256": items[:16], "batch_size": batch_size, **settings}
        if embeddings is None:
            made_for["text_encoder"] = self.text_encoder
        elif path is not None:  # all of them are read for it
            made_for["embeddings_sha256"] = array_sha256(embeddings)
        return WorkFolder(path, made_for)

    def _load(self, item_codes_file: str, codebooks_file: str, catalogue_file: str) -> None:
        tensors, fitted = read_tensors(codebooks_file)
        codes, coded = read_tensors(item_codes_file)
        of_fit, _, of_items = coded.get("codebook_and_catalogue_fingerprint", "").partition(" ")
        if of_fit != fitted.get("codebook_fingerprint"):
            raise ValueError(f"{item_codes_file} and {codebooks_file} come from different fits: fetch both again.")
        catalogue = Catalogue.load(catalogue_file)
        if of_items != catalogue.fingerprint():
            raise ValueError(
                f"{item_codes_file} has the codes of other items than {catalogue_file}: fetch both again, or save the "
                "tokenizer again."
            )
        if "tfidf.terms" in tensors:
            self._encoder = TfidfEncoder.from_tensors(tensors)
        if "known_ids" not in codes:
            raise ValueError(f"{item_codes_file} is of an older version of this package: fit the tokenizer again.")
        self._num_known_items = int(codes["num_known_items"][0])
        self._set(
            catalogue, Codebooks.from_tensors(tensors), codes["item_codes"], codes["item_counts"], codes["known_ids"]
        )


def _counts(item_counts: Mapping[str, int] | np.ndarray | None, catalogue: Catalogue) -> np.ndarray:
    if isinstance(item_counts, np.ndarray):
        if item_counts.shape != (len(catalogue),):
            raise ValueError(f"item_counts has shape {item_counts.shape}: give ({len(catalogue)},), one an item.")
        if not np.issubdtype(item_counts.dtype, np.integer) or (len(item_counts) and item_counts.min() < 0):
            raise ValueError(f"item_counts holds {item_counts.dtype} or values below 0: give whole numbers from 0 on.")
        return item_counts.astype(np.int64)
    if item_counts is not None and not isinstance(item_counts, Mapping):
        raise ValueError("item_counts is neither a mapping of item ids nor an array: give one of them.")
    counts = {str(item_id): count for item_id, count in (item_counts or {}).items()}
    return np.fromiter((counts.get(item_id, 0) for item_id in catalogue.item_ids), np.int64, len(catalogue))


__all__ = ["DEFAULT_TEXT_ENCODER", "FairTokenizer"]
