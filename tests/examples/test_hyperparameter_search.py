"""The search runs, keeps its trials, and goes on where it stopped."""

import json

import pytest
import yaml

optuna = pytest.importorskip("optuna", reason="the search extra is not installed")

from examples.hyperparameter_search import main, read_space  # noqa: E402
from run_training import main as run_training  # noqa: E402


def arguments(folder, trials, space):
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(space))
    small = {"num_codebooks": 2, "codebook_size": 8, "hidden_size": 8, "intermediate_size": 8}
    flags = [part for name, value in small.items() for part in (f"--{name}", str(value))]
    data = ["--sequences_file", str(folder / "sequences.txt"), "--items_file", str(folder / "items.jsonl")]
    run = ["--output_dir", str(folder / "search"), "--text_encoder", "tfidf", "--max_steps", "1", "--use_cpu", "true"]
    return ["--space", str(path), "--trials", str(trials), *data, *run, *flags, "--report_to", "none"]


@pytest.fixture
def folder(tmp_path):
    lines = [" ".join(map(str, [user, *range(1 + user, 7 + user)])) for user in range(12)]
    (tmp_path / "sequences.txt").write_text("\n".join(lines) + "\n")
    items = [json.dumps({"id": item, "title": f"thing {item} of kind {item % 3}"}) for item in range(1, 20)]
    (tmp_path / "items.jsonl").write_text("\n".join(items) + "\n")
    return tmp_path


def test_a_search_goes_on_where_it_stopped(folder):
    space = {"learning_rate": {"log": [1e-4, 1e-2]}, "attention_type": {"choice": ["focused", "standard"]}}
    first = main(arguments(folder, 2, space))
    assert len(first["trials"]) == 2 and first["best"]["ndcg@10"] == max(t["ndcg@10"] for t in first["trials"])
    more = main(arguments(folder, 3, space))
    assert more["trials"][:2] == first["trials"] and len(more["trials"]) == 3
    rates = [trial["learning_rate"] for trial in more["trials"]]
    assert len(set(rates)) == 3 and all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert json.loads((folder / "search" / "search.json").read_text())["best"] == more["best"]
    assert main(arguments(folder, 3, space))["trials"] == more["trials"]
    with pytest.raises(ValueError, match="were made with metric_for_best_model ndcg@10 .now mrr.*--output_dir"):
        main([*arguments(folder, 4, space), "--metric_for_best_model", "mrr"])


def test_trials_that_diverge_are_left_out(folder):
    space = {"learning_rate": {"choice": [1e-3, 1e30]}}
    flags = ["--max_steps", "8", "--logging_steps", "1", "--warmup_steps", "0"]
    found = main([*arguments(folder, 4, space), *flags])
    assert {trial["learning_rate"] for trial in found["trials"]} == {1e-3}
    again = arguments(folder, 1, {"learning_rate": {"choice": [1e30]}})
    with pytest.raises(ValueError, match="Every trial diverged"):
        main([*again, *flags, "--output_dir", str(folder / "again")])


def test_values_that_no_model_takes(folder):
    with pytest.raises(ValueError, match="hidden_size is 9: give it a multiple"):
        main([*arguments(folder, 2, {"hidden_size": {"choice": [9]}})])
    with pytest.raises(ValueError, match="--trials is 0"):
        main(arguments(folder, 0, {"hidden_size": {"choice": [8]}}))


def test_a_trial_is_worth_its_best_epoch(folder, monkeypatch):
    """By the metric that chooses models."""
    of_epochs = iter([0.1, 0.4, 0.2] + [0.3, 0.1, 0.2])
    metrics = lambda *_: {"ndcg@10": 0.9, "mrr": next(of_epochs)}  # noqa: E731
    monkeypatch.setattr("modeling_fair.trainer_fair.FairTrainer._metrics_of", metrics)
    flags = ["--metric_for_best_model", "mrr", "--max_steps", "3", "--eval_strategy", "steps", "--eval_steps", "1"]
    found = main([*arguments(folder, 2, {"learning_rate": {"choice": [1e-3]}}), *flags])
    assert [trial["mrr"] for trial in found["trials"]] == [0.4, 0.3] and found["best"]["mrr"] == 0.4


def test_trials_start_as_a_run_does(folder, monkeypatch):
    started = []
    monkeypatch.setattr("run_training.start_at_centroids", lambda model, _: started.append(model))
    main([*arguments(folder, 2, {"hidden_size": {"choice": [16]}}), "--centroid_start", "true"])
    assert sum(model.config.hidden_size == 16 for model in started) >= 2


def test_a_search_needs_validation(folder):
    with pytest.raises(ValueError, match="leave --split none out"):
        main([*arguments(folder, 1, {"learning_rate": {"choice": [1e-3]}}), "--split", "none"])


def test_a_search_does_not_go_on_from_a_model(folder):
    with pytest.raises(ValueError, match="leave --model_name_or_path out"):
        space = {"learning_rate": {"choice": [1e-3]}}
        run_training([*arguments(folder, 1, space)[4:], "--output_dir", str(folder / "model")])
        main([*arguments(folder, 1, space), "--model_name_or_path", str(folder / "model")])


def test_fields_of_the_model_are_searched_too(folder):
    found = main(arguments(folder, 2, {"hidden_size": {"choice": [16]}, "lambda2_init": {"uniform": [0.1, 0.2]}}))
    assert all(trial["hidden_size"] == 16 for trial in found["trials"])


def test_spaces_that_cannot_be_searched_are_refused(folder):
    with pytest.raises(ValueError, match="learning_rat, which is neither"):
        main(arguments(folder, 1, {"learning_rat": {"log": [1e-4, 1e-2]}}))
    path = folder / "wrong.yaml"
    for wrong, named in (
        ("a: 3", "a is 3"),
        ("a: {log: [1, 2, 3]}", "3 bounds"),
        ("a: {near: [1]}", "near"),
        ("a: {log: [1e-2, 1e-4]}", "the lower one first"),
        ("a: {uniform: [low, high]}", "two numbers"),
        ("a: {log: [0, 1]}", "above 0"),
        ("", "names nothing to search"),
    ):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=named):
            read_space(str(path))


def test_numbers_without_a_point_are_numbers(folder):
    (folder / "space.yaml").write_text("learning_rate: {log: [1e-4, 1E-2]}\nweight_decay: {choice: [1e-3, none]}")
    assert read_space(str(folder / "space.yaml")) == {
        "learning_rate": {"log": [1e-4, 1e-2]},
        "weight_decay": {"choice": [1e-3, "none"]},
    }


@pytest.mark.parametrize(
    "space, named",
    [
        ({"num_hidden_layers": {"uniform": [1, 3]}}, "num_hidden_layers, a whole number"),
        ({"per_device_train_batch_size": {"log": [16, 64]}}, "per_device_train_batch_size, a whole number"),
        ({"num_codebooks": {"choice": [4, 8]}}, "num_codebooks, which the tokenizer settles"),
    ],
)
def test_fields_that_cannot_be_searched_so_are_named(folder, space, named):
    with pytest.raises(ValueError, match=named):
        main(arguments(folder, 1, space))


def test_a_metric_of_which_less_is_better_is_refused(folder):
    with pytest.raises(ValueError, match="more of --metric_for_best_model"):
        main([*arguments(folder, 1, {"weight_decay": {"choice": [0.1]}}), "--metric_for_best_model", "loss"])
