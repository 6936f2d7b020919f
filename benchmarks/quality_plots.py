"""Pictures of the records of benchmarks/quality.py: how models learned, and for which targets they are right."""

from pathlib import Path
from typing import Any

from benchmarks.quality import SELECT
from modeling_fair.plots_fair import import_matplotlib


def draw(records: list[dict[str, Any]], dataset: str, names: dict[str, str], path: Path) -> None:
    """Write an SVG of a data set's runs.

    Args:
        records: of all runs.
        dataset: whose are shown.
        names: model -> its name in the picture; others are left out.
        path: of the SVG.
    """
    matplotlib = import_matplotlib()
    shown = [record for record in records if record["dataset"] == dataset and record["model"] in names]
    palette = [*matplotlib.colormaps["tab20"].colors, *matplotlib.colormaps["tab20b"].colors]
    colours = {model: palette[number % len(palette)] for number, model in enumerate(names)}
    figure = matplotlib.figure.Figure(figsize=(13, 4.5), layout="constrained")
    learning, targets = figure.subplots(1, 2)
    labelled: set[tuple[Any, str]] = set()

    def line(axes: Any, record: dict[str, Any], values: list[float]) -> None:
        model = record["model"]
        label = names[model] if (axes, model) not in labelled else None
        labelled.add((axes, model))
        axes.plot(range(1, len(values) + 1), values, color=colours[model], linewidth=1.2, label=label)

    for record in shown:
        if curve := record.get(f"validation_{SELECT}"):  # after each epoch
            line(learning, record, curve)
        if "by_popularity" in record:
            tenths = [group for group in record["by_popularity"] if group["name"].startswith("tenth")]
            line(targets, record, [group["test"]["recall@10_seen_removed"] for group in tenths])
    learning.set(title="Learning, without the prior", xlabel="epoch", ylabel="validation NDCG@10, seen kept")
    targets.set(
        title="By how often targets were met in training, with the prior but for ablations",
        xlabel="tenth of the users, rarest targets first",
        ylabel="test Recall@10, seen removed",
    )
    for axes in (learning, targets):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    with matplotlib.rc_context({"svg.hashsalt": "quality"}):  # the same records, the same file
        figure.savefig(path, metadata={"Date": None})
