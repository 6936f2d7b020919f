from collections import Counter

import pytest
from datasets import Dataset

from training_fair.inputs import item_counts


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
