"""The semantic-ID tokenizer: item ids in, codes out, with all it takes to give codes to new items later."""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from transformers import BatchEncoding, PreTrainedTokenizer

from .catalogue_fair import Catalogue
from .codebooks_fair import Codebooks, check_vectors, code_dtype, fit_codebooks
from .semantic_ids_fair import id_quality, resolve_collisions
from .text_encoders_fair import TFIDF, SentenceEncoder, TextEncoder, TfidfEncoder

DEFAULT_TEXT_ENCODER = "sentence-transformers/sentence-t5-base"
VOCAB_FILES_NAMES = {
    "item_codes_file": "item_codes.safetensors",
    "codebooks_file": "codebooks.safetensors",
    "catalogue_file": "catalogue.jsonl",
}
CODEBOOK_TENSORS = ("mean", "projection", "rotation", "centroids")
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
    model_input_names = ["input_ids", "attention_mask", "item_ids"]

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
        files = (item_codes_file, codebooks_file, catalogue_file)
        missing = [name for name, file in zip(VOCAB_FILES_NAMES.values(), files, strict=True) if file is None]
        if 0 < len(missing) < len(files) or (missing and kwargs.get("name_or_path")):
            raise ValueError(f"The tokenizer's folder lacks {' and '.join(missing)}: fetch the whole folder again.")
        if item_codes_file and codebooks_file and catalogue_file:
            self._load(item_codes_file, codebooks_file, catalogue_file)
        super().__init__(
            text_encoder=text_encoder,
            collisions=collisions,
            model_max_length=model_max_length,
            id_quality=self.id_quality,
            **kwargs,
        )

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
        item_counts: Mapping[str, int] | None = None,
        collisions: str = "resolve",
        model_max_length: int = 50,
        seed: int = 0,
        show_progress: bool = True,
    ) -> "FairTokenizer":
        """Fit codebooks and give every item of a catalogue its codes.

        Args:
            items: mappings with `item_id`, `text` (what is encoded) and `title`, in catalogue order.
            embeddings: (items, dim) vectors in the same order, instead of a text encoder.
            text_encoder: see [`FairTokenizer`]; unused where `embeddings` are given.
            num_codebooks: codes an item (L).
            codebook_size: codes a codebook, a power of two; it shrinks, with a warning, for fewer items.
            pca_dim: dimensions that PCA keeps.
            whiten: whether PCA scales its dimensions to equal variance.
            fit_item_ids: items that the fit may look at, those seen in training; all by default.
            item_counts: interactions of each item in training, what users without a history are served by.
            collisions, model_max_length: see [`FairTokenizer`].
            seed: of every random choice in the fit.
            show_progress: whether encoding text shows a progress bar.

        Raises:
            ValueError: naming the item or argument: an id that stands twice, an item without text, vectors of the
                wrong shape or type or with NaN.
        """
        tokenizer = cls(text_encoder=None if embeddings is not None else text_encoder, collisions=collisions,
                        model_max_length=model_max_length)  # fmt: skip
        catalogue = Catalogue(items)
        known = catalogue.rows if fit_item_ids is None else {str(item_id) for item_id in fit_item_ids}
        fit_rows = np.array([row for item_id, row in catalogue.rows.items() if item_id in known], dtype=np.int64)
        if embeddings is None and text_encoder is None:
            raise ValueError("Give FairTokenizer.fit a text_encoder or embeddings.")
        if embeddings is None and text_encoder == TFIDF:
            tokenizer._encoder = TfidfEncoder.fit([_text(catalogue.items[row]) for row in fit_rows], seed=seed)
        vectors = tokenizer._vectors(catalogue.items, embeddings, show_progress)
        codebooks = fit_codebooks(vectors[fit_rows], num_codebooks, codebook_size, pca_dim, whiten, seed)
        codes = codebooks.encode(vectors)
        report = id_quality(codes, codebooks.codebook_size)
        report["reconstruction_error"] = codebooks.reconstruction_error(vectors, codes)
        report["moved"] = 0
        if collisions == "resolve":
            codes, report["moved"] = resolve_collisions(codes, codebooks, vectors)
        counts = item_counts or {}
        tokenizer._set(
            catalogue, codebooks, codes, np.array([counts.get(item_id, 0) for item_id in catalogue.rows], np.int64)
        )
        tokenizer._report(report)
        return tokenizer

    def add_items(
        self, items: Iterable[Mapping[str, Any]], embeddings: np.ndarray | None = None, show_progress: bool = False
    ) -> None:
        """Give new items codes, without any training; codes and rows of the items already there stay as they are.

        Args:
            items: as in [`FairTokenizer.fit`].
            embeddings: (items, dim), for tokenizers fitted on vectors and wherever they are at hand.

        Raises:
            ValueError: naming the item, for an id that is in the catalogue already and for whatever `fit` refuses.
        """
        codebooks = self._fitted()
        new = Catalogue(items)
        for item_id in new.rows:
            if item_id in self.catalogue.rows:
                raise ValueError(f"The item id {item_id!r} is in the catalogue already: give new items other ids.")
        if not len(new):
            return
        vectors = self._vectors(new.items, embeddings, show_progress)
        codes = np.concatenate([self.item_codes, codebooks.encode(vectors)])
        if self.collisions == "resolve":
            codes, _ = resolve_collisions(codes, codebooks, vectors, first_new=len(self.catalogue))
        counts = np.concatenate([self.item_counts, np.zeros(len(new), np.int64)])
        self.catalogue.add(new.items)
        self._set(self.catalogue, codebooks, codes, counts)

    def remove_items(self, item_ids: Sequence[str]) -> None:
        """Take items out of the catalogue. The rows of the items behind them move up, so histories that were
        tokenised before must be tokenised again.

        Raises:
            ValueError: naming an id that is not in the catalogue; nothing is removed then.
        """
        codebooks = self._fitted()
        kept = self.catalogue.remove(item_ids)
        self._set(self.catalogue, codebooks, self.item_codes[kept], self.item_counts[kept])

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
            `item_ids` (batch, items): catalogue rows, -1 for padding. One history without `return_tensors` gives
            lists without the batch axis.

        Raises:
            ValueError: if the histories are not lists of strings.
        """
        self._fitted()
        single = len(histories) > 0 and isinstance(histories[0], str)
        batch = [histories] if single else histories
        rows = self.rows_of(batch)  # type: ignore[arg-type]
        if truncation:
            limit = max_length or self.model_max_length
            rows = [of_user[-limit:] for of_user in rows]
        length = max(map(len, rows), default=0)
        item_ids, masks = [], []
        for of_user in rows:
            gap = [-1] * (length - len(of_user) if padding else 0)
            padded = gap + of_user if self.padding_side == "left" else of_user + gap
            item_ids.append(np.array(padded, dtype=np.int64))
            masks.append((item_ids[-1] >= 0).astype(np.int64))
        codes = [self.codes_of(of_user) for of_user in item_ids]
        if return_tensors is None:
            data = {name: [array.tolist() for array in arrays] for name, arrays in
                    (("input_ids", codes), ("attention_mask", masks), ("item_ids", item_ids))}  # fmt: skip
            return BatchEncoding({name: values[0] for name, values in data.items()} if single else data)
        if not padding and len(set(map(len, rows))) > 1:
            raise ValueError("Histories of different lengths make no tensor: call the tokenizer with padding=True.")
        empty_codes = np.zeros((0, length, self.item_codes.shape[1]), np.int64)
        arrays = {
            "input_ids": np.stack(codes) if codes else empty_codes,
            "attention_mask": np.stack(masks) if masks else empty_codes[..., 0],
            "item_ids": np.stack(item_ids) if item_ids else empty_codes[..., 0],
        }
        return BatchEncoding(arrays, tensor_type=return_tensors)

    def rows_of(self, histories: Sequence[Sequence[str]]) -> list[list[int]]:
        """Catalogue rows of histories of item ids, whole; ids that are not in the catalogue are skipped with one
        warning that names them."""
        rows: list[list[int]] = []
        unknown: dict[str, None] = {}
        known = self.catalogue.rows
        for history in histories:
            if isinstance(history, (str, bytes)) or not all(isinstance(item_id, str) for item_id in history):
                raise ValueError(f"A history is a list of item ids, which are strings; this is {history!r:.100}.")
            rows.append([known[item_id] for item_id in history if item_id in known])
            if len(rows[-1]) < len(history):
                unknown.update(dict.fromkeys(item_id for item_id in history if item_id not in known))
        if unknown:
            names = ", ".join(map(repr, list(unknown)[:10]))
            names += f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
            warnings.warn(f"Item ids that are not in the catalogue are skipped: {names}.", stacklevel=3)
        return rows

    def codes_of(self, rows: np.ndarray) -> np.ndarray:
        """Catalogue rows (...) -> codes (..., num_codebooks), int64; those of row -1 (padding) are 0."""
        if len(self.item_codes) == 0:
            return np.zeros((*rows.shape, self.item_codes.shape[1]), np.int64)
        return np.where((rows >= 0)[..., None], self.item_codes[rows].astype(np.int64), 0)

    def titles(self, rows: Sequence[int]) -> list[str]:
        """Titles of catalogue rows; an item without one is named by its id."""
        return [self.catalogue.items[row].get("title") or self.catalogue.items[row]["item_id"] for row in rows]

    @property
    def num_codebooks(self) -> int:
        return self._fitted().num_codebooks

    @property
    def codebook_size(self) -> int:
        return self._fitted().codebook_size

    @property
    def codebook_fingerprint(self) -> str:
        """Changes with the fit, not with the catalogue: a model's codes are those of one fit."""
        return self._fitted().fingerprint()

    # ---- What PreTrainedTokenizer asks for: tokens are item ids, their ids are catalogue rows -------------------

    @property
    def vocab_size(self) -> int:
        return len(self.catalogue)

    def get_vocab(self) -> dict[str, int]:
        return dict(self.catalogue.rows)

    def _convert_token_to_id(self, token: str) -> int:
        return self.catalogue.row(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self.catalogue.items[index]["item_id"]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the three files of a fitted tokenizer; each is complete or not there."""
        codebooks = self._fitted()
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        paths = {name: os.path.join(save_directory, prefix + file) for name, file in VOCAB_FILES_NAMES.items()}
        fitted: dict[str, np.ndarray] = {
            name: np.ascontiguousarray(getattr(codebooks, name)) for name in CODEBOOK_TENSORS
        }
        if self.text_encoder == TFIDF:
            fitted.update({key: np.ascontiguousarray(value) for key, value in self._text_encoder().tensors().items()})
        codes: dict[str, np.ndarray] = {
            "item_codes": np.ascontiguousarray(self.item_codes),
            "item_counts": self.item_counts,
        }
        fingerprint = {"codebook_fingerprint": codebooks.fingerprint()}
        _write(paths["codebooks_file"], lambda path: save_file(fitted, path, metadata=fingerprint))
        _write(paths["item_codes_file"], lambda path: save_file(codes, path, metadata=fingerprint))
        _write(paths["catalogue_file"], self.catalogue.save)
        return tuple(paths.values())

    # ---- Inner parts -------------------------------------------------------------------------------------------

    def _fitted(self) -> Codebooks:
        if self.codebooks is None:
            raise ValueError("This FairTokenizer is not fitted: make one with FairTokenizer.fit or from_pretrained.")
        return self.codebooks

    def _set(self, catalogue: Catalogue, codebooks: Codebooks, codes: np.ndarray, counts: np.ndarray) -> None:
        self.catalogue, self.codebooks = catalogue, codebooks
        self.item_codes, self.item_counts = codes.astype(code_dtype(codebooks.codebook_size)), counts
        self.total_vocab_size = len(catalogue)

    def _report(self, report: dict[str, Any]) -> None:
        self.id_quality = self.init_kwargs["id_quality"] = report

    def _text_encoder(self) -> TextEncoder:
        if self._encoder is None:
            if self.text_encoder is None:
                raise ValueError("This tokenizer was fitted on vectors: give the embeddings of the items.")
            self._encoder = SentenceEncoder(self.text_encoder)
        return self._encoder

    def _vectors(
        self, items: Sequence[Mapping[str, str]], embeddings: np.ndarray | None, show_progress: bool
    ) -> np.ndarray:
        if embeddings is not None:
            return check_vectors(np.asanyarray(embeddings), len(items))
        return check_vectors(self._text_encoder().encode([_text(item) for item in items], show_progress), len(items))

    def _load(self, item_codes_file: str, codebooks_file: str, catalogue_file: str) -> None:
        tensors, fitted_by = _read(codebooks_file)
        codes, coded_by = _read(item_codes_file)
        if coded_by != fitted_by:
            raise ValueError(f"{item_codes_file} and {codebooks_file} come from different fits: fetch both again.")
        codebooks = Codebooks(*(tensors[name] for name in CODEBOOK_TENSORS))
        catalogue = Catalogue.load(catalogue_file)
        if len(catalogue) != len(codes["item_codes"]):
            raise ValueError(
                f"{catalogue_file} has {len(catalogue)} items but {item_codes_file} has codes of "
                f"{len(codes['item_codes'])}: fetch both again."
            )
        if "tfidf.terms" in tensors:
            self._encoder = TfidfEncoder.from_tensors(tensors)
        self._set(catalogue, codebooks, codes["item_codes"], codes["item_counts"])


def _text(item: Mapping[str, str]) -> str:
    if item.get("text") is None:
        raise ValueError(f"The item {item['item_id']!r} has no text: give it one, or give embeddings of all items.")
    return item["text"]


def _read(path: str) -> tuple[dict[str, np.ndarray], str | None]:
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get(
                "codebook_fingerprint"
            )
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: fetch it again.") from error


def _write(path: str, save: Any) -> None:
    save(path + ".tmp")
    os.replace(path + ".tmp", path)


__all__ = ["DEFAULT_TEXT_ENCODER", "FairTokenizer"]
