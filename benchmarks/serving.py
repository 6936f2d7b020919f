"""A trained checkpoint as it is served, whole: the pipeline answers item ids with named items.

    python -m benchmarks.serving --data ../shared/data/beauty --checkpoint runs/quality/beauty_fair_best_seed0

Users of the data set are asked for one at a time, and many at once in batches of 32, with the checkpoint's prior and
without it; and where the time of a batch goes: tokenizer, forward pass, the prior's sums, search.
"""

import argparse
from typing import Any

import numpy as np
import torch
from transformers import pipeline

from benchmarks.catalogues import load_checkpoint, read_histories
from benchmarks.records import record, seconds
from modeling_fair import ItemIndex
from modeling_fair.markdown_fair import markdown_table
from modeling_fair.modeling_fair import PACKED

CPU = torch.device("cpu")
BATCH, TOP_K = 32, 10


def as_served(recommender: Any, requests: list[dict[str, Any]]) -> dict[str, float]:
    """Milliseconds: of single users, median and 95th percentile, and of each of many."""
    recommender(requests[0], top_k=TOP_K)  # what is made once
    alone = [seconds(lambda one=one: recommender(one, top_k=TOP_K), CPU, repeat=1, warm_up=0) for one in requests]
    many = seconds(lambda: recommender(requests, top_k=TOP_K), CPU)
    return {
        "one_user_p50_ms": 1e3 * float(np.quantile(alone, 0.5)),
        "one_user_p95_ms": 1e3 * float(np.quantile(alone, 0.95)),
        "ms_a_user": 1e3 * many / len(requests),
    }


@torch.no_grad()
def parts(model: Any, tokenizer: Any, histories: list[list[str]]) -> dict[str, float]:
    """Milliseconds a user of each part, of a batch of users."""
    index = ItemIndex(tokenizer.item_codes, known_ids=tokenizer.known_ids)
    encoded = tokenizer(histories, return_tensors="pt")
    seen, known = encoded.pop("item_ids"), encoded.get("known_ids")
    output = model(**encoded, **PACKED)
    terms = model.item_terms(output.last_hidden_state, known, index.known_ids, index.lengths_by)
    logits = output.logits[:, 0]
    calls = {
        "tokenizer": lambda: tokenizer(histories, return_tensors="pt"),
        "forward": lambda: model(**encoded, **PACKED),
        "search": lambda: index.search(logits, top_k=TOP_K, seen=seen, terms=terms),
    }
    if model.prior is not None:
        calls["prior"] = lambda: model.prior(known, index.known_ids)
    return {f"{name}_ms_a_user": 1e3 * seconds(call, CPU, repeat=11) / len(histories) for name, call in calls.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with sequences.txt, such as Beauty's")
    parser.add_argument("--checkpoint", required=True, help="trained on it, with a prior")
    parser.add_argument("--users", type=int, default=256, help="how many are asked for; default 256")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; default 1")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, tokenizer = load_checkpoint(options.checkpoint)
    if model.prior is None:
        raise SystemExit(f"{options.checkpoint} has no prior: give a checkpoint that was trained with one.")
    histories = read_histories(options.data)
    users = np.random.default_rng(0).choice(len(histories), min(options.users, len(histories)), replace=False)
    histories = [histories[user][:-1] for user in users]
    requests = [{"history": history} for history in histories]
    recommender = pipeline("recommendation", model=model, tokenizer=tokenizer, batch_size=BATCH)
    times = as_served(recommender, requests) | parts(model, tokenizer, histories[:BATCH])
    prior_size = model.config.prior_size
    model.set_prior(None, 0.0)
    times |= {f"without_prior_{name}": value for name, value in as_served(recommender, requests).items()}
    figures = [{"figure": f"serving_{name}", "value": round(value, 4), "unit": "ms"} for name, value in times.items()]
    settings = {"users": len(requests), "batch": BATCH, "items": len(tokenizer.item_codes), "prior_size": prior_size}
    path = record("serving", figures, settings, CPU)
    print(markdown_table(["figure", "value", "unit"], ((row["figure"], row["value"], row["unit"]) for row in figures)))
    print(f"Written to {path}.")


if __name__ == "__main__":
    main()
