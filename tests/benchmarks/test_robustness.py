"""What is measured of noise means what it says, and is written for all checkpoints with the same users."""

import json

import numpy as np
import pytest
import torch

from benchmarks import records, robustness


def test_of_rows():
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    maps = torch.rand(2, 3, 4, 4).tril() * mask[:, None, None]
    rows = robustness.last_rows(maps, mask)
    assert torch.equal(rows[0], maps[0, :, 2]) and torch.equal(rows[1], maps[1, :, 1])
    even = mask[:, None].expand(-1, 3, -1) / mask.sum(1)[:, None, None]
    torch.testing.assert_close(robustness.entropy(even, mask), torch.ones(2, 3))
    torch.testing.assert_close(robustness.shares(-even, mask), mask[:, None].expand(-1, 3, -1).float())
    assert (robustness.entropy(rows, mask) <= 1).all()
    assert robustness.relative_distance(rows, 2 * rows) == pytest.approx(1 / 3)
    assert (robustness.relative_distance(even, -even) == 1).all() and (
        robustness.relative_distance(even, even) == 0
    ).all()


def test_checkpoints_are_measured_and_shown(make_model, fitted, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    sequences = [rng.permutation(40)[: rng.integers(5, 20)] for _ in range(70)]
    lines = [" ".join([str(user), *(f"p{item}" for item in items)]) for user, items in enumerate(sequences)]
    (tmp_path / "sequences.txt").write_text("\n".join(lines) + "\n")
    folders = []
    for kind in ("focused", "standard"):
        folders.append(str(tmp_path / kind))
        make_model(attention_type=kind).save_pretrained(folders[-1])
        fitted.save_pretrained(folders[-1])
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results" / "here")
    monkeypatch.setattr(robustness, "RESULTS", tmp_path / "results" / "here")
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(
        "sys.argv", ["robustness", "--data", str(tmp_path), "--checkpoints", *folders, "--users", "66"]
    )
    robustness.main()
    written = json.loads((tmp_path / "results" / "here" / "robustness.json").read_text())
    assert str(tmp_path) not in json.dumps(written), "no path of the machine"
    values = {figure["figure"]: figure["value"] for figure in written}
    assert values["standard_injected_branch1_layer2"] == values["standard_injected_used_layer2"]
    assert values["focused_injected_branch1_layer2"] != values["focused_injected_used_layer2"]
    assert "standard_injected_branch2_layer1" not in values
    for kind in ("focused", "standard"):
        assert 0 < values[f"{kind}_state_distance"] < 1 and 0 < values[f"{kind}_map_distance_layer1"] < 1
        assert 0 <= values[f"{kind}_recall@10_noisy"] <= 1 and 0 < values[f"{kind}_entropy_used_layer1"] < 1
    shown = capsys.readouterr().out
    assert f"| {values['focused_state_distance']:.3f} | {values['standard_state_distance']:.3f} |" in shown


def test_noise_leaves_item_vectors_alone(make_model, fitted, tmp_path):
    make_model(prediction="items", num_known_items=39, item_residuals=True).save_pretrained(tmp_path)
    fitted.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has vectors of items"):
        robustness.measure(str(tmp_path), [["p1", "p2", "p3"]])
