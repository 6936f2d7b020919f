from collections import Counter

import numpy as np
import pytest
from datasets import Dataset

from training_fair.arguments import DataArguments
from training_fair.inputs import item_counts, load_data, load_embeddings, split_data


def test_counting_items_reads_batches_from_disk(tmp_path):
    users = [[f"i{n % 7}", f"i{n % 3}"] for n in range(5_000)]
    Dataset.from_dict({"user_id": [f"u{n}" for n in range(5_000)], "item_ids": users}).to_parquet(
        tmp_path / "s.parquet"
    )
    items = Dataset.from_dict({"item_id": [f"i{n}" for n in range(9)]})
    sequences = Dataset.from_parquet(str(tmp_path / "s.parquet"), cache_dir=str(tmp_path))
    expected = Counter(item for user in users for item in user)
    for order in (list(range(9)), [8, 3, 4, 1, 0, 2, 7, 6, 5]):
        counts = item_counts(sequences, items.select(order))
        assert counts.tolist() == [expected[f"i{n}"] for n in order]
    assert item_counts(sequences.select([1, 8]), items).sum() == 4
    with pytest.raises(ValueError, match="5 item.*'i2'"):
        item_counts(sequences, items.select([0, 1]))


def test_all_that_is_read_is_kept_in_the_folder_that_was_named(tmp_path, monkeypatch):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "".join(f"u,i{n},{n}\n" for n in range(4)))
    (tmp_path / "items.csv").write_text("item_id,name\n" + "".join(f"i{n},thing {n}\n" for n in range(4)))
    files = {"interactions_file": [str(tmp_path / "log.csv")], "items_file": [str(tmp_path / "items.csv")]}
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "elsewhere")
    _, items = load_data(DataArguments(**files, title_column="name", cache_dir=str(tmp_path / "cache")))
    assert items["title"][0] == "thing 0"
    assert (tmp_path / "cache").exists() and not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["items_file", "text_fields", "item_id_column"])
def test_a_named_data_set_takes_no_files_of_ones_own(name):
    with pytest.raises(ValueError, match=f"--{name} is for files of your own"):
        load_data(DataArguments(dataset="demo", **{name: ["title"]}))


def test_a_split_that_there_is_not_is_refused():
    sequences = Dataset.from_dict({"user_id": ["u"], "item_ids": [["a", "b", "c"]], "timestamps": [[1, 2, 3]]})
    with pytest.raises(ValueError, match="no split 'global-time'"):
        split_data(sequences, DataArguments(dataset="demo", split="global-time"))


def test_vectors_are_one_array_of_a_file(tmp_path):
    np.savez(tmp_path / "v.npz", a=np.zeros(3), b=np.zeros(3))
    with pytest.raises(ValueError, match="v.npz holds several arrays"):
        load_embeddings(str(tmp_path / "v.npz"))
    with pytest.raises(FileNotFoundError, match="gone.npy is not a file"):
        load_embeddings(str(tmp_path / "gone.npy"))
