"""What noise does to attention maps, states and recommendations, and how much an irrelevant item is attended to.

    python -m benchmarks.robustness --data ../shared/data/beauty --checkpoints runs/paper runs/no_nrt

Checkpoints read items by their codes alone; a prior of theirs is left out. The noise is that of NRT: each code of a
history is masked or replaced, with a probability of 0.1 each. The irrelevant item is drawn from the catalogue and put
before an item of the history, drawn too. All models get the same users, noise and items.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.catalogues import load_checkpoint, read_histories
from benchmarks.records import RESULTS, record
from modeling_fair import ItemIndex
from modeling_fair.decoding_fair import last_item_states
from modeling_fair.markdown_fair import markdown_table
from modeling_fair.noise_fair import add_noise

BATCH, SEED = 64, 0
NOISE = 0.1  # probability of a masked code, and of a replaced one
Measured = dict[str, torch.Tensor]
# Measure, what it says, and what it is a multiple or a part of.
MEASURES = {
    "state_distance": ("clean to noisy state", "distance of two users' states"),
    "map_distance_layer{}": ("clean to noisy map, layer {}", "weight of both maps"),
    "injected_branch1_layer{}": ("weight of an irrelevant item, branch 1 of layer {}", "even share"),
    "injected_branch2_layer{}": ("the same, branch 2 of layer {}", "even share"),
    "injected_used_layer{}": ("the same, the map that is used in layer {}", "even share"),
    "entropy_used_layer{}": ("entropy of the map that is used in layer {}", "that of even weights"),
    "recall@10_clean": ("test R@10, seen kept", "targets"),
    "recall@10_noisy": ("the same with noise", "targets"),
}


def last_rows(maps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Maps (users, ..., items, items), padded on the right -> the rows of the last items, (users, ..., items)."""
    lengths = mask.sum(dim=1).tolist()
    return torch.stack([of_user[..., length - 1, :] for of_user, length in zip(maps, lengths, strict=True)])


def relative_distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The absolute difference of rows (..., items) over their absolute weight, 0 (the same) to 1, (...)."""
    weight = one.abs().sum(-1) + other.abs().sum(-1)
    return (one - other).abs().sum(-1) / weight.clamp(min=1e-12)


def shares(rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Absolute weights of rows (users, heads, items) as multiples of an even share, 1 / the items of the history."""
    sizes = rows.abs()
    return sizes / sizes.sum(-1, keepdim=True).clamp(min=1e-12) * mask.sum(1)[:, None, None]


