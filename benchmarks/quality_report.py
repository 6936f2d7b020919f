"""Write the summary of quality, the README's tables and the plot from the records of benchmarks/quality.py.

python -m benchmarks.quality_report
"""

import json
import re
import statistics
from collections import defaultdict
from typing import Any

from benchmarks.quality import RECORDS
from benchmarks.quality_plots import draw
from benchmarks.records import MEASURED, README, write_between
from modeling_fair.markdown_fair import markdown_table
from training_fair.records import write_json

BEGIN, END = "<!-- quality: made by benchmarks/quality_report.py -->\n", "<!-- /quality -->\n"
PROTOCOLS = {"kept": "", "removed": "_seen_removed"}
NAMES = {
    "popularity": "popularity",
    "counting": "co-occurrence counting, tuned",
    "prior": "FAIR's prior alone (counts and similar items, no learning)",
    "sasrec": "SASRec, full softmax, tuned",
    "tiger": "TIGER",
    "rpg": "RPG",
    "rpg_40_epochs": "RPG, 40 epochs",
    "rpg_centroids": "RPG, from centroids",
    "fair_paper": "FAIR paper",
    "fair_paper_centroids": "FAIR paper, from centroids",
    "fair_paper_no_fam": "FAIR paper, standard attention",
    "fair_paper_no_nrt": "FAIR paper, no NRT",
    "fair_paper_no_mim": "FAIR paper, no MIM",
    "fair_paper_75_epochs": "FAIR paper, at most 75 epochs",
    "fair_paper_512": "FAIR paper, d 512",
    "fair_best": "FAIR best",
    "fair_best_standard": "FAIR best, standard attention",
    "fair_best_no_residuals": "FAIR best, no item residuals",
    "fair_best_permuted_codes": "FAIR best, items' codes permuted",
}
TITLES = {"beauty": "Beauty", "ml-100k": "MovieLens 100k", "sports": "Sports"}
FUSED = " + prior"
# Of means over the seeds that both have, seen items kept: a name, and the two models.
RATIOS = (
    ("paper_vs_rpg", "fair_paper", "rpg", "recall@5"),
    ("paper_centroids_vs_rpg", "fair_paper_centroids", "rpg", "recall@5"),
    ("both_centroids", "fair_paper_centroids", "rpg_centroids", "recall@5"),
    ("paper_vs_rpg_same_patience", "fair_paper_75_epochs", "rpg", "recall@5"),
    ("paper_vs_rpg_same_epochs", "fair_paper", "rpg_40_epochs", "recall@5"),
    ("paper_vs_no_fam", "fair_paper", "fair_paper_no_fam", "recall@5"),
    ("paper_vs_no_nrt", "fair_paper", "fair_paper_no_nrt", "recall@5"),
    ("paper_vs_no_mim", "fair_paper", "fair_paper_no_mim", "recall@5"),
    ("focused_vs_standard", "fair_best", "fair_best_standard", "recall@10"),
    ("focused_vs_standard_alone", "fair_best - prior", "fair_best_standard - prior", "recall@10"),
)
# What the README shows.
SHORT_BEGIN, SHORT_END = "<!-- results: made by benchmarks/quality_report.py -->\n", "<!-- /results -->\n"
SHORT_METRICS = ("recall@10", "ndcg@10")
SHORT = (
    "popularity",
    "counting",
    "prior",
    *(model + fused for fused in ("", FUSED) for model in ("sasrec", "tiger", "rpg", "fair_paper")),
    "fair_best",
)


def read_records() -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RECORDS.glob("*.json"))]


def runs_by_model(records: list[dict[str, Any]]) -> dict[tuple[str, str], dict[int, dict[str, float]]]:
    """(data set, model) -> seed -> test metrics. A model with the prior is one of its own, but for FAIR best,
    of which it is a part and whose other form is "without"."""
    runs: dict[tuple[str, str], dict[int, dict[str, float]]] = defaultdict(dict)
    for record in records:
        of_set, model, seed = record["dataset"], record["model"], record["seed"]
        best = model.startswith("fair_best")
        alone, fused = (f"{model} - prior", model) if best else (model, model + FUSED)
        runs[of_set, alone][seed] = record["results"]["test"]
        if "results_with_prior" in record:
            runs[of_set, fused][seed] = record["results_with_prior"]["test"]
    return runs


def summary(runs: dict[tuple[str, str], dict[int, dict[str, float]]]) -> list[dict[str, Any]]:
    """Figures by name: FAIR best's are `<data set>_<protocol>_<metric>`, others have the model's name before them."""
    figures = []
    for (of_set, model), tests in sorted(runs.items()):
        prefix = "" if model == "fair_best" else model.replace(FUSED, "_fused").replace(" - prior", "_alone") + "_"
        for protocol, suffix in PROTOCOLS.items():
            for metric in ("recall@5", "ndcg@5", "recall@10", "ndcg@10"):
                values = [test[metric + suffix] for test in tests.values()]
                spread = {"spread": statistics.stdev(values)} if len(values) > 1 else {}
                name = f"{prefix}{of_set}_{protocol}_{metric}"
                figures.append({"figure": name, "value": statistics.mean(values), "seeds": len(values), **spread})
    for of_set in sorted({of_set for of_set, _ in runs}):
        for name, model, other, metric in RATIOS:
            ours, theirs = runs.get((of_set, model), {}), runs.get((of_set, other), {})
            if both := sorted(ours.keys() & theirs.keys()):
                ratio = sum(ours[seed][metric] for seed in both) / sum(theirs[seed][metric] for seed in both)
                figures.append({"figure": f"{of_set}_{name}_{metric}_ratio", "value": ratio, "seeds": len(both)})
    return figures


