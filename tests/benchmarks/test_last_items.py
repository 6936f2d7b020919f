"""A night trains on everything but the item that is asked for."""

import json
import shutil

import pytest

from benchmarks import last_items, records
from benchmarks.catalogues import read_histories
from run_training import main as run_training


def test_a_night_knows_all_but_the_last_item(data, small, tmp_path, monkeypatch, capsys):
    files = f"--sequences_file {data}/sequences.txt --items_file {data}/items.jsonl.gz"
    files += f" --item_embeddings {data}/minilm_l6.float16.npy --output_dir {tmp_path}/first"
    run_training(["configs/fair_best.yaml", *files.split(), *small, "--learning_rate", "1e-2", "--bf16", "false"])
    (tmp_path / "results").mkdir()
    for module in (records, last_items):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results" / "here")
    of = ["--data", data, "--checkpoint", f"{tmp_path}/first", "--work", f"{tmp_path}/work", "--use_cpu", "true"]
    monkeypatch.setattr("sys.argv", ["last_items", *of])
    last_items.main()
    night = json.loads((tmp_path / "work/first_night/results.json").read_text())
    histories = read_histories(data)
    assert night["results"] == {} and night["split"]["interactions"] == sum(len(items) - 1 for items in histories)
    written = json.loads((tmp_path / "results/here/last_items.json").read_text())
    assert str(tmp_path) not in json.dumps(written), "no path of the machine"
    values = {figure["figure"]: figure["value"] for figure in written}
    tested = json.loads((tmp_path / "first/results.json").read_text())["results"]["test"]
    for metric in ("recall@10", "ndcg@10"):
        assert values[f"last_items_kept_{metric}"] == pytest.approx(tested[f"{metric}_seen_removed"])
    assert "with the one before the last" in capsys.readouterr().out
    more = json.loads((tmp_path / "work/first_more/results.json").read_text())
    assert more["split"]["interactions"] == sum(map(len, histories)) and more["results"]["test"]
    shutil.copytree(tmp_path / "first", tmp_path / "elsewhere/first")
    monkeypatch.setattr("sys.argv", ["last_items", *of[:2], "--checkpoint", f"{tmp_path}/elsewhere/first", *of[4:]])
    with pytest.raises(ValueError, match="delete it, or give another --work"):
        last_items.main()
