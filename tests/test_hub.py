"""A checkpoint pushed to the Hub in one call is whole: it loads from there with transformers alone, and natively."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from modeling_fair.model_card_fair import model_card
from tests.hub import running_hub
from tests.test_readme import blocks
from tests.test_run_training import arguments

ROOT = Path(__file__).parents[1]


@pytest.fixture
def hub(tmp_path):
    with running_hub() as hub:
        yield hub


def python(code: str, hub, tmp_path, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run code in a process of its own, which knows no Hub but the stand-in."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_TOKEN": "hf_stand_in",
        "PYTHONPATH": str(cwd),
    }
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=cwd)


LOAD = """
import json, sys
from transformers import pipeline
recommender = pipeline("recommendation", model="shop/fair", trust_remote_code=True)
print(json.dumps([recommender({"history": ["p1", "p2"]}, top_k=3), recommender({"history": []}, top_k=2)]))
print([name for name in ("modeling_fair", "tokenization_fair") if name in sys.modules])
"""


def test_a_run_is_pushed_whole_and_loads_anywhere(hub, tmp_path, shop):
    """`--push_to_hub`: one commit at the end holds all; what recommends there is what was trained here."""
    output = Path(shop["out"])
    flags = arguments(shop, "--push_to_hub", "true", "--hub_model_id", "shop/fair")
    run = python(f"import run_training; run_training.main({flags})", hub, tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    files = hub.repositories["shop/fair"]
    assert {"config.json", "model.safetensors", "tokenizer_config.json", "item_codes.safetensors"} <= set(files)
    assert {"modeling_fair.py", "tokenization_fair.py", "README.md", "training.png", "results.json"} <= set(files)
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl", ".pickle"))], "nothing pickled"
    assert not [name for name in files if name.startswith("checkpoint-")]

    card = ModelCard(files["README.md"].decode())
    results = json.loads((output / "results.json").read_text())["results"]["test"]
    shown = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert shown["recall@10, seen items kept"] == results["recall@10"]
    assert shown["ndcg@10, seen items removed"] == results["ndcg@10_seen_removed"]
    assert 'model="shop/fair"' in card.text and str(tmp_path) not in card.content

    elsewhere = tmp_path / "elsewhere"  # where this package is not
    elsewhere.mkdir()
    remote = python(LOAD, hub, tmp_path, cwd=elsewhere)
    assert remote.returncode == 0, remote.stderr[-3000:]
    hub.repositories["me/shop"] = files
    (snippet,) = [text for mark, _, text in blocks((ROOT / "README.md").read_text()) if mark == "hub"]
    shown = python(f"{snippet}\nassert len(recommender({{'history': ['p1']}})) == 10", hub, tmp_path, cwd=elsewhere)
    assert shown.returncode == 0, shown.stderr[-3000:]
    native = python(LOAD.replace("import json", "import modeling_fair, json"), hub, tmp_path)
    assert native.returncode == 0, native.stderr[-3000:]
    local = python(
        LOAD.replace("shop/fair", str(output)).replace("import json", "import modeling_fair, json"), hub, tmp_path
    )
    assert remote.stdout.splitlines()[0] == native.stdout.splitlines()[0] == local.stdout.splitlines()[0]
    assert "p1" not in [answer["item_id"] for answer in json.loads(remote.stdout.splitlines()[0])[0]]
    assert remote.stdout.splitlines()[1] == "[]"


def test_a_pipeline_is_pushed_in_one_call(hub, tmp_path, make_model, fitted):
    """With the index's partition and the model card of its folder; the copy recommends as the first does."""
    checkpoint = tmp_path / "checkpoint"
    make_model(codebook_fingerprint=fitted.codebook_fingerprint).save_pretrained(checkpoint)
    fitted.save_pretrained(checkpoint)
    model_card({}, "monday").save(checkpoint / "README.md")
    with open(checkpoint / "README.md", "a") as card:
        card.write("The shop's own words.\n")
    code = f"""
import json, modeling_fair, torch
from transformers import pipeline
from modeling_fair import ItemIndex, fit_partition
recommender = pipeline("recommendation", model={str(checkpoint)!r})
codes = recommender.tokenizer.item_codes
lists = fit_partition(codes, torch.randn(20, 4, 8), n_lists=4)
recommender.index = ItemIndex(codes, known_ids=recommender.tokenizer.known_ids, partition=lists)
print(recommender.push_to_hub("shop/fair"))
recommender.index.save_pretrained({str(checkpoint)!r})
"""
    pushed = python(code, hub, tmp_path)
    assert pushed.returncode == 0, pushed.stderr[-3000:]
    assert re.match(rf"{hub.url}/shop/fair/commit/", pushed.stdout)
    assert len(hub.commits) == 1
    files = hub.repositories["shop/fair"]
    card = files["README.md"].decode()
    assert "The shop's own words." in card and 'model="shop/fair"' in card and 'model="monday"' not in card
    assert "# fair\n" in card and "# monday\n" not in card
    assert {"model.safetensors", "item_codes.safetensors", "item_index.safetensors", "pipeline_fair.py"} <= set(files)
    remote = python(LOAD, hub, tmp_path, cwd=tmp_path)
    assert remote.returncode == 0, remote.stderr[-3000:]
    local = python(LOAD.replace("shop/fair", str(checkpoint)), hub, tmp_path, cwd=tmp_path)
    assert remote.stdout == local.stdout
