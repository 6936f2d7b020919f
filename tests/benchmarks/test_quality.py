"""The harness trains every kind of model on small data, writes whole records, and its tables come from them alone."""

import gzip
import json

import numpy as np
import pytest

from benchmarks import quality, quality_report
from benchmarks.quality_plots import draw
from benchmarks.quality_report import BEGIN, END, read_records, runs_by_model, short_table, summary, tables
from benchmarks.records import MEASURED, README, RESULTS
from modeling_fair import cooccurrence_fair

SMALL = "--hidden_size 16 --intermediate_size 16 --num_train_epochs 1 --use_cpu true"


@pytest.fixture
def data(tmp_path, monkeypatch) -> str:
    """30 items and 12 users, with vectors, in the folder and the form of the real data sets."""
    folder = tmp_path / "data" / "small"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    users = (rng.permutation(30)[: rng.integers(5, 12)] + 1 for _ in range(12))
    lines = [" ".join(map(str, [user, *items])) for user, items in enumerate(users)]
    (folder / "sequences.txt").write_text("\n".join(lines) + "\n")
    items = [json.dumps({"id": item, "title": f"thing {item}"}) for item in range(1, 31)]
    with gzip.open(folder / "items.jsonl.gz", "wt") as file:
        file.write("\n".join(items) + "\n")
    np.save(folder / "minilm_l6.float16.npy", rng.normal(size=(30, 16)).astype(np.float16))
    monkeypatch.setattr(quality, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(quality_report, "RECORDS", tmp_path / "records")
    return str(tmp_path / "data")


def run(monkeypatch, data, *models):
    for model in models:
        arguments = ["--models", model, "--dataset", "small", "--data", data, "--work", f"{data}/work"]
        monkeypatch.setattr("sys.argv", ["quality", *arguments, *(SMALL.split() if model not in quality.OWN else [])])
        quality.main()


def test_records_of_every_kind_of_model(data, monkeypatch, tmp_path):
    monkeypatch.setattr(quality, "COUNTING", {"window": (2, 8), "decay": (0.5, 0.9)})
    monkeypatch.setattr(quality, "SASREC", {"hidden_size": 8, "num_heads": 2, "intermediate_size": 8})
    monkeypatch.setattr(quality, "SASREC_EPOCHS", 2)
    monkeypatch.setattr(quality, "TIGER_EPOCHS", 1)
    monkeypatch.setattr(cooccurrence_fair, "PRIOR_USERS", 5)
    run(monkeypatch, data, "popularity", "counting", "prior", "sasrec", "tiger")
    run(monkeypatch, data, "fair_best", "fair_best_permuted_codes", "rpg", "fair_paper_no_nrt")
    records = {record["model"]: record for record in read_records()}
    assert len(records) == 9
    for model, record in records.items():
        for split in ("validation", "test"):
            assert 0 <= record["results"][split]["ndcg@10"] <= record["results"][split]["recall@10"] <= 1
        assert record["seconds"] > 0 and record["peak_memory_mib"] > 0 and record["versions"]["torch"]
        assert str(tmp_path) not in json.dumps(record), "no path of the machine"
        alone = ("popularity", "counting", "prior", "fair_paper_no_nrt")
        assert ("results_with_prior" in record) == (model not in alone)
        of_some = np.array([one["validation"]["recall@10"] * 5 for one in record.get("priors", [])])
        assert np.allclose(of_some, of_some.round()) and record.get("prior_users", 5) == 5
    best, permuted = records["fair_best"], records["fair_best_permuted_codes"]
    assert [group["users"] for group in best["by_popularity"]] == [12] + [2, 2] + [1] * 8
    assert best["config"]["item_residuals"] and best["id_quality"] != permuted["id_quality"]

    figures = {figure["figure"]: figure["value"] for figure in summary(runs_by_model(list(records.values())))}
    assert figures["small_removed_ndcg@10"] == best["results_with_prior"]["test"]["ndcg@10_seen_removed"]
    assert figures["rpg_fused_small_kept_recall@10"] == records["rpg"]["results_with_prior"]["test"]["recall@10"]
    assert figures["counting_small_kept_recall@10"] == records["counting"]["results"]["test"]["recall@10"]
    shown = tables(list(records.values()))
    assert "FAIR best, without its prior" in shown and "tenth 10" in shown and "--models rpg --seeds 0" in shown

    assert len(records["sasrec"]["validation_ndcg@10"]) == 2
    draw(list(records.values()), "small", quality_report.NAMES, tmp_path / "small.svg")
    drawn = (tmp_path / "small.svg").read_text()
    assert "SASRec" in drawn and "RPG" in drawn and "co-occurrence counting" not in drawn, "it has no curve"
    draw(list(records.values()), "small", quality_report.NAMES, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == drawn

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()}
    run(monkeypatch, data, "popularity", "fair_best")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()}, "has its record"


def test_the_readme_and_the_summary_show_what_was_recorded():
    records = read_records()
    text = MEASURED.read_text(encoding="utf-8")
    assert text.split(BEGIN)[1].split(END)[0] == tables(records), "run python -m benchmarks.quality_report"
    short = README.read_text(encoding="utf-8").split(quality_report.SHORT_BEGIN)[1].split(quality_report.SHORT_END)[0]
    assert short == short_table(records)
    saved = json.loads((RESULTS / "quality.json").read_text(encoding="utf-8"))
    assert saved == json.loads(json.dumps(summary(runs_by_model(records))))
