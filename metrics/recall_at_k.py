"""Recall@K for the `evaluate` library."""

import evaluate
import numpy as np

from .ranked_lists import PREDICTIONS, REFERENCES, RankedListsMetric, hits_of

DESCRIPTION = """
Recall@K: the share of a user's relevant items that are among the best K recommended, mean over users. With one
relevant item a user it is the share of users whose item was found, also called the hit rate.
"""
INPUTS = f"""
Args:{PREDICTIONS.rstrip()}{REFERENCES.rstrip()}
    k: how many items of each list count, 10 by default.

Returns:
    recall@k, from 0 to 1, under its name with the number, such as "recall@10".

Example:
    >>> recall = evaluate.load("metrics/recall_at_k.py")
    >>> recall.compute(predictions=[["a", "b", "c"], ["d", "e", "f"]], references=[["b"], ["f"]], k=2)
    {{'recall@2': 0.5}}
"""
CITATION = """
@book{manning2008introduction,
  title = {Introduction to Information Retrieval},
  author = {Manning, Christopher D. and Raghavan, Prabhakar and Sch{\\"u}tze, Hinrich},
  publisher = {Cambridge University Press},
  year = {2008}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(DESCRIPTION, INPUTS)
class RecallAtK(RankedListsMetric):
    texts = DESCRIPTION, CITATION, INPUTS
    inputs = ("predictions", "references")

    def _compute(self, predictions: list, references: list, k: int = 10) -> dict[str, float]:
        hits = hits_of(predictions, references, k)
        shares = [len(places) / len(relevant) for places, relevant in zip(hits, references, strict=True)]
        return {f"recall@{k}": float(np.mean(shares))}
