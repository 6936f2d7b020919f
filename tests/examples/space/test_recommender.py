import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recommender import CheckpointError, Recommender

SPACE = Path(__file__).parents[3] / "examples/space"


def test_search_finds_all_words_in_titles_and_ids(recommender):
    catalogue = recommender.tokenizer.catalogue
    word = catalogue.titles[7].split()[0]
    expected = [
        item_id
        for item_id, title in zip(catalogue.item_ids, catalogue.titles, strict=True)
        if word.lower() in f"{title} {item_id}".lower()
    ]
    assert recommender.search(word.upper(), 120) == (expected, False)
    assert recommender.search(f"p0007 {word}", 5) == (["p0007"], False)
    assert recommender.search("p00", 5) == ([f"p000{n}" for n in range(5)], True)
    assert recommender.search("p0007 nothing-like-it", 5) == ([], False)


def test_popular_items_come_by_their_counts(recommender):
    counts = dict(zip(recommender.item_ids, recommender.tokenizer.item_counts, strict=True))
    popular = recommender.popular(120)
    assert [counts[item_id] for item_id in popular] == sorted(counts.values(), reverse=True)
    assert recommender.popular(3) == popular[:3]


def test_examples_follow_recommendations(recommender):
    example = recommender.example(0, 5)
    assert example[0] == recommender.popular(1)[0] and len(set(example)) == 5
    assert example[-1] == recommender.recommend(example[:-1], True, 1)[0]["item_id"]
    assert recommender.example(1, 5) != example == recommender.example(100, 5)


def test_catalogues_with_and_without_titles(recommender, plain):
    assert recommender.has_titles and recommender.titles(["p0003"]) == [recommender.tokenizer.catalogue.titles[3]]
    untitled = Recommender.load(str(plain))
    assert not untitled.has_titles and untitled.titles(["p3"]) == ["p3"] and untitled.search("p39", 5)[0] == ["p39"]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda folder: shutil.rmtree(folder), "There is no folder or Hub repository"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "of type 'bert', not 'fair'"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "fair", "prediction": "words"}'),
            "could not be loaded: .*'words'.*newer version",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda folder: (folder / "catalogue.safetensors").unlink(), "could not be loaded: .*catalogue.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"torn"), "could not be loaded"),
    ],
)
def test_what_is_no_checkpoint_is_named_in_one_sentence(plain, tmp_path, change, message):
    folder = tmp_path / "checkpoint"
    shutil.copytree(plain, folder)
    change(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        Recommender.load(str(folder))
    assert "\n" not in str(caught.value)


def test_a_space_without_this_package_runs_the_checkpoints_code(shop, recommender, tmp_path):
    program = f"""
import sys, json
class Absent:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("modeling_fair", "tokenization_fair", "data_fair"):
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
from attention import attention_of_last_item
from recommender import Recommender
recommender = Recommender.load({str(shop)!r})
attention = attention_of_last_item(recommender.model, recommender.tokenizer, ["p0001", "p0002"])
answers = recommender.recommend(["p0001", "p0002"], True, 3)
print(json.dumps([answer["item_id"] for answer in answers] + list(attention.branches.shape)))
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SPACE), "HF_MODULES_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )
    assert run.returncode == 0, run.stderr
    expected = [answer["item_id"] for answer in recommender.recommend(["p0001", "p0002"], True, 3)]
    assert json.loads(run.stdout.strip().splitlines()[-1]) == [*expected, 2, 2, 2, 2]
