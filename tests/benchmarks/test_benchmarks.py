"""The benchmarks' naive forms compute what ours do, and docs/measured.md shows what was recorded."""

import json
import sys

import numpy as np
import pytest
import torch

from benchmarks import decode_speed, records, report, scale, train_speed
from benchmarks.catalogues import noisy_codes, query_logits
from modeling_fair import FairConfig, FairForGenerativeRecommendation, ItemIndex

CPU = torch.device("cpu")
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}


@pytest.fixture
def data(tmp_path) -> str:
    rng = np.random.default_rng(0)
    users = (rng.permutation(30)[: rng.integers(5, 12)] + 1 for _ in range(12))
    lines = [" ".join(map(str, [user, *items])) for user, items in enumerate(users)]
    (tmp_path / "sequences.txt").write_text("\n".join(lines) + "\n")
    return str(tmp_path)


def test_the_naive_step_of_fair_has_our_loss(data):
    tokenizer, batches = train_speed.read_batches(data, 2, 6)
    ours = train_speed.Ours(FairConfig(**SMALL), tokenizer, CPU, bf16=False)
    copy = FairForGenerativeRecommendation(FairConfig(**SMALL))
    copy.load_state_dict(ours.model.state_dict())
    naive = train_speed.Naive(copy, lambda batch: train_speed.padded_fair_loss(copy, batch), CPU)
    for batch in batches:
        assert ours.step(batch) == pytest.approx(naive.step(batch), rel=1e-4)


def test_the_naive_model_of_rpg_trains_on_the_same_targets(data):
    tokenizer, (batch,) = train_speed.read_batches(data, 1, 6)
    config = FairConfig(**SMALL, attention_type="standard", cosine_temperature=1.0)
    model = train_speed.PaddedRPG(config, {})
    naive = train_speed.Naive(model, model, CPU)
    ours = train_speed.Ours(config, tokenizer, CPU, nrt_weight=0.0, mim_weight=0.0, bf16=False)
    for form in (ours, naive):
        losses = [form.step(batch) for _ in range(3)]
        assert losses[0] == pytest.approx(np.log(256), abs=0.2) and losses[2] < losses[0]
    # An item read, and a target: two layers and 32 heads, backward included.
    layer, heads = 4 * 32**2 + 3 * 32 * 48, 32 * (32**2 + 32 * 256)
    assert train_speed.useful_operations(config, batch, views=1) == 6 * int(batch["attention_mask"].sum()) * (
        2 * layer + heads
    )


def test_gathering_finds_what_the_index_finds_and_the_graph_some_of_it():
    torch.manual_seed(0)
    codes = torch.randint(0, 256, (500, 32), dtype=torch.uint8)
    logits = 3 * torch.randn(4, 32, 256)
    index = ItemIndex(codes)
    decode_speed.check_same(logits, codes, index)
    found, visited = decode_speed.DenseGraph(codes, torch.randn(32, 256, 8)).search(logits.log_softmax(dim=-1))
    assert (visited <= 500).all() and (visited > 100).all()
    hits = (found[:, :, None] == index.search(logits).item_ids[:, None]).any(dim=2).float().mean()
    assert hits > 0.5


def test_a_catalogue_with_noise_and_its_curve(fitted, make_model, embeddings):
    vectors = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    codes = noisy_codes(fitted, vectors, 100, noise=0.1)
    assert codes.shape == (100, 4) and codes.dtype == np.uint8
    histories = [[f"p{item}" for item in range(start, start + 5)] for start in range(20)]
    logits = query_logits(make_model(), fitted, histories)
    points, costs = scale.curve(codes, logits, logits[:5], CPU)
    assert points[0.2]["recall"] >= points[0.002]["recall"] and points[0.2]["visited"] <= 0.2
    assert costs["lists"] > 1


def test_a_record_holds_what_it_was_measured_with(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path / "benchmarks" / "results")
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.setattr(sys, "argv", ["/somewhere/benchmarks/train_speed.py", "--data", "/somewhere/beauty"])
    path = records.record("x", [{"figure": "speed", "value": 2.0, "unit": "x"}], {"batch": 3}, CPU)
    (entry,) = json.loads(path.read_text())
    assert entry["command"] == "python -m benchmarks.train_speed --data beauty"
    assert {"figure", "value", "unit", "commit", "versions", "machine", "settings"} <= set(entry)


def test_the_readme_shows_the_records():
    text = records.MEASURED.read_text(encoding="utf-8")
    for name, shown in report.sections().items():
        begin, end = f"<!-- {name}: made by benchmarks/report.py -->\n", f"<!-- /{name} -->\n"
        assert text.split(begin)[1].split(end)[0] == shown, "run python -m benchmarks.report"


@pytest.mark.parametrize(
    "name", ["train_speed", "decode_speed", "scale", "streaming", "robustness", "new_items", "last_items"]
)
def test_every_benchmark_says_how_it_is_run(name, capsys, monkeypatch):
    module = __import__(f"benchmarks.{name}", fromlist=[name])
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit):
        module.main()
    assert f"python -m benchmarks.{name}" in capsys.readouterr().out