def title_of(dataset: str) -> str:
    return TITLES.get(dataset, dataset.capitalize())


def name_of(model: str) -> str:
    plain = model.removesuffix(FUSED).removesuffix(" - prior")
    if model.endswith(" - prior"):
        return f"{NAMES[plain]}, without its prior"
    return NAMES[plain] + (" + the same prior" if model.endswith(FUSED) else "")


def tables(records: list[dict[str, Any]]) -> str:
    """The table of each data set."""
    runs = runs_by_model(records)
    order = [variant for model in NAMES for variant in (model, model + FUSED, f"{model} - prior")]
    metrics = [metric + suffix for suffix in PROTOCOLS.values() for metric in ("recall@5", "recall@10", "ndcg@10")]
    header = ["test", "R@5 kept", "R@10 kept", "N@10 kept", "R@5 removed", "R@10 removed", "N@10 removed", "seeds"]
    text = ""
    for of_set in sorted({of_set for of_set, _ in runs}):
        rows = []
        for model in order:
            if tests := runs.get((of_set, model)):
                means = [statistics.mean(test[metric] for test in tests.values()) for metric in metrics]
                rows.append([name_of(model), *(f"{mean:.4f}" for mean in means), len(tests)])
        text += f"{title_of(of_set)}:\n\n{markdown_table(header, rows)}\n\n"
    return text + by_popularity(records) + costs(records)


def short_table(records: list[dict[str, Any]]) -> str:
    """The README's: a row a model, Recall@10 / NDCG@10, means over seeds."""
    runs = runs_by_model(records)
    sets = sorted({of_set for of_set, _ in runs})
    rows = []
    for model in SHORT:
        cells = []
        for of_set in sets:
            for suffix in PROTOCOLS.values():
                tests = runs.get((of_set, model), {}).values()
                pair = [statistics.mean(test[name + suffix] for test in tests) for name in SHORT_METRICS if tests]
                cells.append(" / ".join(f"{mean:.4f}" for mean in pair) or "not run")
        if any(cell != "not run" for cell in cells):
            rows.append([name_of(model), *cells])
    header = ["test", *(f"{title_of(of_set)}, {protocol}" for of_set in sets for protocol in PROTOCOLS)]
    return f"{markdown_table(header, rows)}\n"


def by_popularity(records: list[dict[str, Any]]) -> str:
    """Recall@10 by how often targets were met in training, of the models that were looked at."""
    models = ("fair_best", "fair_best_permuted_codes")
    shown = [record for record in records if record["model"] in models]
    if not shown:
        return ""
    rows = []
    for record in shown:
        found = [f"{group['test']['recall@10_seen_removed']:.3f}" for group in record["by_popularity"]]
        rows.append([f"{record['dataset']}, seed {record['seed']}: {NAMES[record['model']]}", *found])
    header = ["R@10, seen removed", "met < 10 times", *(f"tenth {number}" for number in range(1, 11))]
    return f"By how often the target was met in training, from the rarest tenth of the users' targets to the most \
frequent:\n\n{markdown_table(header, rows)}\n\n"


def costs(records: list[dict[str, Any]]) -> str:
    """Where each row comes from."""
    lines: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        lines[record["dataset"], record["model"]].append(record)
    text = ""
    for (of_set, model), of_model in sorted(lines.items()):
        whole = [record["seconds"] / 60 for record in of_model if _timed(record)]
        minutes = f"{statistics.mean(whole):.0f} minutes a seed" if whole else "interrupted, so its time is unknown"
        memory = max(record["peak_memory_mib"] for record in of_model) / 1024
        seeds = " ".join(str(record["seed"]) for record in of_model)
        commits = ", ".join(sorted({(record["commit"] or "")[:7] for record in of_model}))
        flags = "".join(sorted({re.sub(r".*--seeds( \d+)*", "", record["command"]).rstrip() for record in of_model}))
        text += f"* `python -m benchmarks.quality --dataset {of_set} --models {model} --seeds {seeds}{flags}`: "
        text += f"{minutes}, {memory:.1f} GiB ({commits})\n"
    known = sum(record["seconds"] for record in records if _timed(record)) / 3600
    return f"{text}\nIn all {known:.1f} core-hours, runs of unknown time not counted.\n"


def _timed(record: dict[str, Any]) -> bool:
    """Whether all parts of a run are in its time."""
    return not record.get("resumed") or record.get("seconds_before") is not None


def main() -> None:
    records = read_records()
    write_json(RECORDS.with_suffix(".json"), summary(runs_by_model(records)))
    write_between(MEASURED, BEGIN, tables(records), END)
    write_between(README, SHORT_BEGIN, short_table(records), SHORT_END)
    for dataset in sorted({record["dataset"] for record in records}):
        draw(records, dataset, NAMES, RECORDS.with_name(f"quality_{dataset}.svg"))


if __name__ == "__main__":
    main()
