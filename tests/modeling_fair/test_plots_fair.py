"""The pictures of a run show what was logged, and a run without logs is no error."""

import numpy as np
from PIL import Image

from modeling_fair.plots_fair import plot_training

CODES = np.random.default_rng(0).integers(0, 8, (40, 4)).astype(np.uint8)


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), dtype=int)


def colours(image: np.ndarray, left: float, right: float) -> int:
    """Pixels that are no grey, within a part of the width."""
    part = image[:, int(left * image.shape[1]) : int(right * image.shape[1])]
    return int((np.ptp(part, axis=2) > 40).sum())


def test_each_panel_shows_its_logs(tmp_path):
    losses = [{"epoch": step / 10, "loss": 5 - step / 5, "mtp_loss": 4 - step / 5} for step in range(10)]
    validation = [{"epoch": epoch, "eval_recall@10": 0.1 * epoch, "eval_ndcg@10": 0.05 * epoch} for epoch in range(3)]
    whole = pixels(plot_training(tmp_path, losses + validation, CODES, 8))
    later = [{"epoch": 3, "train_runtime": 1.0}, {"epoch": 3, "eval_recall@10": 0.9, "eval_ndcg@10": 0.9}]
    assert (whole == pixels(plot_training(tmp_path, losses + validation + later, CODES, 8))).all()
    without = pixels(plot_training(tmp_path, losses, CODES, 8))
    empty = pixels(plot_training(tmp_path, [], CODES, 8))
    assert (tmp_path / "training.png").exists()
    assert colours(whole, 0, 1 / 3) > 500 > 50 > colours(empty, 0, 1 / 3)
    assert colours(whole, 0.34, 0.66) > 500 > 50 > colours(without, 0.34, 0.66)
    assert colours(empty, 2 / 3, 1) > 500, "code use needs no logs"
