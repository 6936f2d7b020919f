import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig

from modeling_fair import FairConfig


def test_defaults_are_the_papers():
    config = FairConfig()
    assert (config.num_codebooks, config.codebook_size, config.hidden_size) == (32, 256, 512)
    assert (config.num_hidden_layers, config.max_position_embeddings) == (2, 50)


def test_save_equals_load(tmp_path):
    config = FairConfig(hidden_size=64, attention_norm="l1", codebook_fingerprint="abc")
    config.save_pretrained(tmp_path)
    for loaded in (FairConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is FairConfig
        ignored = {"transformers_version", "auto_map", "_name_or_path"}
        saved = {key: value for key, value in config.to_dict().items() if key not in ignored}
        assert {key: value for key, value in loaded.to_dict().items() if key not in ignored} == saved


def test_saved_file_names_the_pipeline_for_remote_code(tmp_path):
    FairConfig().save_pretrained(tmp_path)
    assert "pipeline_fair.RecommendationPipeline" in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize(
    "fields, named",
    [
        ({"hiden_size": 64}, "'hiden_size'"),
        ({"hidden_size": 30}, "num_attention_heads"),
        ({"attention_norm": "l2"}, "attention_norm"),
        ({"attention_type": "none"}, "attention_type"),
        ({"hidden_dropout": 1.0}, "hidden_dropout"),
        ({"num_codebooks": 0}, "num_codebooks"),
        ({"lambda2_init": -0.1}, "lambda2_init"),
        ({"cosine_temperature": float("nan")}, "cosine_temperature"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps"),
        ({"prior_similar_weight": -1.0}, "prior_similar_weight"),
        ({"prior_repeat": float("nan")}, "prior_repeat"),
        ({"hidden_act": "foo"}, "hidden_act"),
    ],
)
def test_bad_fields_are_named(fields, named):
    with pytest.raises(Exception, match=named):
        FairConfig(**fields)


def test_wrong_type_is_refused_at_start_and_when_set():
    with pytest.raises(StrictDataclassFieldValidationError, match="hidden_size"):
        FairConfig(hidden_size="wide")
    config = FairConfig()
    with pytest.raises(StrictDataclassFieldValidationError, match="num_codebooks"):
        config.num_codebooks = "many"
