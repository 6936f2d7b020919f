"""Coverage@K for the `evaluate` library."""

import evaluate

from .ranked_lists import PREDICTIONS, RankedListsMetric, check_each_once, check_whole_number

DESCRIPTION = """
Coverage@K: the share of the catalogue's items that are among the best K of at least one user.
"""
INPUTS = f"""
Args:{PREDICTIONS.rstrip()}
    k: how many items of each list count, 10 by default.
    catalogue_size: how many items could have been recommended.

Returns:
    coverage@k, from 0 to 1, under its name with the number, such as "coverage@10".

Example:
    >>> coverage = evaluate.load("metrics/coverage_at_k.py")
    >>> coverage.compute(predictions=[["a", "b"], ["b", "c"]], k=2, catalogue_size=12)
    {{'coverage@2': 0.25}}
"""
CITATION = """
@inproceedings{ge2010beyond,
  title = {Beyond Accuracy: Evaluating Recommender Systems by Coverage and Serendipity},
  author = {Ge, Mouzhi and Delgado-Battenfeld, Carla and Jannach, Dietmar},
  booktitle = {Proceedings of the Fourth ACM Conference on Recommender Systems},
  pages = {257--260},
  year = {2010}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(DESCRIPTION, INPUTS)
class CoverageAtK(RankedListsMetric):
    texts = DESCRIPTION, CITATION, INPUTS
    inputs = ("predictions",)

    def _compute(self, predictions: list, catalogue_size: int, k: int = 10) -> dict[str, float]:
        check_whole_number("k", k)
        check_whole_number("catalogue_size", catalogue_size)
        check_each_once("predictions", predictions)
        shown = {item for ranked in predictions for item in ranked[:k]}
        if len(shown) > catalogue_size:
            raise ValueError(f"predictions holds {len(shown)} different items: catalogue_size is {catalogue_size}.")
        return {f"coverage@{k}": len(shown) / catalogue_size}
