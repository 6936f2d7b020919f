"""Export a checkpoint as ONNX graphs, and compare them with the model on random histories.

    python examples/export_onnx.py runs/demo --output_dir runs/onnx

`code_logits.onnx` reads histories and gives the logits of the next item's codes, (batch, num_codebooks,
codebook_size). `recommend.onnx` goes on from there to the best items of the checkpoint's catalogue: the whole score,
with the lengths and own vectors of items and the prior where the model has them, of every item, in the order of
`ItemIndex`'s exact search. Batch and length of the histories are free in both. Inputs bear the names that the
tokenizer gives them and outputs are catalogue rows, -1 where fewer items were left, and scores, (batch, top_k) each:

    batch = tokenizer(histories, return_tensors="np")
    rows, scores = onnxruntime.InferenceSession("runs/onnx/recommend.onnx").run(None, dict(batch))

The rows in `item_ids` are not recommended; of longer histories give all of them there, and -1 to remove nothing. Users
without a history are served as by the pipeline. `to_program` gives what `torch.export` makes of the same modules, to
run or save from Python.

Not exported are the tokenizer, with it the codes of new items, whose texts must be encoded before the export; filters
other than seen items; terms of one's own (`extra_rows`); approximate search (`ivf`); and the checks of inputs. The
catalogue is fixed and scored at once, batch times catalogue floats: for millions of items, and for catalogues that
change, there is `ItemIndex`.
"""

import argparse
import copy
import inspect
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from transformers import pipeline

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from modeling_fair import FairForGenerativeRecommendation, ItemIndex, RecommendationPipeline  # noqa: E402
from modeling_fair.decoding_fair import in_chunk, last_item_states, score_table, sum_rows, table_rows  # noqa: E402
from modeling_fair.prior_fair import CoOccurrencePrior  # noqa: E402
from modeling_fair.row_terms_fair import RowTerms  # noqa: E402


class FixedWidthPrior(nn.Module):
    """A [`CoOccurrencePrior`] whose shapes hang on the batch alone: it reads as many entries of each row of counts as
    the longest row has, and gives every item of the catalogue a term, one of nothing where nothing was counted."""

    def __init__(self, prior: CoOccurrencePrior):
        super().__init__()
        self.counted = prior
        self.width = int(prior.offsets.diff().max())

    def forward(self, known_ids: torch.Tensor, of_items: torch.Tensor) -> RowTerms:
        """As the prior's; rows are all those of the catalogue, in order."""
        prior, config = self.counted, self.counted.config
        positions = torch.arange(known_ids.shape[1])
        newest = torch.where(known_ids >= 0, positions, -1).amax(dim=1, keepdim=True)
        ages = torch.arange(config.prior_history).flip(0)  # oldest first: the prior adds up in this order
        items = known_ids.gather(1, (newest - ages).clamp(min=0))
        counted = (newest >= ages) & (items >= 0)
        items = items.clamp(min=0)
        starts, ends = prior.offsets[items], prior.offsets[items + 1]
        entries = starts[..., None] + torch.arange(self.width)
        counted = counted[..., None] & (entries < ends[..., None])
        entries = entries.clamp(max=prior.counts.shape[0] - 1)
        weights = (config.prior_decay ** ages.float())[:, None] * prior.counts[entries].float() * counted
        summed = torch.zeros(known_ids.shape[0], prior.known + 1)  # the last is that of all items that are not known
        summed = summed.scatter_add(1, prior.columns[entries].long().flatten(1), weights.flatten(1))
        totals = weights * (prior.columns[entries] < prior.known - config.num_adopted_items)
        added, rivals = prior.scores(summed, totals.flatten(1).sum(dim=1, keepdim=True))
        of_history = torch.where(known_ids < 0, prior.known, known_ids)
        own = torch.zeros_like(added).scatter(1, of_history, 1.0)
        own[:, prior.known] = 0
        added = added + config.prior_repeat * own
        rows = torch.arange(of_items.shape[0]).expand(known_ids.shape[0], -1)
        places = torch.where(of_items < 0, prior.known, of_items)
        return RowTerms(rows, added[:, places], None if rivals is None else rivals[:, places], config.prior_weight)


