"""The modules load from a path alone, equal torchmetrics and this package's own metrics, and refuse bad input."""

import doctest
import os
import shutil
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.retrieval import (
    retrieval_normalized_dcg,
    retrieval_recall,
    retrieval_reciprocal_rank,
)

from modeling_fair.metrics_fair import evaluate_ranks, rank_targets

ROOT = Path(__file__).parents[2]
NAMES = ("recall_at_k", "ndcg_at_k", "mrr", "coverage_at_k")
RECALL, NDCG, MRR, COVERAGE = (evaluate.load(str(ROOT / f"metrics/{name}.py"), keep_in_memory=True) for name in NAMES)
ITEMS = 12
USER = st.tuples(
    st.permutations(range(ITEMS)),
    st.integers(0, ITEMS),  # length of the list
    st.sets(st.integers(0, ITEMS - 1), min_size=1),
)


def mean_of_torchmetrics(metric, predictions, references, k) -> float:
    """Items that a list lacks come behind all others; what no user finds relevant fills the list up."""
    values = []
    for ranked, relevant in zip(predictions, references, strict=True):
        order = [*ranked, *[None] * ITEMS, *sorted(set(range(ITEMS)) - set(ranked))]
        target = torch.tensor([item in relevant for item in order])
        values.append(metric(1 / (1 + torch.arange(len(order))), target, top_k=k).item())
    return float(np.mean(values))


@settings(max_examples=100, deadline=None)
@given(users=st.lists(USER, min_size=1, max_size=5), k=st.integers(1, ITEMS), as_text=st.booleans())
def test_lists_equal_torchmetrics(users, k, as_text):
    predictions = [order[:length] for order, length, _ in users]
    references = [list(relevant) for _, _, relevant in users]
    wanted = {
        f"recall@{k}": mean_of_torchmetrics(retrieval_recall, predictions, references, k),
        f"ndcg@{k}": mean_of_torchmetrics(retrieval_normalized_dcg, predictions, references, k),
        f"mrr@{k}": mean_of_torchmetrics(retrieval_reciprocal_rank, predictions, references, k),
        "mrr": mean_of_torchmetrics(retrieval_reciprocal_rank, predictions, references, ITEMS),
    }
    name = str if as_text else int
    lists = {
        "predictions": [list(map(name, ranked)) for ranked in predictions],
        "references": [list(map(name, relevant)) for relevant in references],
    }
    found = {**RECALL.compute(**lists, k=k), **NDCG.compute(**lists, k=k), **MRR.compute(**lists, k=k)}
    assert {**found, **MRR.compute(**lists)} == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_one_target_a_user_equals_the_metrics_of_evaluation(seed):
    generator = torch.Generator().manual_seed(seed)
    users, catalogue = 30, 50
    scores = torch.randn(users, catalogue, generator=generator)
    targets = torch.randint(0, catalogue, (users,), generator=generator)
    seen = torch.randint(-1, catalogue, (users, 4), generator=generator)
    ranked = rank_targets([(0, scores)], scores[torch.arange(users), targets], targets, seen, top_k=catalogue)
    wanted = evaluate_ranks({name: values.numpy() for name, values in ranked.items()}, catalogue)
    references = targets[:, None].tolist()
    for suffix in ("", "_seen_removed"):
        predictions = [[row for row in rows if row >= 0] for rows in ranked[f"top{suffix}"].tolist()]
        found = MRR.compute(predictions=predictions, references=references)
        for k in (5, 10, 20):
            found.update(RECALL.compute(predictions=predictions, references=references, k=k))
            found.update(NDCG.compute(predictions=predictions, references=references, k=k))
            found.update(COVERAGE.compute(predictions=predictions, catalogue_size=catalogue, k=k))
        assert found == pytest.approx({name: wanted[name + suffix] for name in found})


@settings(max_examples=50, deadline=None)
@given(users=st.lists(USER, min_size=1, max_size=5), k=st.integers(1, ITEMS))
def test_coverage_counts_each_item_shown_once(users, k):
    predictions = [list(order[:length]) for order, length, _ in users]
    shown = [any(item in ranked[:k] for ranked in predictions) for item in range(ITEMS)]
    found = COVERAGE.compute(predictions=predictions, k=k, catalogue_size=ITEMS)
    assert found == {f"coverage@{k}": sum(shown) / ITEMS}


@pytest.mark.parametrize("metric", [RECALL, NDCG, MRR, COVERAGE], ids=NAMES)
def test_the_example_of_the_documentation_holds(metric):
    local = {"load": lambda path: evaluate.load(str(ROOT / path), keep_in_memory=True)}
    names = {"evaluate": type("evaluate", (), local)}
    test = doctest.DocTestParser().get_doctest(metric.inputs_description, names, metric.name, None, None)
    assert len(test.examples) == 2 and doctest.DocTestRunner().run(test).failed == 0
    assert metric.citation.strip().startswith("@") and metric.description.strip()


def test_batches_add_up():
    for ranked, relevant in (([1, 2, 3], [3]), ([4, 5, 6], [6]), ([7], [8])):
        RECALL.add_batch(predictions=[ranked], references=[relevant])
    assert RECALL.compute(k=3) == {"recall@3": pytest.approx(2 / 3)}


def test_bad_input_is_refused():
    good = {"predictions": [["a", "b"], ["c"]], "references": [["a"], ["c"]]}
    for metric in (RECALL, NDCG, MRR):
        for k in (0, -1, 2.5, "3", True):
            with pytest.raises(ValueError, match="k is .*: give a whole number"):
                metric.compute(**good, k=k)
        with pytest.raises(ValueError, match=r"predictions\[1\] holds item 'c' twice"):
            metric.compute(**{**good, "predictions": [["a"], ["c", "d", "c"]]})
        with pytest.raises(ValueError, match=r"references\[0\] holds item 'a' twice"):
            metric.compute(**{**good, "references": [["a", "a"], ["c"]]})
        with pytest.raises(ValueError, match=r"references\[1\] is empty"):
            metric.compute(**{**good, "references": [["a"], []]})
        with pytest.raises(ValueError, match=r"predictions \(2\) and references \(1\)"):
            metric.compute(**{**good, "references": [["a"]]})
        with pytest.raises(ValueError, match="predictions holds no user"):
            metric.compute(predictions=[], references=[])
    with pytest.raises(ValueError, match=r"predictions\[0\] holds item 1 twice"):
        COVERAGE.compute(predictions=[[1, 1]], catalogue_size=3)
    with pytest.raises(ValueError, match="catalogue_size is 0"):
        COVERAGE.compute(predictions=[[1]], catalogue_size=0)
    with pytest.raises(ValueError, match="3 different items: catalogue_size is 2"):
        COVERAGE.compute(predictions=[[1, 2], [3]], catalogue_size=2)


def test_they_load_elsewhere_and_without_this_package(tmp_path):
    shutil.copytree(ROOT / "metrics", tmp_path / "metrics", ignore=shutil.ignore_patterns("__pycache__"))
    program = (
        "import evaluate, sys\n"
        "sys.modules.update(modeling_fair=None, tokenization_fair=None, data_fair=None)  # not installed\n"
        f"print(sorted(evaluate.load(f'metrics/{{name}}.py').name for name in {NAMES}))\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(sorted(NAMES)), done.stderr[-2000:]
