"""MRR for the `evaluate` library."""

import evaluate
import numpy as np

from .ranked_lists import PREDICTIONS, REFERENCES, RankedListsMetric, hits_of

DESCRIPTION = """
MRR, mean reciprocal rank: 1 / r for a user whose first relevant item is at place r (from 1) of the list, 0 where the
list has none; mean over users.
"""
INPUTS = f"""
Args:{PREDICTIONS.rstrip()}{REFERENCES.rstrip()}
    k: how many items of each list count, all (None) by default.

Returns:
    mrr, from 0 to 1; with k its name has the number, such as "mrr@10".

Example:
    >>> mrr = evaluate.load("metrics/mrr.py")
    >>> mrr.compute(predictions=[["a", "b", "c"], ["d", "e", "f"]], references=[["b"], ["d", "f"]])
    {{'mrr': 0.75}}
"""
CITATION = """
@inproceedings{voorhees1999trec,
  title = {The {TREC}-8 Question Answering Track Report},
  author = {Voorhees, Ellen M.},
  booktitle = {Proceedings of the 8th Text REtrieval Conference},
  pages = {77--82},
  year = {1999}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(DESCRIPTION, INPUTS)
class MRR(RankedListsMetric):
    texts = DESCRIPTION, CITATION, INPUTS
    inputs = ("predictions", "references")

    def _compute(self, predictions: list, references: list, k: int | None = None) -> dict[str, float]:
        hits = hits_of(predictions, references, k)
        reciprocals = [1 / (places[0] + 1) if len(places) else 0.0 for places in hits]
        return {"mrr" if k is None else f"mrr@{k}": float(np.mean(reciprocals))}