def first_best(scores: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `top_k` best of scores (batch, items) and their places, (batch, top_k) each, equal scores in order of place:
    `topk` leaves open which of them it takes and in which order, and a stable sort has no form in ONNX. Places of -inf
    mean nothing."""
    last = scores.topk(top_k, dim=1).values[:, -1:]
    better, ties = scores > last, scores == last
    left = top_k - better.sum(dim=1, keepdim=True)
    taken = better | (ties & (ties.long().cumsum(dim=1) <= left))
    best, places = scores.masked_fill(~taken, -torch.inf).topk(top_k, dim=1)
    equal = best[:, :, None] == best[:, None]
    ahead = (best[:, :, None] > best[:, None]) | (equal & (places[:, :, None] < places[:, None]))
    ranks = ahead.sum(dim=1)
    return best.scatter(1, ranks, best), places.scatter(1, ranks, places)


def exportable(model: FairForGenerativeRecommendation) -> FairForGenerativeRecommendation:
    """A copy of the model that can be exported, in float32. Its attention is eager: the softmax of padding's masked
    rows, which fused attention leaves out, is not a number in ONNX."""
    model = copy.deepcopy(model).float().cpu().eval().requires_grad_(False)
    model.set_attn_implementation("eager")
    if model.prior is not None:
        model.prior = FixedWidthPrior(model.prior)
    return model


class CodeLogits(nn.Module):
    """Histories -> logits of the next item's codes."""

    def __init__(self, model: FairForGenerativeRecommendation):
        super().__init__()
        self.model = exportable(model)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, known_ids: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """As `model.forward`; logits (batch, num_codebooks, codebook_size), of the next item alone."""
        return {"logits": self.model(input_ids, attention_mask, known_ids=known_ids).logits[:, 0]}


class Recommender(nn.Module):
    """Histories -> the best items of a catalogue.

    Args:
        model: what scores them.
        index: the catalogue, with `known_ids` where the model knows items.
        top_k: how many items to give.
        empty_history_scores: (catalogue,) scores for users without history, as in `ItemIndex.search`.

    Raises:
        ValueError: for `top_k` below 1 or above the number of items.
    """

    def __init__(
        self,
        model: FairForGenerativeRecommendation,
        index: ItemIndex,
        top_k: int = 10,
        empty_history_scores: torch.Tensor | None = None,
    ):
        super().__init__()
        if not 1 <= top_k <= len(index):
            raise ValueError(f"top_k is {top_k} but the catalogue has {len(index)} items: give 1 to {len(index)}.")
        self.model, self.top_k = exportable(model), top_k
        self.register_buffer("item_codes", index.item_codes.cpu())
        self.register_buffer("of_items", None if index.known_ids is None else index.known_ids.cpu())
        cosines = model.config.prediction == "items"
        self.register_buffer("lengths", index.lengths_by(self.model.model.embeddings) if cosines else None)
        empty = torch.zeros(len(index)) if empty_history_scores is None else empty_history_scores.float().cpu()
        self.register_buffer("empty_history_scores", empty)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        item_ids: torch.Tensor,
        known_ids: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """As `model.recommend`: catalogue rows and scores, (batch, top_k) each."""
        output = self.model(input_ids, attention_mask, known_ids=known_ids)
        states = last_item_states(output.last_hidden_state, attention_mask)
        terms = self.model.item_terms(states, known_ids, self.of_items, lambda _: self.lengths)
        config = self.model.config
        table = score_table(output.logits[:, 0], config.prediction == "items")
        sums = sum_rows(table, table_rows(self.item_codes, config.codebook_size))
        scores = (sums if terms is None else terms.of_chunk(sums, slice(None))).T
        if terms is not None and terms.prior is not None:
            scores = terms.prior.final(scores)
        empty = ~attention_mask.bool().any(dim=1, keepdim=True)
        scores = torch.where(empty, self.empty_history_scores, scores)
        scores = scores.masked_fill(in_chunk(item_ids, 0, self.item_codes.shape[0]), -torch.inf)
        best, rows = first_best(scores, self.top_k)
        return {"rows": rows.masked_fill(best == -torch.inf, -1), "scores": best}


def inputs_of(module: CodeLogits | Recommender) -> tuple[dict[str, torch.Tensor], dict[str, dict[int, Dim]]]:
    """Inputs of a module to trace it with, and what is free in their shapes: sizes of 2 and more, which differ, stand
    for any."""
    config = module.model.config
    codes = torch.zeros(2, 3, config.num_codebooks, dtype=torch.long)
    mask, seen, known = torch.ones(2, 3, dtype=torch.long), torch.full((2, 4), -1), torch.full((2, 3), -1)
    inputs = {"input_ids": codes, "attention_mask": mask, "item_ids": seen, "known_ids": known}
    batch, length = Dim("batch", min=1), Dim("length", min=1, max=config.max_position_embeddings)
    shapes = {name: {0: batch, 1: length} for name in inputs} | {"item_ids": {0: batch, 1: Dim("seen", min=1)}}
    names = inspect.signature(module.forward).parameters
    return {name: inputs[name] for name in names}, {name: shapes[name] for name in names}


def to_program(module: CodeLogits | Recommender) -> ExportedProgram:
    """What `torch.export` makes of a module, for any batch and any length that the model reads."""
    inputs, shapes = inputs_of(module)
    return torch.export.export(module, (), inputs, dynamic_shapes=shapes)


def to_onnx(module: CodeLogits | Recommender, path: Path) -> ExportedProgram:
    """Write a module as ONNX, beside it a file of its weights where they take more than 1.5 GB, and return the program
    that it was made of."""
    outputs = ["logits"] if isinstance(module, CodeLogits) else ["rows", "scores"]
    options = {"dynamic_shapes": inputs_of(module)[1], "output_names": outputs, "verbose": False}
    program = to_program(module)
    torch.onnx.export(program, dynamo=True, **options).save(path)
    return program


def load(folder: str) -> RecommendationPipeline:
    """The pipeline of a checkpoint.

    Raises:
        ValueError: for a folder that is no checkpoint.
    """
    for name in ("config.json", "model*.safetensors", "item_codes.safetensors"):
        if not any(Path(folder).glob(name)):
            raise ValueError(f"{folder} has no {name}: give the folder of a checkpoint, which run_training.py writes.")
    return pipeline("recommendation", model=folder)


def compare(recommender: RecommendationPipeline, folder: Path, top_k: int, users: int = 32) -> dict[str, float]:
    """How far the graphs in a folder are from the model, on random histories, an empty one among them.

    Returns:
        The largest differences between `logits` and between `scores`, and the share of equal `rows`. Items whose
        scores are less than rounding apart may stand in another order.
    """
    tokenizer, model = recommender.tokenizer, recommender.model
    index = ItemIndex(tokenizer.item_codes, known_ids=tokenizer.known_ids, backend="exact")
    random = np.random.default_rng(0)
    lengths = random.integers(0, tokenizer.model_max_length + 1, users)
    lengths[0] = 0
    histories = [[tokenizer.catalogue.item_ids[row] for row in random.integers(0, len(index), n)] for n in lengths]
    batch = tokenizer(histories, return_tensors="pt")
    best = model.recommend(**batch, index=index, top_k=top_k, empty_history_scores=recommender.popularity)
    inputs = {name: batch[name].numpy() for name in batch}
    rows, scores = onnxruntime.InferenceSession(folder / "recommend.onnx").run(None, inputs)
    del inputs["item_ids"]
    (logits,) = onnxruntime.InferenceSession(folder / "code_logits.onnx").run(None, inputs)
    with torch.no_grad():
        wanted = model(batch["input_ids"], batch["attention_mask"], known_ids=batch["known_ids"]).logits[:, 0]
    served = best.scores.isfinite().numpy()  # of a small catalogue, no item may be left
    return {
        "logits": float(np.abs(logits - wanted.numpy())[lengths > 0].max()),
        "scores": float(np.abs(scores - best.scores.numpy())[served].max()),
        "rows": float((rows == best.item_ids.numpy()).mean()),
    }


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder that run_training.py wrote")
    parser.add_argument("--output_dir", required=True, help="folder for the graphs")
    parser.add_argument("--top_k", type=int, default=10, help="items to recommend")
    given = parser.parse_args(arguments)
    recommender, output = load(given.checkpoint), Path(given.output_dir)
    index = ItemIndex(recommender.tokenizer.item_codes, known_ids=recommender.tokenizer.known_ids)
    whole = Recommender(recommender.model, index, given.top_k, recommender.popularity)
    output.mkdir(parents=True, exist_ok=True)
    to_onnx(CodeLogits(recommender.model), output / "code_logits.onnx")
    to_onnx(whole, output / "recommend.onnx")
    found = compare(recommender, output, given.top_k)
    print(
        f"{output} has code_logits.onnx and recommend.onnx, which differ from the model by {found['logits']:.1e} in "
        f"logits and {found['scores']:.1e} in scores at the most; {found['rows']:.1%} of the rows are the same."
    )
    return found


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"export_onnx.py: {error}")
