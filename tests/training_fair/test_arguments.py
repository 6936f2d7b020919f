from pathlib import Path

import pytest

from modeling_fair import FairConfig
from training_fair.arguments import parse_arguments

ROOT = Path(__file__).parents[2]


def test_settings_from_a_file_are_overruled_by_flags(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text(f"dataset: demo\noutput_dir: {tmp_path}\nhidden_size: 64\nlearning_rate: 1.0e-3\nuse_cpu: true\n")
    data, _, model, args = parse_arguments([str(path), "--hidden_size", "96"])
    assert (data.dataset, model.hidden_size, args.learning_rate) == ("demo", 96, 1e-3)
    data, *_ = parse_arguments([str(path), "--sequences_file", "s.txt"])
    assert (data.dataset, data.sequences_file) == (None, "s.txt"), "a source given as a flag replaces the file's"
    path.write_text("hiden_size: 64\n")
    with pytest.raises(ValueError, match="settings.yaml sets hiden_size"):
        parse_arguments([str(path)])


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_file_parses(path):
    """Those of a data set are whole; recipes are given data."""
    data, tokenizer, model, args = parse_arguments([str(path)])
    recipe = path.stem in ("fair_best", "fair_paper", "rpg")
    assert (data.dataset is None) == recipe and args.output_dir
    FairConfig(**vars(model), num_known_items=int(model.item_residuals))
