import dataclasses
from pathlib import Path

import pytest

from modeling_fair import FairConfig
from training_fair.arguments import ModelArguments, parse_arguments

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


def test_a_recipe_and_a_data_set_are_two_files(tmp_path):
    data, tokenizer, model, args = parse_arguments([f"{ROOT}/configs/fair_best.yaml", f"{ROOT}/configs/toys.yaml"])
    assert data.dataset == "amazon_2014:Toys_and_Games" and "t5" in tokenizer.text_encoder
    assert model.prediction == "items" and args.item_weight == 1
    (tmp_path / "later.json").write_text('{"item_weight": 2, "dataset": "demo"}')
    files = [f"{ROOT}/configs/fair_best.yaml", str(tmp_path / "later.json")]
    data, *_, args = parse_arguments([*files, "--learning_rate", "1"])
    assert (data.dataset, args.item_weight, args.learning_rate) == ("demo", 2, 1)
    (tmp_path / "later.json").write_text('{"sequences_file": "s.txt"}')
    data, *_ = parse_arguments([f"{ROOT}/configs/demo.yaml", files[1]])
    assert (data.dataset, data.sequences_file) == (None, "s.txt"), "one source goes for another"
    for wrong, message in (("item_wait: 2", "sets item_wait"), ("split: global-time", "'global-time': choose one of")):
        (tmp_path / "later.json").write_text(wrong)
        with pytest.raises(ValueError, match=f"later.json.*{message}"):
            parse_arguments(files)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("hidden_size: wide", "hidden_size to 'wide': give a whole number"),
        ("hidden_size: 64.5", "hidden_size to 64.5: give a whole number"),
        ("learning_rate: [1, 2]", r"learning_rate to \[1, 2\]: give a number"),
        ("learning_rate:", "learning_rate to None: give a number"),
        ("dataset: [demo]", r"dataset to \['demo'\]: give one text"),
        ("text_encoder:", "text_encoder to None: give one text"),
        ("whiten: perhaps", "whiten to 'perhaps': give true or false"),
    ],
)
def test_settings_of_a_file_that_no_flag_takes(tmp_path, setting, message):
    path = tmp_path / "settings.yaml"
    path.write_text(setting)
    with pytest.raises(ValueError, match=f"settings.yaml sets {message}"):
        parse_arguments([str(path)])
    right = "learning_rate: 1\nprior_level:\nwhiten: false\nbf16: 'yes'\ndataset: 5\ncache_dir:\n"
    path.write_text(right + "lr_scheduler_kwargs: {num_cycles: 2}")
    data, tokenizer, model, args = parse_arguments([str(path)])
    assert (args.learning_rate, model.prior_level, tokenizer.whiten, args.bf16) == (1.0, None, False, True)
    assert args.lr_scheduler_kwargs == {"num_cycles": 2} and data.dataset == "5"


def test_help_says_what_each_field_of_the_model_is(capsys):
    fields = {field.name: field.metadata["help"] for field in dataclasses.fields(ModelArguments)}
    assert not [name for name, text in fields.items() if len(text) < 10]
    assert "rms_output" in fields["attention_norm"] and fields["lambda2_init"].startswith(
        "where the two weights start"
    )
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    assert "or from YAML" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_file_parses(path):
    """Recipes are given data, data sets a recipe; the demo is whole."""
    data, tokenizer, model, args = parse_arguments([str(path)])
    recipe = path.stem in ("fair_best", "fair_paper", "rpg")
    assert (data.dataset is None) == recipe and args.output_dir
    FairConfig(**vars(model), num_known_items=int(model.item_residuals))


@pytest.mark.parametrize("content", ["title", '[{"item_id": "1"}]'])
def test_a_file_of_anything_but_settings_is_refused(tmp_path, content):
    (tmp_path / "items.json").write_text(content)
    with pytest.raises(ValueError, match="items.json holds no settings"):
        parse_arguments([str(tmp_path / "items.json")])
