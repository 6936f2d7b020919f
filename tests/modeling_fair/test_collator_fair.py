import pytest
import torch

from modeling_fair import FairDataCollator


def test_training_batch(fitted):
    batch = FairDataCollator(fitted)([{"item_ids": [1, 2, 3], "example_id": 7}, {"item_ids": [4, 5], "example_id": 9}])
    codes = torch.from_numpy(fitted.item_codes).long()
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert torch.equal(batch["input_ids"][0], codes[[1, 2]])
    assert torch.equal(batch["labels"][0], codes[[2, 3]]), "labels are the next item's codes, not shifted again"
    assert (batch["labels"][1, 1] == -100).all() and (batch["input_ids"][1, 1] == 0).all()
    assert batch["example_ids"].tolist() == [7, 9]
    assert "target_ids" not in batch


def test_evaluation_batch(fitted):
    examples = [
        {"item_ids": [1, 2], "target_id": 3, "seen_ids": [0, 1, 2]},
        {"item_ids": [4], "target_id": 5, "seen_ids": [4]},
    ]
    batch = FairDataCollator(fitted)(examples)
    codes = torch.from_numpy(fitted.item_codes).long()
    assert torch.equal(batch["labels"][0, 1], codes[3]) and torch.equal(batch["labels"][1, 0], codes[5])
    assert ((batch["labels"] != -100).any(-1).sum(1) == 1).all()
    assert batch["seen_ids"].tolist() == [[0, 1, 2], [4, -1, -1]]
    assert batch["target_ids"].tolist() == [3, 5]


@pytest.mark.parametrize("split", [{"user_id": "u", "item_ids": ["p1", "p2"]}, {"history": ["p1"], "target": "p2"}])
def test_a_split_that_was_not_prepared_is_refused(fitted, split):
    with pytest.raises(ValueError, match=f"columns {', '.join(split)}: give one of prepare_datasets"):
        FairDataCollator(fitted)([split])


@pytest.mark.parametrize(
    "example, named",
    [({"item_ids": [1], "example_id": 0}, "2 items"), ({"item_ids": [], "target_id": 3, "seen_ids": []}, "an item")],
)
def test_an_example_with_too_few_items_is_named(fitted, example, named):
    with pytest.raises(ValueError, match=named):
        FairDataCollator(fitted)([example])
