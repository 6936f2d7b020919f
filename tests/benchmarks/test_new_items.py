"""New items are in nothing that is trained on, and are counted where they are found."""

import json

import numpy as np
import pytest

from benchmarks import new_items, records


def test_nothing_that_is_trained_on_knows_a_new_item(data, tmp_path):
    split = new_items.Split(data, 0.25)
    assert len(split.new) == 15 and len(split.questions()) > 5
    assert str(tmp_path / "known/sequences.txt") in split.write_known(tmp_path / "known")
    lines = (tmp_path / "known/sequences.txt").read_text().splitlines()
    assert not split.new & {item for line in lines for item in line.split()[1:]}
    items = [json.loads(line) for line in (tmp_path / "known/items.jsonl").read_text().splitlines()]
    assert {str(item["id"]) for item in items} == set(split.ids) - split.new
    vectors = np.load(tmp_path / "known/items.npy")
    for item, vector in zip(items, vectors, strict=True):
        assert np.array_equal(vector, split.vectors[item["id"] - 1])
    for new in (True, False):
        for history, target in split.questions(new):
            assert (target in split.new) == new and [*history, target] in split.users
    assert len(split.questions()) + len(split.questions(new=False)) == 80


def test_models_and_texts_are_asked_for_new_items(data, small, tmp_path, monkeypatch, capsys):
    (tmp_path / "results").mkdir()
    for module in (records, new_items):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results" / "here")
    work, flags = str(tmp_path / "work"), ["--share", "0.25", *small]
    monkeypatch.setattr("sys.argv", ["new_items", "--data", data, "--work", work, *flags])
    new_items.main()
    known = ["--recipes", "fair_best", "--known", f"{work}/data_15_new_fair_best"]
    monkeypatch.setattr("sys.argv", ["new_items", "--data", data, "--work", work, *known, *flags])
    new_items.main()
    written = json.loads((tmp_path / "results/here/new_items.json").read_text())
    assert str(tmp_path) not in json.dumps(written), "no path of the machine"
    values = {figure["figure"]: figure["value"] for figure in written}
    for metric in ("recall@10_all", "ndcg@10_all", "recall@10_new", "ndcg@10_new"):
        assert values[f"new_items_known_{metric}"] == values[f"new_items_fair_best_{metric}"]
    assert {"new_items_fair_best_adopted_recall@10_all", "new_items_fair_best_night_recall@10_all"} <= set(values)
    assert values["new_items_fair_best_recall@10_new"] > values["new_items_fair_best_recall@10_all"]
    assert values["new_items_fair_best_recall@10_new"] >= values["new_items_fair_best_ndcg@10_new"]
    assert "likeness of texts" in capsys.readouterr().out

    split = new_items.Split(data, 0.25)
    _, tokenizer = new_items.with_new_items(tmp_path / "work/data_15_new_fair_best", split)
    histories, targets = map(list, zip(*split.questions(), strict=True))
    assert len(tokenizer.catalogue) == 60
    rows = tokenizer.catalogue.rows_of(targets)
    second = np.full((len(rows), 10), -1)
    second[:, 1] = rows
    others = tokenizer.catalogue.rows_of([target for _, target in split.questions(new=False)])
    answers = iter([np.full((len(rows), 10), -1), second, np.tile(others[:, None], 10)])
    found = new_items.measure(lambda histories, allow: next(answers), split, tokenizer)
    assert found["recall@10_all"] == found["ndcg@10_all"] == 0
    assert found["recall@10_new"] == found["recall@10_others"] == 1 and found["ndcg@10_new"] == pytest.approx(
        1 / np.log2(3)
    )


def test_the_most_alike_texts_come_first(data):
    split = new_items.Split(data, 0.25)

    class Tokenizer:
        """Its catalogue is in the order of the file."""

        class catalogue:
            @staticmethod
            def rows_of(ids):
                return np.array([split.ids.index(item) for item in ids])

        @staticmethod
        def rows_of(histories):
            return [[split.ids.index(item) for item in history] for history in histories]

    recommend = new_items.by_text(split, Tokenizer)
    best = recommend([["1", "2"]], None)[0]
    scores = split.vectors @ (0.5 * split.vectors[0] + split.vectors[1])
    assert best.tolist() == [row for row in np.argsort(-scores) if row > 1][:10]
    assert set(recommend([["1", "2"]], [3, 4, 5])[0][:3]) == {3, 4, 5}
