"""Pictures of a training run, to be looked at beside its checkpoint."""

import os
from pathlib import Path
from typing import Any

import numpy as np

PLOTS = "training.png"
LOSSES = {"loss": "all", "mtp_loss": "MTP", "item_loss": "items", "nrt_loss": "NRT", "mim_loss": "MIM"}


def import_matplotlib() -> Any:
    """
    Raises:
        ImportError: without matplotlib.
    """
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.figure
    except ImportError as error:
        raise ImportError("Plots of a run need matplotlib: pip install matplotlib.") from error
    return matplotlib


def plot_training(
    folder: str | os.PathLike, log_history: list[dict[str, Any]], item_codes: np.ndarray, codebook_size: int
) -> Path:
    """Write `training.png`: losses by part, validation metrics, and how often each code is used.

    Args:
        folder: where to.
        log_history: `trainer.state.log_history`; what was evaluated after the training is left out.
        item_codes: (catalogue, num_codebooks).
        codebook_size: codes of a codebook.

    Returns:
        Its path.

    Raises:
        ImportError: without matplotlib.
    """
    matplotlib = import_matplotlib()
    log_history = training_logs(log_history)
    figure = matplotlib.figure.Figure(figsize=(15, 4), layout="constrained")
    losses, validation, usage = figure.subplots(1, 3)

    _curves(losses, log_history, LOSSES)
    losses.set(title="Training losses", xlabel="epoch")
    names = {"eval_recall@10": "Recall@10", "eval_ndcg@10": "NDCG@10"}
    names |= {f"{name}_seen_removed": f"{shown}, seen removed" for name, shown in names.items()}
    _curves(validation, log_history, names)
    validation.set(title="Validation in training, no prior yet", xlabel="epoch", ylim=(0, None))

    counts = np.stack([np.bincount(codes, minlength=codebook_size) for codes in item_codes.T])
    shares = np.sort(counts / max(len(item_codes), 1), axis=1)[:, ::-1]
    for share in shares:
        usage.plot(np.arange(1, codebook_size + 1), share, color="C0", alpha=0.3, linewidth=1)
    usage.axhline(1 / codebook_size, color="black", linestyle="--", linewidth=1, label="all codes alike")
    usage.set(title="Code use, a line a codebook", xlabel="code, most used first", ylabel="share of items")
    usage.legend()

    path = Path(folder) / PLOTS
    matplotlib.backends.backend_agg.FigureCanvasAgg(figure).print_png(str(path))
    return path


def training_logs(log_history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those up to the end of the training: the best weights may be evaluated, and changed, after it."""
    ends = (place for place, log in enumerate(log_history) if "train_runtime" in log)
    return log_history[: next(ends, len(log_history))]


def _curves(axes: Any, log_history: list[dict[str, Any]], names: dict[str, str]) -> None:
    for name, shown in names.items():
        points = [(log["epoch"], log[name]) for log in log_history if name in log and "epoch" in log]
        if points:
            axes.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else None, label=shown)
    if axes.lines:
        axes.legend()
    else:
        axes.text(0.5, 0.5, "nothing was logged", ha="center", va="center", transform=axes.transAxes)
