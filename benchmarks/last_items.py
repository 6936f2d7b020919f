"""What a last training on everything is worth (`--split none`). A checkpoint was trained without the last two items of
each user. It goes on for a night without them, too, and for one with all but the last item. All three are asked for
that one, the history read whole.

    python -m benchmarks.last_items --data ../shared/data/beauty --checkpoint runs/quality/beauty_fair_best_seed0
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.catalogues import load_checkpoint, read_histories
from benchmarks.new_items import BATCH, NIGHT, SEED, TOP_K, by_model
from benchmarks.records import RESULTS, record
from modeling_fair.markdown_fair import markdown_table
from run_training import main as run_training

ROOT = Path(__file__).resolve().parents[1]
NAMES = {
    "kept": "trained without the last two items",
    "more": "for 2 epochs more, without them too",
    "night": "for 2 epochs more, with the one before the last",
}


def goes_on(checkpoint: str, data: Path, histories: list[list[str]], work: Path, night: bool, more: list[str]) -> Path:
    """The checkpoint after 2 epochs more, trained where there is none: on all but the last item of each history, or on
    what it was trained on."""
    output = work / f"{Path(checkpoint).name}_{'night' if night else 'more'}"
    if not (output / "results.json").exists():
        work.mkdir(parents=True, exist_ok=True)
        sequences = data / "sequences.txt"
        if night:
            sequences = work / "sequences.txt"
            lines = [" ".join([str(user), *history[:-1]]) + "\n" for user, history in enumerate(histories)]
            sequences.write_text("".join(lines), encoding="utf-8")
        flags = ["--sequences_file", str(sequences), "--items_file", str(data / "items.jsonl.gz"), "--split"]
        flags += ["none" if night else "leave_one_out", "--item_embeddings", str(data / "minilm_l6.float16.npy")]
        flags += [*NIGHT, "--model_name_or_path", checkpoint, "--output_dir", str(output), "--seed", str(SEED)]
        flags += ["--resume_from_checkpoint", "true"] if any(output.glob("checkpoint-*")) else []
        run_training([str(ROOT / "configs/fair_best.yaml"), *flags, "--report_to", "none", *more])
    trained = json.loads((output / "results.json").read_text(encoding="utf-8"))["arguments"]["model_name_or_path"]
    if trained != checkpoint:
        raise ValueError(f"{output} went on from {trained}, not from {checkpoint}: delete it, or give another --work.")
    return output


@torch.no_grad()
def measure(folder: str | Path, histories: list[list[str]]) -> dict[str, float]:
    """Recall@10 and NDCG@10 of each history's last item, seen items removed."""
    model, tokenizer = load_checkpoint(str(folder))
    recommend = by_model(model, tokenizer)
    before = [history[:-1] for history in histories]
    best = np.concatenate([recommend(before[first : first + BATCH], None) for first in range(0, len(before), BATCH)])
    wanted = tokenizer.catalogue.rows_of(history[-1] for history in histories)
    places = (best == wanted[:, None]) @ (1 / np.log2(np.arange(TOP_K) + 2))
    return {"recall@10": float((places > 0).mean()), "ndcg@10": float(places.mean())}


def table(figures: Iterable[dict[str, Any]]) -> str:
    """Figures of `results/last_items.json`: a row a training."""
    values = {(figure["training"], figure["metric"]): figure["value"] for figure in figures}
    metrics = ("recall@10", "ndcg@10")
    rows = [[NAMES[name], *(f"{values[name, metric]:.4f}" for metric in metrics)] for name in NAMES]
    return markdown_table(["test, seen removed", *metrics], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of a data set with text vectors")
    parser.add_argument("--checkpoint", required=True, help="of fair_best, trained on that with leave-one-out")
    parser.add_argument("--work", default="runs/last_items", help="where the other one is kept")
    arguments, more = parser.parse_known_args()  # what is left goes to run_training.py
    histories = read_histories(arguments.data)
    common = arguments.checkpoint, Path(arguments.data), histories, Path(arguments.work)
    folders: dict[str, str | Path] = {"kept": arguments.checkpoint}
    folders |= {name: goes_on(*common, name == "night", more) for name in ("more", "night")}
    tested = [history for history in histories if len(history) > 2]
    figures = [
        {"figure": f"last_items_{name}_{metric}", "training": name, "metric": metric, "value": value}
        for name, folder in folders.items()
        for metric, value in measure(folder, tested).items()
    ]
    path = record("last_items", figures, {"users": len(tested), "seed": SEED}, torch.device("cpu"))
    print(table(json.loads(path.read_text(encoding="utf-8"))))
    print(f"Wrote {path.relative_to(RESULTS.parents[1])}.")


if __name__ == "__main__":
    main()