def entropy(rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Of the absolute weights of rows (users, heads, items), over that of even weights; of histories of 2 or more."""
    weights = rows.abs() / rows.abs().sum(-1, keepdim=True).clamp(min=1e-12)
    return torch.special.entr(weights).sum(-1) / mask.sum(1)[:, None].float().log()


def of_noise(model: Any, tokenizer: Any, index: ItemIndex, histories: list[list[str]], first: int) -> Measured:
    """Histories with their targets, the first of them the `first` of all: states, and what noise does."""
    batch = tokenizer([history[:-1] for history in histories], return_tensors="pt")
    codes, mask = batch["input_ids"], batch["attention_mask"]
    noisy_codes = add_noise(
        codes,
        first + torch.arange(len(codes)),
        codebook_size=model.config.codebook_size,
        mask_probability=NOISE,
        replace_probability=NOISE,
        seed=SEED,
        step=0,
    )
    targets = torch.from_numpy(tokenizer.catalogue.rows_of([history[-1] for history in histories]))
    found: Measured = {}
    for name, view in (("clean", codes), ("noisy", noisy_codes)):
        best = model.recommend(view, mask, index=index, top_k=10, remove_seen=False).item_ids
        found[f"recall@10_{name}"] = (best == targets[:, None]).any(dim=1)
    clean, noisy = (model(view, mask, output_attentions=True) for view in (codes, noisy_codes))
    found["states"], of_noisy = (
        functional.normalize(last_item_states(view.last_hidden_state, mask).float(), dim=-1) for view in (clean, noisy)
    )
    found["state_distance"] = torch.linalg.vector_norm(found["states"] - of_noisy, dim=-1)
    for layer, maps in enumerate(zip(clean.attentions, noisy.attentions, strict=True), start=1):
        rows, noisy_rows = (last_rows(of_view, mask) for of_view in maps)
        found[f"map_distance_layer{layer}"] = relative_distance(rows, noisy_rows)
        found[f"entropy_used_layer{layer}"] = entropy(rows, mask)
    return found


def of_injection(model: Any, tokenizer: Any, histories: list[list[str]], rng: np.random.Generator) -> Measured:
    """Histories without targets: the weight of one more item, drawn from the catalogue, at a place drawn before the
    last item, as multiples of an even share."""
    room = tokenizer.model_max_length - 1
    read = [history[-room:] for history in histories]
    places = [int(rng.integers(len(history))) for history in read]
    drawn = (tokenizer.catalogue.item_ids[rng.integers(len(tokenizer.catalogue))] for _ in read)
    longer = [
        [*history[:place], item, *history[place:]] for history, place, item in zip(read, places, drawn, strict=True)
    ]
    batch = tokenizer(longer, return_tensors="pt")
    mask = batch["attention_mask"]
    output = model(batch["input_ids"], mask, output_attentions=True, output_branch_attentions=True)
    users, found = torch.arange(len(longer)), {}
    for layer, (used, branches) in enumerate(zip(output.attentions, output.branch_attentions, strict=True), start=1):
        maps = {f"branch{number}": of_branch for number, of_branch in enumerate(branches.unbind(1), start=1)}
        for name, of_map in {**maps, "used": used}.items():
            found[f"injected_{name}_layer{layer}"] = shares(last_rows(of_map, mask), mask)[users, :, places]
    return found


@torch.no_grad()
def measure(folder: str, histories: list[list[str]]) -> dict[str, float]:
    """All measures of a checkpoint, means over users and heads.

    Args:
        folder: of the checkpoint.
        histories: item ids of users, the last of which is the target and the others, 2 or more, are read.

    Raises:
        ValueError: for a checkpoint with item vectors, which noise in codes leaves alone.
    """
    model, tokenizer = load_checkpoint(folder)
    if model.config.item_residuals:
        raise ValueError(f"{folder} has vectors of items beside their codes: measure one that reads codes alone.")
    model.set_prior(None, 0)
    tokenizer.padding_side = "right"
    index, rng = ItemIndex(tokenizer.item_codes), np.random.default_rng(SEED)
    found: dict[str, list[torch.Tensor]] = defaultdict(list)
    for first in range(0, len(histories), BATCH):
        part = histories[first : first + BATCH]
        of_part = of_noise(model, tokenizer, index, part, first)
        of_part |= of_injection(model, tokenizer, [history[:-1] for history in part], rng)
        for name, values in of_part.items():
            found[name].append(values.float())
    states = torch.cat(found.pop("states"))
    means = {name: float(torch.cat(values).mean()) for name, values in found.items()}
    means["state_distance"] /= float(torch.linalg.vector_norm(states - states.roll(1, 0), dim=-1).mean())
    return means


def table(figures: Iterable[dict[str, Any]]) -> str:
    """Figures of `results/robustness.json`: a row a measure, a column a checkpoint."""
    values = {(figure["checkpoint"], figure["measure"]): figure["value"] for figure in figures}
    names = list(dict.fromkeys(name for name, _ in values))
    measures = {name for _, name in values}
    rows = []
    for (measured, (what, against)), layer in product(MEASURES.items(), range(1, 1 + len(measures))):
        name = measured.format(layer)
        if name not in measures or (layer > 1 and name == measured):  # a layer there is not, or a measure of none
            continue
        cells = [f"{values[of, name]:.3f}" if (of, name) in values else "" for of in names]
        rows.append([what.format(layer), against, *cells])
    return markdown_table(["mean over users", "as a part or multiple of", *names], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with sequences.txt")
    parser.add_argument("--checkpoints", nargs="+", required=True, help="folders, each named otherwise")
    parser.add_argument("--users", type=int, default=4_000, help="drawn of those with 5 or more items")
    arguments = parser.parse_args()
    histories = [history for history in read_histories(arguments.data) if len(history) >= 5]
    drawn = np.random.default_rng(0).permutation(len(histories))[: arguments.users]
    figures = []
    for folder in arguments.checkpoints:
        name = Path(folder).name
        for measured, value in measure(folder, [histories[user] for user in drawn]).items():
            figures.append({
                "figure": f"{name}_{measured}", "checkpoint": name, "measure": measured, "value": value
            })  # fmt: skip
    path = record("robustness", figures, {"users": len(drawn), "noise": NOISE, "seed": SEED}, torch.device("cpu"))
    print(table(json.loads(path.read_text(encoding="utf-8"))))
    print(f"Wrote {path.relative_to(RESULTS.parents[1])}.")


if __name__ == "__main__":
    main()
