"""How well items are found that training never met: a tenth of a catalogue, drawn at random, is taken out of all that
a model is trained on, added to the catalogue afterwards, and looked for where it is a user's last item: by its codes
alone, with what the model lends it (`adopt_new_items`), and after a short training that goes on with it.

    python -m benchmarks.new_items --data ../shared/data/beauty --known runs/quality/beauty_fair_best_seed0

`--known` is a checkpoint that was trained with these items, for the same users. An interrupted training goes on.
"""

import argparse
import gzip
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.catalogues import load_checkpoint, read_histories
from benchmarks.records import RESULTS, record
from modeling_fair import ItemIndex
from modeling_fair.markdown_fair import markdown_table
from run_training import main as run_training

ROOT = Path(__file__).resolve().parents[1]
TOP_K, BATCH, SEED = 10, 256, 0
OTHERS = 2000  # users whose next item is none of the new ones
NIGHT = "--num_train_epochs 2 --learning_rate 2e-4".split()  # a training that goes on
DECAY = 0.5  # weight of an item of the history relative to the next newer one, where texts are compared
NAMES = {
    "text": "likeness of texts",
    "fair_paper": "FAIR paper",
    "fair_best": "FAIR best, new items by their codes alone",
    "fair_best_adopted": "FAIR best, new items adopted",
    "fair_best_night": "FAIR best, adopted and trained for 2 epochs more",
    "known": "FAIR best, trained with these items",
}
# Items at once, and the histories read -> their rows best first, (users, TOP_K).
Recommend = Callable[[list[list[str]], Sequence[int] | None], np.ndarray]


class Split:
    """A data set whose items are in part new.

    Args:
        data: folder with sequences.txt, items.jsonl.gz and minilm_l6.float16.npy, rows as in items.jsonl.gz.
        share: of the items that are new.
    """

    def __init__(self, data: str, share: float):
        with gzip.open(Path(data) / "items.jsonl.gz", "rt", encoding="utf-8") as file:
            self.lines = file.readlines()
        self.ids = [str(json.loads(line)["id"]) for line in self.lines]
        self.vectors = np.load(Path(data) / "minilm_l6.float16.npy").astype(np.float32)
        count = round(share * len(self.ids))
        self.name = f"{Path(data).name}_{count}_new"
        self.new_rows = np.sort(np.random.default_rng(SEED).choice(len(self.ids), count, replace=False))
        self.new = {self.ids[row] for row in self.new_rows}
        self.users = read_histories(data)

    def write_known(self, folder: Path) -> list[str]:
        """What is trained on, without any new item; returns the flags of run_training.py that name it."""
        return self.write(folder, np.setdiff1d(np.arange(len(self.ids)), self.new_rows))

    def write(self, folder: Path, rows: np.ndarray) -> list[str]:
        """The same with the items of some rows alone."""
        folder.mkdir(parents=True, exist_ok=True)
        there = {self.ids[row] for row in rows}
        files = {name: folder / name for name in ("sequences.txt", "items.jsonl", "items.npy")}
        of_users = ([item for item in history if item in there] for history in self.users)
        lines = [" ".join([str(user), *items]) + "\n" for user, items in enumerate(of_users) if items]
        files["sequences.txt"].write_text("".join(lines), encoding="utf-8")
        files["items.jsonl"].write_text("".join(self.lines[row] for row in rows), encoding="utf-8")
        np.save(files["items.npy"], self.vectors[rows])
        names = zip(("--sequences_file", "--items_file", "--item_embeddings"), files.values(), strict=True)
        return [part for name, path in names for part in (name, str(path))]

    def questions(self, new: bool = True) -> list[tuple[list[str], str]]:
        """Histories whose next item is new, and that item; or of some of the other users."""
        users = [history for history in self.users if len(history) > 1 and (history[-1] in self.new) == new]
        if not new:
            some = np.random.default_rng(SEED).permutation(len(users))[:OTHERS]
            users = [users[number] for number in np.sort(some)]
        return [(history[:-1], history[-1]) for history in users]


def trained(recipe: str, split: Split, work: Path, more: list[str], known: Path | None = None) -> Path:
    """The checkpoint of a recipe without new items, or the one that goes on from it with them, trained where there is
    none."""
    output = work / f"{split.name}_{recipe}{'_night' * (known is not None)}"
    if not (output / "results.json").exists():
        resume = ["--resume_from_checkpoint", "true"] if any(output.glob("checkpoint-*")) else []
        if known is None:
            data = split.write_known(work / split.name)
        else:
            data = split.write(work / f"{split.name}_all", np.arange(len(split.ids)))
            data += [*NIGHT, "--model_name_or_path", str(known)]
        flags = ["--output_dir", str(output), "--seed", str(SEED), "--report_to", "none", *resume, *more]
        run_training([str(ROOT / f"configs/{recipe}.yaml"), *data, *flags])
    return output


def with_new_items(folder: Path, split: Split) -> tuple[Any, Any]:
    """A checkpoint's model, and its tokenizer with the new items, if it lacks them."""
    model, tokenizer = load_checkpoint(str(folder))
    there = tokenizer.catalogue.rows_of([split.ids[row] for row in split.new_rows])
    rows = split.new_rows[there < 0]
    items = [{"item_id": split.ids[row], "title": split.ids[row]} for row in rows]
    tokenizer.add_items(items, embeddings=split.vectors[rows])
    return model, tokenizer


