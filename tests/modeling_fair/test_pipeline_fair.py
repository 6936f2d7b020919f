import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from transformers import pipeline

from modeling_fair import (
    FairConfig,
    FairForGenerativeRecommendation,
    ItemIndex,
    RecommendationPipeline,
    fit_partition,
)
from modeling_fair.cooccurrence_fair import cooccurrence
from tokenization_fair import FairTokenizer


@pytest.fixture(scope="module", params=["codes", "items"])
def folder(request, config, fitted, tmp_path_factory):
    """A checkpoint folder of a model that was never trained but is far from uniform: one that predicts codes, and one
    that predicts items, with vectors of known items and a prior."""
    torch.manual_seed(0)
    fields = {"codebook_fingerprint": fitted.codebook_fingerprint}
    if request.param == "items":
        fields |= {"prediction": "items", "item_residuals": True, "num_known_items": fitted.num_known_items}
    model = FairForGenerativeRecommendation(FairConfig(**{**config.to_dict(), **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    if request.param == "items":
        with torch.no_grad():
            model.model.embeddings.residuals.weight[-1] = 0
        model.set_prior(cooccurrence([range(5), range(3, 20, 2), [9, 3]], fitted.num_known_items), 0.7)
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    fitted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recommender(folder):
    return pipeline("recommendation", model=str(folder))


def test_one_request_gives_named_items(recommender, items):
    answer = recommender({"history": ["p1", "p2"]}, top_k=3)
    assert len(answer) == 3
    assert [set(entry) for entry in answer] == [{"item_id", "score", "title"}] * 3
    assert answer[0]["title"] == items[int(answer[0]["item_id"][1:])]["title"]
    scores = [entry["score"] for entry in answer]
    assert scores == sorted(scores, reverse=True)
    assert recommender.model.config.prediction == "items" or max(scores) < 0
    assert not {"p1", "p2"} & {entry["item_id"] for entry in answer}


def test_answers_are_those_of_the_model(recommender, fitted):
    batch = fitted([["p1", "p2"]], return_tensors="pt")
    output = recommender.model.recommend(
        **batch, index=ItemIndex(fitted.item_codes, known_ids=fitted.known_ids), top_k=5
    )
    answer = recommender({"history": ["p1", "p2"]}, top_k=5)
    assert [entry["item_id"] for entry in answer] == fitted.convert_ids_to_tokens(output.item_ids[0].tolist())
    assert [entry["score"] for entry in answer] == output.scores[0].tolist()


def test_many_requests_answer_as_each_alone(recommender):
    requests = [{"history": [f"p{i}" for i in range(n)]} for n in (1, 7, 0, 3)]
    together = recommender(requests, top_k=4, batch_size=3)
    alone = [recommender(request, top_k=4) for request in requests]
    for of_batch, single in zip(together, alone, strict=True):
        assert [entry["item_id"] for entry in of_batch] == [entry["item_id"] for entry in single]
        np.testing.assert_allclose(
            [entry["score"] for entry in of_batch], [entry["score"] for entry in single], rtol=1e-5
        )
    assert recommender([], top_k=4) == []
    assert len(recommender(iter(requests))) == 4


def test_filters_of_call_and_request(recommender):
    allow = ["p3", "p4", "p5"]
    history = {"history": ["p3"]}
    ids = lambda answer: {entry["item_id"] for entry in answer}  # noqa: E731
    assert ids(recommender(history, allow=allow)) == {"p4", "p5"}
    assert ids(recommender(history, allow=allow, remove_seen=False)) == {"p3", "p4", "p5"}
    assert ids(recommender(history, allow=allow, exclude=["p4"])) == {"p5"}
    answers = recommender([{**history, "allow": ["p9"]}, history, {**history, "top_k": 1}], exclude=["p0"])
    assert ids(answers[0]) == {"p9"}
    assert len(answers[1]) == 10 and len(answers[2]) == 1
    assert "p0" not in ids(recommender(history, top_k=40, exclude=["p0"]))


def test_seen_items_of_a_long_history_are_removed_beyond_what_the_model_reads(recommender):
    history = [f"p{i}" for i in range(30)]
    answer = recommender({"history": history}, top_k=40)
    assert len(answer) == 10 and not set(history) & {entry["item_id"] for entry in answer}


def test_an_empty_history_gets_the_most_popular_items(recommender):
    with pytest.warns(UserWarning, match="'unknown'"):
        answers = recommender([{"history": []}, {"history": ["unknown"]}], top_k=3, exclude=["p39"])
    for answer in answers:
        assert [entry["item_id"] for entry in answer] == ["p38", "p37", "p36"]
        assert answer[0]["score"] == pytest.approx(np.log(38.5 / (sum(range(40)) + 20)))


def test_model_recommend_takes_the_tokenizers_output_as_it_is(recommender, fitted):
    empty = recommender.model.recommend(
        **fitted([[]], return_tensors="pt"), index=ItemIndex(fitted.item_codes, known_ids=fitted.known_ids), top_k=2
    )
    assert empty.item_ids.tolist() == [[0, 1]]
    history = [[f"p{i}" for i in range(30)]]
    batch = {**fitted(history, return_tensors="pt"), "item_ids": fitted.rows_of(history)}
    output = recommender.model.recommend(
        **batch, index=ItemIndex(fitted.item_codes, known_ids=fitted.known_ids), top_k=20
    )
    assert set(output.item_ids[0].tolist()) == {-1, *range(30, 40)}
    with pytest.raises(ValueError, match="code 9"):
        index = ItemIndex(np.full((40, 4), 9), known_ids=fitted.known_ids)
        recommender.model.recommend(**fitted([["p1"]], return_tensors="pt"), index=index)


def test_unknown_ids_are_skipped_with_a_warning(recommender):
    """Each time, and a server that runs for months does not keep their names."""
    for _ in range(2):
        with pytest.warns(UserWarning, match="'gone for good'"):
            answer = recommender({"history": ["p1", "gone for good"]}, top_k=3)
    assert answer == recommender({"history": ["p1"]}, top_k=3)
    kept = (vars(module).get("__warningregistry__") for module in list(sys.modules.values()))
    assert "gone for good" not in str([registry for registry in kept if registry])


def test_requests_at_once_are_those_asked_for(folder, monkeypatch):
    batches = []
    forward = RecommendationPipeline._forward

    def counted(self, inputs, **options):
        batches.append(len(inputs["requests"]))
        return forward(self, inputs, **options)

    monkeypatch.setattr(RecommendationPipeline, "_forward", counted)
    requests = [{"history": ["p1"]}] * 7
    plain, of_three = (pipeline("recommendation", model=str(folder), **size) for size in ({}, {"batch_size": 3}))
    wanted = plain(requests)
    for answer in (of_three(requests), of_three(requests, batch_size=5)):
        assert [[entry["item_id"] for entry in of_one] for of_one in answer] == [
            [entry["item_id"] for entry in of_one] for of_one in wanted
        ]
    assert batches == [7, 3, 3, 1, 5, 2]


@pytest.mark.parametrize(
    "request_, options, named",
    [
        ("p1", {}, "A request is"),
        (["p1"], {}, "A request is"),
        ({"items": ["p1"]}, {}, "A request is"),
        ({"history": "p1"}, {}, "list of item ids"),
        ({"history": [1]}, {}, "strings"),
        ({"history": ["p1"], "topk": 3}, {}, "'topk'"),
        ({"history": ["p1"]}, {"exclude": ["nope"]}, "exclude.*'nope'"),
        ({"history": ["p1"], "allow": ["nope"]}, {}, "allow.*'nope'"),
        ({"history": ["p1"]}, {"top_k": 0}, "top_k is 0: give a whole number"),
        ({"history": ["p1"], "top_k": True}, {}, "top_k is True"),
        ({"history": ["p1"], "top_k": "3"}, {}, "top_k is '3'"),
        ({"history": ["p1"], "remove_seen": "no"}, {}, "remove_seen is 'no': give True or False"),
        ({"history": ["p1"], "exclude": 5}, {}, "exclude is 5: give a list of item ids"),
        ({"history": ["p1"]}, {"allow": "p1"}, "allow is 'p1': give a list"),
        ({"history": ["p1"], 3: 4, "topk": 1}, {}, "'topk', 3"),
        ({"history": ["p1"]}, {"batch_size": 1.5}, "batch_size is 1.5"),
    ],
)
def test_bad_requests_are_named(recommender, request_, options, named):
    with pytest.raises(ValueError, match=named):
        recommender(request_, **options)


@pytest.mark.parametrize("options", [{"top_k": 0}, {"exclude": "p1"}, {"allow": 3}, {"remove_seen": 1}])
def test_a_pipeline_is_not_made_with_bad_options(folder, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is "):
        pipeline("recommendation", model=str(folder), **options)


def test_more_items_than_there_are_cost_no_more(recommender):
    """A request for 10^12 items would else need terabytes."""
    answers = recommender([{"history": ["p1"], "top_k": 10**12}, {"history": [], "top_k": np.int64(2)}])
    assert [len(answer) for answer in answers] == [39, 2]


def test_a_tokenizer_of_another_fit_is_refused(recommender, items, embeddings):
    other = FairTokenizer.fit(items, embeddings=embeddings[::-1].copy() * 2 + 1, num_codebooks=4, codebook_size=8)
    with pytest.raises(ValueError, match="one checkpoint folder"):
        RecommendationPipeline(model=recommender.model, tokenizer=other)


def test_new_items_are_served_at_once(folder, embeddings):
    recommender = pipeline("recommendation", model=str(folder))
    recommender({"history": ["p1"]})
    index = recommender.index
    recommender({"history": ["p2"]})
    assert recommender.index is index, "it is built once"
    recommender.tokenizer.add_items([{"item_id": "new", "title": "fresh"}], embeddings[7:8])
    (entry,) = recommender({"history": ["p1", "new"]}, allow=["new"], remove_seen=False)
    assert entry["title"] == "fresh"
    recommender.tokenizer.remove_items(["p0"])
    assert len(recommender.index) == 40
    with pytest.raises(ValueError, match="41 items of other codes than the tokenizer's 40"):
        recommender.index = ItemIndex(np.zeros((41, 4), np.uint8))


def test_index_and_tokenizer_change_alike(folder):
    recommender = pipeline("recommendation", model=folder)
    codes = recommender.tokenizer.item_codes
    recommender.index = ItemIndex(codes, partition=fit_partition(codes, torch.randn(50, 4, 8), n_lists=5))
    before = recommender({"history": ["p1", "p2"]}, top_k=40, allow=[f"p{item}" for item in range(4, 40)])
    recommender.index.remove([3])
    with pytest.raises(ValueError, match="39 items of other codes than the tokenizer's 40: change both"):
        recommender({"history": ["p1", "p2"]})
    recommender.tokenizer.remove_items(["p3"])
    assert recommender.index.partition is not None, "it went through the change, too"
    after = recommender({"history": ["p1", "p2"]}, top_k=40, allow=[f"p{item}" for item in range(4, 40)])
    assert [(entry["item_id"], entry["title"]) for entry in after] == [
        (entry["item_id"], entry["title"]) for entry in before
    ]
    stale = ItemIndex(recommender.tokenizer.item_codes, known_ids=recommender.tokenizer.known_ids - 1)
    with pytest.raises(ValueError, match="numbers known items otherwise"):
        recommender.index = stale


def test_a_model_that_was_in_training_answers_without_dropout(folder):
    model = FairForGenerativeRecommendation.from_pretrained(folder).train()
    recommender = pipeline("recommendation", model=model, tokenizer=FairTokenizer.from_pretrained(folder))
    assert not recommender.model.training


def test_a_partition_in_the_folder_is_used_until_the_catalogue_changes(folder, tmp_path, embeddings):
    shutil.copytree(folder, tmp_path / "checkpoint")
    plain = pipeline("recommendation", model=str(tmp_path / "checkpoint"))
    assert plain.index.partition is None
    codes = plain.tokenizer.item_codes
    partition = fit_partition(codes, torch.randn(50, 4, 8), n_lists=5)
    ItemIndex(codes, partition=partition).save_pretrained(tmp_path / "checkpoint")
    approximate = pipeline("recommendation", model=str(tmp_path / "checkpoint"))
    assert approximate.index.backend == "ivf"
    (best,) = approximate({"history": ["p1", "p2"]}, top_k=1)
    assert best["item_id"] in {entry["item_id"] for entry in plain({"history": ["p1", "p2"]}, top_k=40)}
    approximate.tokenizer.add_items([{"item_id": "new", "title": "fresh"}], embeddings[7:8])
    with pytest.warns(UserWarning, match="searched exactly"):
        assert approximate.index.partition is None
    assert len(approximate.index) == 41

    approximate.tokenizer.save_pretrained(tmp_path / "checkpoint")
    stale = pipeline("recommendation", model=str(tmp_path / "checkpoint"))
    with pytest.warns(UserWarning, match="another catalogue"):
        assert stale.index.partition is None


@pytest.mark.parametrize("missing", ["faiss", "means"])
def test_a_partition_that_cannot_be_used_is_no_reason_to_fail(folder, tmp_path, monkeypatch, missing):
    shutil.copytree(folder, tmp_path / "checkpoint")
    request = {"history": ["p1", "p2"]}
    plain = pipeline("recommendation", model=str(tmp_path / "checkpoint"))
    codes = plain.tokenizer.item_codes
    index = ItemIndex(codes, partition=fit_partition(codes, torch.randn(50, 4, 8), n_lists=5))
    index.save_pretrained(tmp_path / "checkpoint")
    if missing == "faiss":
        monkeypatch.setitem(sys.modules, "faiss", None)
    else:
        path = tmp_path / "checkpoint" / "item_index.safetensors"
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys() if name != missing}  # noqa: SIM118
            save_file(tensors, path, metadata=file.metadata())
    with pytest.warns(UserWarning, match="searched exactly.*" + ("faiss" if missing == "faiss" else "lacks parts")):
        assert pipeline("recommendation", model=str(tmp_path / "checkpoint"))(request) == plain(request)


def test_the_folder_loads_without_this_package(folder, tmp_path):
    """In a fresh process that cannot import this project: remote code alone, no faiss, no sentence-transformers."""
    copy = tmp_path / "checkpoint"
    shutil.copytree(folder, copy)
    program = f"""
import sys, json
class Absent:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("modeling_fair", "tokenization_fair", "data_fair", "faiss", "sentence_transformers"):
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
from transformers import AutoConfig, AutoModel, AutoTokenizer, pipeline
recommender = pipeline("recommendation", model={str(copy)!r}, trust_remote_code=True)
print(json.dumps(recommender({{"history": ["p1", "p2"]}}, top_k=3)))
model = AutoModel.from_pretrained({str(copy)!r}, trust_remote_code=True)
model.save_pretrained({str(tmp_path / "again")!r})
AutoTokenizer.from_pretrained({str(copy)!r}, trust_remote_code=True).save_pretrained({str(tmp_path / "again")!r})
again = pipeline("recommendation", model={str(tmp_path / "again")!r}, trust_remote_code=True)
assert again({{"history": ["p1", "p2"]}}, top_k=3) == recommender({{"history": ["p1", "p2"]}}, top_k=3)
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": "", "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"},
    )
    assert run.returncode == 0, run.stderr
    expected = pipeline("recommendation", model=str(folder))({"history": ["p1", "p2"]}, top_k=3)
    answer = json.loads(run.stdout.strip().splitlines()[-1])
    assert [entry["item_id"] for entry in answer] == [entry["item_id"] for entry in expected]


def test_what_the_pipeline_was_made_with_holds_for_all_calls(folder):
    few = pipeline("recommendation", model=str(folder), top_k=2, exclude=(f"p{item}" for item in range(3)))
    for _ in range(2):
        answer = few({"history": ["p5"]})
        assert len(answer) == 2 and not {entry["item_id"] for entry in answer} & {"p0", "p1", "p2"}
    assert len(few({"history": ["p5"]}, top_k=4)) == 4
    with pytest.raises(ValueError, match="topk"):
        pipeline("recommendation", model=str(folder), topk=2)


def test_filters_may_be_generators_and_serve_all_requests(recommender):
    requests = [{"history": ["p1"]}, {"history": ["p2"]}]
    answers = recommender(requests, allow=(f"p{item}" for item in range(5)))
    assert [len(answer) for answer in answers] == [4, 4]


def test_states_asked_for_in_the_configuration_do_not_break_serving(folder):
    plain = pipeline("recommendation", model=str(folder))
    expected = plain({"history": ["p1", "p2"]})
    plain.model.config.output_hidden_states = True
    assert plain({"history": ["p1", "p2"]}) == expected
    plain.model.config.return_dict = False
    assert plain({"history": ["p1", "p2"]}) == expected


def test_a_tokenizer_that_keeps_more_than_the_model_reads_is_refused(recommender, folder):
    tokenizer = FairTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 50
    with pytest.raises(ValueError, match="model_max_length"):
        RecommendationPipeline(model=recommender.model, tokenizer=tokenizer)


def test_a_pipeline_is_saved_anywhere(recommender, folder, tmp_path):
    """In the folder that it came from too, and from one that is gone; a partition of other items is not left."""
    request = {"history": ["p1", "p2"]}
    wanted = recommender(request, top_k=3)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "README.md").write_text("words")
    (copy / "item_index.safetensors").write_bytes(b"of other items")
    with pytest.warns(UserWarning, match="searched exactly"):
        again = pipeline("recommendation", model=str(copy))
        assert again(request, top_k=3) == wanted
    again.save_pretrained(copy)
    assert (copy / "README.md").read_text() == "words" and not (copy / "item_index.safetensors").exists()
    shutil.rmtree(copy)
    again.save_pretrained(tmp_path / "last")
    assert pipeline("recommendation", model=str(tmp_path / "last"))(request, top_k=3) == wanted


@pytest.mark.parametrize(
    "name, change, error, words",
    [
        ("model.safetensors", None, SafetensorError, "copy has no model.safetensors: fetch the whole folder"),
        ("model.safetensors", b"half", SafetensorError, "copy are no whole safetensors file"),
        ("config.json", b'{"model_type": "fair"}', SafetensorError, "copy have other shapes than its config.json"),
        ("item_codes.safetensors", None, ValueError, "copy lacks item_codes.safetensors: fetch the whole folder"),
        ("item_codes.safetensors", b"half", ValueError, "item_codes.safetensors is not a whole safetensors file"),
        ("config.json", None, ValueError, "Unrecognized model in .*copy"),
        ("config.json", b'{"model_type": "fair", "newer": 1}', ValueError, "no field 'newer'.*newer version"),
        ("config.json", b'{"model_type": "fair", "attention_norm": "l3"}', ValueError, "'l3': choose.*newer version"),
        ("config.json", b'{"model_type": "fair", "hidden_size": "a"}', ValueError, "hidden_size.*newer version"),
        ("config.json", b'{"model_type": "bert", "hidden_size": 12}', ValueError, "holds a BertModel, no Fair"),
    ],
)
def test_a_folder_that_is_no_whole_checkpoint_is_named_in_one_sentence(folder, tmp_path, name, change, error, words):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / name).unlink()
    if change is not None:
        (copy / name).write_bytes(change)
    with pytest.raises(error, match=words) as raised:
        pipeline("recommendation", model=str(copy))
    assert "\n" not in str(raised.value).strip()
