"""A checkpoint is timed as it is served: with its prior, and without."""

import json

import pytest

from benchmarks import records, serving
from run_training import main as run_training


def test_a_checkpoint_is_timed_whole_and_without_its_prior(data, small, tmp_path, monkeypatch, capsys):
    files = f"--sequences_file {data}/sequences.txt --items_file {data}/items.jsonl.gz"
    files += f" --item_embeddings {data}/minilm_l6.float16.npy --output_dir {tmp_path}/model --prior_level 1"
    run_training(["configs/fair_best.yaml", *files.split(), *small, "--bf16", "false"])
    monkeypatch.setattr(records, "RESULTS", tmp_path / "benchmarks/results")
    (tmp_path / "benchmarks").mkdir()
    of = ["--data", data, "--checkpoint", f"{tmp_path}/model", "--users", "40"]
    monkeypatch.setattr("sys.argv", ["serving", *of])
    serving.main()
    written = json.loads((tmp_path / "benchmarks/results/serving.json").read_text())
    names = [figure["figure"] for figure in written]
    assert {"serving_one_user_p50_ms", "serving_ms_a_user", "serving_prior_ms_a_user"} < set(names)
    assert "serving_without_prior_ms_a_user" in names and all(figure["value"] >= 0 for figure in written)
    assert written[0]["settings"]["users"] == 40 and written[0]["settings"]["prior_size"] > 0
    assert str(tmp_path) not in json.dumps(written) and "serving_ms_a_user" in capsys.readouterr().out


def test_a_checkpoint_without_a_prior_is_refused(data, small, tmp_path, monkeypatch):
    files = f"--sequences_file {data}/sequences.txt --items_file {data}/items.jsonl.gz"
    files += f" --item_embeddings {data}/minilm_l6.float16.npy --output_dir {tmp_path}/model --max_steps 1"
    flags = [*files.split(), *small, "--cooccurrence_prior", "false", "--bf16", "false"]
    run_training(["configs/fair_best.yaml", *flags])
    monkeypatch.setattr("sys.argv", ["serving", "--data", data, "--checkpoint", f"{tmp_path}/model"])
    with pytest.raises(SystemExit, match="has no prior"):
        serving.main()
