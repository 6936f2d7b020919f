"""Settings of a training that no training can have are refused, each in one sentence."""

import pytest

from modeling_fair import FairTrainingArguments


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0: give at least 1"),
        ({"per_device_eval_batch_size": 0}, "per_device_eval_batch_size is 0: give at least 1"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0: give at least 1"),
        ({"eval_chunk_items": 0}, "eval_chunk_items is 0: give at least 1"),
        ({"max_steps": 0}, "max_steps is 0 or"),
        ({"num_train_epochs": -1}, "num_train_epochs below 0"),
        ({"early_stopping_patience": 0}, "early_stopping_patience is 0: give at least 1"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0: give it a value of at least 0"),
        ({"nrt_weight": float("nan")}, "nrt_weight is nan: give it"),
        ({"mim_temperature": float("nan")}, "mim_temperature is nan: give it"),
        ({"mtp_weight": 0.0, "nrt_weight": 0.0, "mim_weight": 0.0}, "are all 0: give what is to be learned"),
        ({"item_remove_seen": True}, "are of the item loss: give it an item_weight"),
        ({"item_weight": 1.0, "item_negatives": 0}, "item_negatives is 0"),
    ],
)
def test_what_cannot_be_trained_with(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        FairTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings)
