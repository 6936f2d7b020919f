"""The model card tells what a run recorded and nothing else."""

import re

import pytest

from modeling_fair import FairConfig, FairTrainer, FairTrainingArguments
from modeling_fair.metrics_fair import CUTOFFS
from modeling_fair.model_card_fair import METRICS, model_card


def metrics(first: float) -> dict[str, float]:
    names = [f"{name}@{cutoff}" for name in ("recall", "ndcg", "coverage") for cutoff in CUTOFFS] + ["mrr"]
    both = [name + suffix for suffix in ("", "_seen_removed") for name in names]
    return {name: first + number / 1000 for number, name in enumerate(both)}


def record() -> dict:
    return {
        "results": {"validation": metrics(0.1), "test": metrics(0.2), "test_without_prior": metrics(0.05)},
        "split": {"users": 12345, "interactions": 67},
        "id_quality": {"catalogue": {"items": 40, "shared_ids": 2, "entropy_bits_mean": 2.98765}},
        "config": FairConfig().to_dict(),
        "arguments": {"interactions_file": "/home/someone/log.csv", "split": "leave_one_out", "learning_rate": 0.001},
        "versions": {"torch": "2.13.0", "faiss-cpu": None},
    }


def test_metrics_are_in_the_metadata_and_in_the_table():
    made = record()
    card = model_card(made, "shop/fair")
    results = {result.metric_name: result for result in card.data.eval_results}
    assert len(results) == 2 * len(METRICS)
    for metric in METRICS:
        assert results[f"{metric}, seen items kept"].metric_value == made["results"]["test"][metric]
        removed = results[f"{metric}, seen items removed"]
        assert removed.metric_value == made["results"]["test"][f"{metric}_seen_removed"]
        assert (removed.dataset_name, removed.dataset_split) == ("log.csv", "test")
    rows = [line for line in card.text.splitlines() if line.startswith(("| validation", "| test"))]
    assert len(rows) == 6 and f"{made['results']['test']['recall@5']:.4f}" in rows[2]
    assert "pickle" not in card.content and "/home/someone" not in card.content


def test_it_says_how_the_model_was_made_and_what_it_is_for():
    text = model_card(record(), "shop/fair").text
    assert 'pipeline("recommendation", model="shop/fair", trust_remote_code=True)' in text
    assert "12,345 users, 67 interactions" in text.lower()
    assert "| `hidden_size` | 512 |" in text and "| `learning_rate` | 0.001 |" in text
    assert "| shared ids | 2 |" in text and "| entropy bits mean | 2.988 |" in text
    assert "torch 2.13.0" in text and "faiss" not in text, "versions that are not known are not spoken of"
    assert "Intended use and limits" in text and "codes alone, which are made of their texts" in text
    own = record()
    own["config"]["item_residuals"] = True
    assert "new items have their codes alone" in model_card(own, "shop/fair").text.replace("\n", " ")


def test_settings_without_effect_are_not_shown():
    made = record()
    made["text_encoder"] = "/home/someone/encoder"
    made["arguments"] |= {"num_train_epochs": 12, "max_steps": -1, "nrt_weight": 0, "nrt_margin": 0.5}
    text = model_card(made, "fair").text
    assert "| `num_train_epochs` | 12 |" in text and "max_steps" not in text and "nrt_margin" not in text
    assert "| text encoder | encoder |" in text and "went on from" not in text
    made["arguments"] |= {"max_steps": 3, "nrt_weight": 1.0, "model_name_or_path": "/home/someone/monday"}
    text = model_card(made, "fair").text
    assert "num_train_epochs" not in text and "| `max_steps` | 3 |" in text and "| `nrt_margin` | 0.5 |" in text
    assert "went on from the weights and the tokenizer of `monday`" in text and "/home/someone" not in text


@pytest.mark.parametrize("missing", ["results", "split", "id_quality", "config", "arguments", "versions"])
def test_what_is_not_known_is_left_out(missing):
    made = record()
    del made[missing]
    card = model_card(made, "fair")
    assert "None" not in card.text and not re.search(r"\n\n\n", card.text)


def test_a_trainer_writes_it(make_model, fitted, tmp_path):
    trainer = FairTrainer(
        model=make_model(),
        args=FairTrainingArguments(
            output_dir=str(tmp_path),
            use_cpu=True,
            report_to="none",
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
        ),
        processing_class=fitted,
    )
    trainer.state.log_history = [{"eval_ndcg@10": 0.0, "epoch": 1}, {f"eval_{k}": v for k, v in metrics(0.3).items()}]
    trainer.create_model_card()
    text = (tmp_path / "README.md").read_text()
    assert f"# {tmp_path.name}" in text and f"{metrics(0.3)['recall@10']:.4f}" in text and "unnamed data" in text


def test_pushing_pickled_arguments_is_refused(tmp_path):
    with pytest.raises(ValueError, match="hub_strategy is 'every_save'"):
        FairTrainingArguments(output_dir=str(tmp_path), hub_strategy="every_save")
