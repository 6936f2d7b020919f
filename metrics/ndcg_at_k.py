"""NDCG@K for the `evaluate` library."""

import evaluate
import numpy as np

from .ranked_lists import PREDICTIONS, REFERENCES, RankedListsMetric, hits_of

DESCRIPTION = """
NDCG@K, normalised discounted cumulative gain: a relevant item at place r (from 1) among the best K gains
1 / log2(r + 1), and a user's sum is divided by that of the best possible list; mean over users.
"""
INPUTS = f"""
Args:{PREDICTIONS.rstrip()}{REFERENCES.rstrip()}
    k: how many items of each list count, 10 by default.

Returns:
    ndcg@k, from 0 to 1, under its name with the number, such as "ndcg@10".

Example:
    >>> ndcg = evaluate.load("metrics/ndcg_at_k.py")
    >>> ndcg.compute(predictions=[["a", "b", "c"], ["d", "e", "f"]], references=[["a"], ["f"]], k=3)
    {{'ndcg@3': 0.75}}
"""
CITATION = """
@article{jarvelin2002cumulated,
  title = {Cumulated gain-based evaluation of {IR} techniques},
  author = {J{\\"a}rvelin, Kalervo and Kek{\\"a}l{\\"a}inen, Jaana},
  journal = {ACM Transactions on Information Systems},
  volume = {20},
  number = {4},
  pages = {422--446},
  year = {2002}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(DESCRIPTION, INPUTS)
class NDCGAtK(RankedListsMetric):
    texts = DESCRIPTION, CITATION, INPUTS
    inputs = ("predictions", "references")

    def _compute(self, predictions: list, references: list, k: int = 10) -> dict[str, float]:
        hits = hits_of(predictions, references, k)
        gains = 1 / np.log2(np.arange(k) + 2)
        shares = [
            gains[places].sum() / gains[: len(relevant)].sum()
            for places, relevant in zip(hits, references, strict=True)
        ]
        return {f"ndcg@{k}": float(np.mean(shares))}
