"""Catalogues of millions: how much of the exact top 10 the approximate index finds, and what it takes.

    python -m benchmarks.scale --checkpoint runs/beauty --data ../shared/data/beauty \
      --vectors ../shared/data/beauty/minilm_l6.float16.npy --threads 2

The catalogues are the checkpoint's own and larger ones: the items' vectors with noise, encoded by its tokenizer.
Queries are the model's logits after the test histories of users whose training histories the partition never saw.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.catalogues import load_checkpoint, noisy_codes, read_histories, sample_queries
from benchmarks.records import RESULTS, forget_peak, memory, record, seconds
from modeling_fair import ItemIndex, fit_partition
from modeling_fair.markdown_fair import markdown_table

SHARES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
TRAIN_QUERIES, CHOSEN_SHARE = 4_000, 0.05


def curve(
    codes: np.ndarray, train: torch.Tensor, test: torch.Tensor, device: torch.device
) -> tuple[dict[float, dict[str, float]], dict[str, float]]:
    """For each share of items visited the recall of the exact top 10, the share that was visited in fact, and the time
    of a user's search; and what the exact index and the fit took."""
    exact = ItemIndex(codes, backend="exact", device=device)
    wanted = torch.cat([exact.search(part.to(device)).item_ids.cpu() for part in test.split(32)])
    one = seconds(lambda: ItemIndex(codes).search(test[:1]), torch.device("cpu"), repeat=5)
    batch = seconds(lambda: exact.search(test[:32].to(device)), device, repeat=3) / len(test[:32])
    forget_peak(torch.device("cpu"))
    before, start = memory(torch.device("cpu"))[0], time.perf_counter()
    index = ItemIndex(codes, partition=fit_partition(codes, train))
    fit = time.perf_counter() - start
    assert index.partition is not None
    points = {}
    for share in SHARES:
        found, times = [], []
        for query in test.split(1):
            start = time.perf_counter()
            found.append(index.search(query, visit=share).item_ids)
            times.append(1e3 * (time.perf_counter() - start))
        hits = (torch.cat(found)[:, :, None] == wanted[:, None]).any(dim=2).float().mean().item()
        visited = np.mean([len(index.partition.visit(query, share)) for query in tables_of(test[:50])]) / len(codes)
        p50, p95 = np.quantile(times, [0.5, 0.95])
        points[share] = {"recall": hits, "visited": float(visited), "p50_ms": float(p50), "p95_ms": float(p95)}
    costs = {
        "exact_one_user_ms": 1e3 * one,
        "exact_batch_ms_per_user": 1e3 * batch,
        "fit_seconds": fit,
        "bytes_per_item": index.nbytes / len(index),
        "fit_memory_mib": max(0, memory(torch.device("cpu"))[1] - before) / 2**20,
        "lists": len(index.partition.means),
    }
    return points, costs


def tables_of(logits: torch.Tensor) -> list[np.ndarray]:
    """What `Partition.visit` reads for each query."""
    return list((logits.log_softmax(dim=-1) / logits.shape[1]).flatten(1).numpy())


def draw(curves: dict[str, dict[float, dict[str, float]]], path: Path) -> None:
    """Recall of the exact top 10 by share of items visited."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for name, points in curves.items():
        axes.plot(
            [100 * p["visited"] for p in points.values()], [p["recall"] for p in points.values()], "o-", label=name
        )
    axes.set_xscale("log")
    axes.set_xlabel("items visited (%)")
    axes.set_ylabel("share of the exact top 10")
    axes.axhline(0.99, color="grey", linewidth=0.5)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder of a trained model with its tokenizer")
    parser.add_argument("--data", required=True, help="folder with the sequences.txt that it was trained on")
    parser.add_argument("--vectors", required=True, help=".npy file of the items' vectors, unit length")
    parser.add_argument("--millions", type=float, nargs="*", default=[1, 10], help="catalogues; default 1 and 10")
    parser.add_argument("--noise", type=float, default=0.3, help="expected norm of the noise; default 0.3")
    parser.add_argument("--queries", type=int, default=200, help="users whose searches are compared; default 200")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads; default 2")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, tokenizer = load_checkpoint(options.checkpoint)
    train, test = sample_queries(model, tokenizer, options.data, TRAIN_QUERIES, options.queries)
    history = tokenizer([read_histories(options.data)[0]], return_tensors="pt")
    with torch.no_grad():
        forward = seconds(
            lambda: model(history["input_ids"], history["attention_mask"], packed=True), torch.device("cpu"), repeat=21
        )
    vectors = np.load(options.vectors, mmap_mode="r")

    figures: list[dict[str, Any]] = []
    curves, rows = {}, []
    for millions in [0.0, *options.millions]:
        name = f"{millions:g}m" if millions else "own"
        codes = (
            noisy_codes(tokenizer, vectors, int(millions * 1e6), options.noise) if millions else tokenizer.item_codes
        )
        points, costs = curve(codes, train, test, device)
        label = f"{len(codes):,} items"
        curves[label] = points
        chosen = points[CHOSEN_SHARE]
        notes = {"items": len(codes), "noise": options.noise if millions else 0.0, "curve": points, **costs}
        for what, value, unit in (
            ("recall", chosen["recall"], f"share of the exact top 10 at {CHOSEN_SHARE:.0%} visited"),
            ("visited_share", chosen["visited"], "share of items, mean"),
            ("p50_ms", chosen["p50_ms"], "ms, search alone for one user"),
        ):
            figures.append({"figure": f"approximate_{name}_{what}", "value": round(value, 4), "unit": unit, **notes})
        for point in points.values():
            cells = (
                f"{point['visited']:.2%}",
                f"{point['recall']:.4f}",
                f"{point['p50_ms']:.2f}",
                f"{point['p95_ms']:.2f}",
            )
            rows.append((label, *cells))
        header = ["catalogue", "visited", "share of the exact top 10", "p50 ms", "p95 ms"]
        print(markdown_table(header, rows[-len(SHARES) :]))
        print({key: round(value, 2) for key, value in costs.items()}, flush=True)
    figures.append({"figure": "one_user_forward_ms", "value": round(1e3 * forward, 3), "unit": "ms, 1 history"})
    settings = {"queries": options.queries, "train_queries": TRAIN_QUERIES, "noise": options.noise}
    print(f"Written to {record('scale', figures, settings, device)}.")
    draw(curves, RESULTS / "scale.svg")


if __name__ == "__main__":
    main()
