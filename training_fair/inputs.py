"""Settings -> sequences, items, splits and the tokenizer."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict

from data_fair import (
    SplitReport,
    amazon_interactions,
    amazon_items,
    describe_split,
    load_named,
    read_interactions,
    read_items,
    read_sequence_file,
    split_by_time,
    split_leave_one_out,
)
from modeling_fair import FairConfig
from tokenization_fair import FairTokenizer
from tokenization_fair.codebooks_fair import check_finite, check_shape

from .arguments import SOURCES, DataArguments, TokenizerArguments


def load_data(data: DataArguments) -> tuple[Dataset, Dataset]:
    """Sequences and items of whichever source was given.

    Raises:
        ValueError: for no source, several, or one without its items.
    """
    given = [name for name in SOURCES if getattr(data, name) is not None]
    if len(given) != 1:
        raise ValueError(f"Give one of --{', --'.join(SOURCES)}; this run has {' and '.join(given) or 'none'}.")
    if data.k_core and (data.dataset or data.sequences_file):
        raise ValueError(f"--k_core filters interactions: leave it out with --{given[0]}, which is taken as it is.")
    allow_no_text = data.allow_items_without_text or data.item_embeddings is not None
    text: dict[str, Any] = {
        "title_column": data.title_column,
        "text_fields": data.text_fields,
        "allow_items_without_text": allow_no_text,
        "cache_dir": data.cache_dir,
    }
    if data.dataset:
        for name in ("items_file", "text_fields", "item_id_column"):
            if getattr(data, name) is not None:
                raise ValueError(f"--{name} is for files of your own: leave it out with --dataset {data.dataset}.")
        return load_named(data.dataset, cache_dir=data.cache_dir)
    if data.amazon_reviews:
        if not data.amazon_metadata:
            raise ValueError("--amazon_reviews needs --amazon_metadata, the file with the items' texts.")
        sequences = amazon_interactions(
            data.amazon_reviews, data.amazon_year, cache_dir=data.cache_dir, k_core=data.k_core
        )
        keep = set(interaction_counts(sequences)[0].to_pylist())
        return sequences, amazon_items(data.amazon_metadata, data.amazon_year, keep=keep, **text)
    if not data.items_file:
        raise ValueError(f"--{given[0]} needs --items_file, the file with the items' texts.")
    if data.sequences_file:
        sequences = read_sequence_file(data.sequences_file, cache_dir=data.cache_dir)
    else:
        sequences = read_interactions(
            data.interactions_file or [],
            user_column=data.user_column,
            item_column=data.item_column,
            timestamp_column=None if data.timestamp_column in (None, "none") else data.timestamp_column,
            k_core=data.k_core,
            cache_dir=data.cache_dir,
        )
    items = read_items(data.items_file, id_column=data.item_id_column, **text)
    return sequences, items


def split_data(sequences: Dataset, data: DataArguments) -> tuple[DatasetDict, SplitReport]:
    if data.split == "global_time":
        splits = split_by_time(sequences, data.validation_share, data.test_share)
    elif data.split == "leave_one_out":
        splits = split_leave_one_out(sequences)
    elif data.split == "none":
        splits = DatasetDict(train=sequences)
        return splits, describe_split(splits, sequences)
    else:
        raise ValueError(f"There is no split {data.split!r}: choose leave_one_out, global_time or none.")
    report = describe_split(splits, sequences)
    if len(splits["validation"]) == 0 or len(splits["test"]) == 0:
        raise ValueError(f"The {data.split} split leaves no user to evaluate: {report}")
    return splits, report


def _arrow_column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """A column as it lies on disk, memory-mapped."""
    column = dataset.with_format("arrow")[name][:]
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])


def interaction_counts(sequences: Dataset) -> tuple[pa.Array, np.ndarray]:
    """Ids of the items that the sequences hold, and how often each stands there, (ids,) int64."""
    lists = _arrow_column(sequences, "item_ids")
    counts = pc.value_counts(pa.chunked_array([pc.list_flatten(chunk) for chunk in lists.chunks]))
    return counts.field("values"), counts.field("counts").to_numpy()


def item_counts(sequences: Dataset, items: Dataset) -> np.ndarray:
    """Interactions of each item, (items,) int64.

    Raises:
        ValueError: naming one, if the interactions hold items that the items lack.
    """
    met, times = interaction_counts(sequences)
    rows = pc.index_in(met, value_set=_arrow_column(items, "item_id").cast(met.type))
    if rows.null_count:
        missing = sorted(met.filter(rows.is_null()).to_pylist())
        raise ValueError(
            f"The interactions hold {len(missing)} item(s) that the items lack, such as {missing[0]!r}: add them to "
            "the items, or take them out of the interactions."
        )
    counts = np.zeros(len(items), dtype=np.int64)
    counts[rows.to_numpy()] = times
    return counts


def check_same_data(tokenizer: FairTokenizer, items: Dataset, train: Dataset, checkpoint: str) -> None:
    """
    Raises:
        ValueError: where a run to resume has counted other interactions of its items, or has other items.
    """
    rows, counts = tokenizer.catalogue.rows_of(items["item_id"]), item_counts(train, items)
    if (rows < 0).any() or not np.array_equal(tokenizer.item_counts[rows], counts):
        raise ValueError(
            f"{checkpoint} was trained on other interactions or items than these, and is resumed with its own: to go "
            "on with newer data, use --model_name_or_path and another --output_dir."
        )


def load_embeddings(path: str | None) -> np.ndarray | None:
    """
    Raises:
        FileNotFoundError: where there is no file.
        ValueError: where it holds anything but one array of numbers.
    """
    if path is None:
        return None
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is not a file: give --item_embeddings one that numpy.save wrote.") from None
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a whole .npy file of numbers: write it with numpy.save.") from error
    if not isinstance(vectors, np.ndarray):
        raise ValueError(f"{path} holds several arrays: write that of the items alone, with numpy.save.")
    return vectors


def of_checkpoint(part: Any, path: str) -> Any:
    """The configuration or the tokenizer, by its class, of the checkpoint to go on from.

    Raises:
        ValueError: where there is none.
    """
    try:
        return part.from_pretrained(path)
    except OSError as error:
        raise ValueError(
            f"--model_name_or_path {path} is neither a folder nor a repository of the Hub that can be reached: name a "
            "folder that a run wrote."
        ) from error


def make_tokenizer(
    items: Dataset, train: Dataset, data: DataArguments, settings: TokenizerArguments, model: FairConfig, seed: int
) -> FairTokenizer:
    """The tokenizer of the checkpoint to go on from, with the items it lacks and the titles of today, or a new one."""
    counts, embeddings = item_counts(train, items), load_embeddings(data.item_embeddings)
    if embeddings is not None:
        check_shape(embeddings, len(items), f"vectors of {data.item_embeddings}")
        check_finite(embeddings, range(len(items)), f"vectors of {data.item_embeddings}")
    if settings.model_name_or_path is None:
        met = _arrow_column(items, "item_id").filter(pa.array(counts > 0))
        return FairTokenizer.fit(
            items,
            embeddings=embeddings,
            text_encoder=settings.text_encoder,
            num_codebooks=model.num_codebooks,
            codebook_size=model.codebook_size,
            pca_dim=settings.pca_dim,
            whiten=settings.whiten,
            fit_item_ids=(item_id for chunk in met.chunks for item_id in chunk.to_pylist()),
            item_counts=counts,
            collisions=settings.collisions,
            model_max_length=model.max_position_embeddings,
            seed=seed,
            work_dir=settings.tokenizer_work_dir,
        )
    tokenizer = of_checkpoint(FairTokenizer, settings.model_name_or_path)
    rows = tokenizer.catalogue.rows_of(items["item_id"])
    new = np.flatnonzero(rows < 0)
    if gone := len(tokenizer.catalogue) - (len(rows) - len(new)):
        print(
            f"{gone} item(s) of the checkpoint are none of these items: they stay, and are recommended, until the "
            "tokenizer's remove_items takes them out."
        )
    if renamed := tokenizer.catalogue.retitle(items["item_id"], items["title"]):
        print(f"{renamed} item(s) have another title than in the checkpoint, and get it; their codes stay.")
    tokenizer.add_items(
        items.select(new),
        None if embeddings is None else embeddings[new],
        work_dir=settings.tokenizer_work_dir,
        show_progress=True,
    )
    tokenizer.item_counts = np.zeros(len(tokenizer.catalogue), np.int64)
    tokenizer.item_counts[tokenizer.catalogue.rows_of(items["item_id"])] = counts
    return tokenizer
