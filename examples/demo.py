"""Train FAIR on the built-in simulated store, compare it with counting on the same split, and recommend.

python examples/demo.py
"""

import shutil
import sys
import time
from pathlib import Path

from transformers import pipeline

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from data_fair import load_named, split_leave_one_out  # noqa: E402
from examples.baselines.cooccurrence import CoOccurrence  # noqa: E402
from examples.baselines.evaluation import evaluate  # noqa: E402
from examples.baselines.popularity import Popularity  # noqa: E402
from modeling_fair import FairTokenizer  # noqa: E402
from modeling_fair.metrics_fair import metrics_table  # noqa: E402
from run_training import main as train  # noqa: E402
from tokenization_fair.preprocessing_fair import prepare_datasets  # noqa: E402

OUTPUT = Path("runs/demo")


def main(arguments: list[str] | None = None) -> None:
    shutil.rmtree(OUTPUT, ignore_errors=True)
    started = time.time()
    results = train([str(ROOT / "configs/demo.yaml"), *(arguments or []), "--output_dir", str(OUTPUT)])
    print(f"\nTrained and evaluated in {time.time() - started:.0f} s. On the same split and candidates (test):\n")

    tokenizer = FairTokenizer.from_pretrained(OUTPUT)
    sequences, items = load_named("demo")
    prepared = prepare_datasets(split_leave_one_out(sequences), tokenizer)
    train_rows = prepared["train"]["item_ids"][:]
    table = {
        "popularity": evaluate(Popularity().fit(train_rows, len(items)).scores, prepared["test"], len(items)),
        "co-occurrence": evaluate(CoOccurrence().fit(train_rows, len(items)).scores, prepared["test"], len(items)),
        "FAIR without its prior": results["results"]["test_without_prior"],
        "FAIR": results["results"]["test"],
    }
    print(metrics_table(table))

    recommender = pipeline("recommendation", model=str(OUTPUT))
    for user in (0, 1, 2):
        history = sequences[user]["item_ids"]
        print("\nBought:", "; ".join(tokenizer.titles([tokenizer.catalogue.row(item) for item in history[-4:]])))
        for entry in recommender({"history": history}, top_k=3):
            print(f"  {entry['score']:7.3f}  {entry['title']}")


if __name__ == "__main__":
    main(sys.argv[1:])