def by_model(model: Any, tokenizer: Any) -> Recommend:
    index = ItemIndex(tokenizer.item_codes, known_ids=tokenizer.known_ids, backend="exact")

    def recommend(histories: list[list[str]], allow: Sequence[int] | None) -> np.ndarray:
        batch = {**tokenizer(histories, return_tensors="pt"), "item_ids": tokenizer.rows_of(histories)}
        return model.recommend(**batch, index=index, top_k=TOP_K, allow=allow).item_ids.numpy()

    return recommend


def by_text(split: Split, tokenizer: Any) -> Recommend:
    """The items whose texts are most like those of the history, the newest most: no learning."""
    vectors = np.zeros((len(split.ids), split.vectors.shape[1]), np.float32)
    vectors[tokenizer.catalogue.rows_of(split.ids)] = split.vectors

    def recommend(histories: list[list[str]], allow: Sequence[int] | None) -> np.ndarray:
        found = np.full((len(histories), TOP_K), -1)
        for user, rows in enumerate(tokenizer.rows_of(histories)):
            scores = vectors @ (DECAY ** np.arange(len(rows))[::-1] @ vectors[rows])
            scores[rows] = -np.inf
            if allow is not None:
                scores[np.setdiff1d(np.arange(len(scores)), allow)] = -np.inf
            found[user] = np.argsort(-scores, kind="stable")[:TOP_K]
        return found

    return recommend


@torch.no_grad()
def measure(recommend: Recommend, split: Split, tokenizer: Any) -> dict[str, float]:
    """Recall@10 and NDCG@10, seen items removed: of new items among all, of new items among new ones alone, and of
    other items among all."""
    new_rows = tokenizer.catalogue.rows_of(sorted(split.new)).tolist()
    found = {}
    for name, new, allow in (("all", True, None), ("new", True, new_rows), ("others", False, None)):
        histories, targets = map(list, zip(*split.questions(new), strict=True))
        wanted = tokenizer.catalogue.rows_of(targets)
        parts = range(0, len(histories), BATCH)
        best = np.concatenate([recommend(histories[first : first + BATCH], allow) for first in parts])
        places = (best == wanted[:, None]) @ (1 / np.log2(np.arange(TOP_K) + 2))
        found[f"recall@10_{name}"] = float((places > 0).mean())
        found[f"ndcg@10_{name}"] = float(places.mean())
    return found


def table(figures: Iterable[dict[str, Any]]) -> str:
    """Figures of `results/new_items.json`: a row a model."""
    values = {(figure["model"], figure["metric"]): figure["value"] for figure in figures}
    columns = {"all": "new items among all", "new": "new items among new ones", "others": "other items among all"}
    metrics = [f"{metric}@10_{name}" for name in columns for metric in ("recall", "ndcg")]
    rows = [
        [NAMES[model], *(f"{values[model, metric]:.4f}" for metric in metrics)]
        for model in NAMES
        if (model, metrics[0]) in values
    ]
    header = [f"{metric}@10, {column}" for column in columns.values() for metric in "RN"]
    return markdown_table(["test", *header], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of a data set with text vectors")
    parser.add_argument("--known", help="checkpoint that was trained with the new items")
    parser.add_argument("--recipes", nargs="+", default=["fair_best", "fair_paper"], help="of configs/")
    parser.add_argument("--share", type=float, default=0.1, help="of the items that are new")
    parser.add_argument("--work", default="runs/new_items", help="where checkpoints are kept")
    arguments, more = parser.parse_known_args()  # what is left goes to run_training.py
    split, work = Split(arguments.data, arguments.share), Path(arguments.work)
    measured: dict[str, dict[str, float]] = {}
    for recipe in arguments.recipes:
        folder = trained(recipe, split, work, more)
        model, tokenizer = with_new_items(folder, split)
        measured[recipe] = measure(by_model(model, tokenizer), split, tokenizer)
        if model.adopt_new_items(tokenizer):
            measured[f"{recipe}_adopted"] = measure(by_model(model, tokenizer), split, tokenizer)
            model, tokenizer = with_new_items(trained(recipe, split, work, more, folder), split)
            measured[f"{recipe}_night"] = measure(by_model(model, tokenizer), split, tokenizer)
    measured["text"] = measure(by_text(split, tokenizer), split, tokenizer)  # the same with every catalogue
    if arguments.known:
        model, tokenizer = with_new_items(Path(arguments.known), split)
        measured["known"] = measure(by_model(model, tokenizer), split, tokenizer)
    figures = [
        {"figure": f"new_items_{name}_{metric}", "model": name, "metric": metric, "value": value}
        for name, metrics in measured.items()
        for metric, value in metrics.items()
    ]
    users = {"users": len(split.questions()), "other_users": len(split.questions(new=False))}
    settings = {"share": arguments.share, **users, "new": len(split.new), "seed": SEED}
    path = record("new_items", figures, settings, torch.device("cpu"))
    print(table(json.loads(path.read_text(encoding="utf-8"))))
    print(f"Wrote {path.relative_to(RESULTS.parents[1])}.")


if __name__ == "__main__":
    main()
