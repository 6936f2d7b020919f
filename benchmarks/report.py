"""Write docs/measured.md's tables of speeds, noise, new and last items from the records in benchmarks/results.

python -m benchmarks.report
"""

import json
from collections.abc import Callable
from typing import Any

from benchmarks import last_items, new_items, robustness
from benchmarks.records import MEASURED, RESULTS, write_between
from modeling_fair.markdown_fair import markdown_table

# Figure, what it says, what it is held against, format. The JSON files have more.
ROWS = [
    ("train_targets_ratio", "targets/s in RPG's configuration, d 448", "GPT2Model, padded, all heads", "{:.1f} x"),
    ("train_matmul_efficiency", "useful operations of a FAIR step, d 512", "a bf16 matrix product's rate", "{:.2f}"),
    ("train_peak_memory_ratio", "peak memory of that step", "FAIR padded, fp32", "{:.3f}"),
    ("padded_share_ours", "padding in a batch", "{padded_share_naive:.0%} when padded to 50", "{:.0%}"),
    ("recommend_32_users_ratio", "32 users, 12,101 items, fp32", "padded forward + dense graph", "{:.1f} x"),
    ("recommend_32_users_ratio_bf16", "the same, weights in bf16", "padded forward + dense graph", "{:.1f} x"),
    ("recommend_32_users_ratio_to_gather", "the same, fp32", "padded forward + gathering", "{:.1f} x"),
    ("exact_1m_ms_per_user_core", "exact top 10 of 1M items, 32 users at once", "", "{:.2f} ms a user"),
    ("exact_1m_ratio_to_gather", "the same", "gathering", "{:.0f} x"),
    ("exact_1m_search_memory", "the same, memory beyond the codes", "", "{:.0f} MiB"),
    ("approximate_own_recall", "approximate, 12,101 items, 5 % visited", "exact top 10", "{:.3f} found"),
    ("approximate_1m_recall", "approximate, 1M items, 5 % visited", "exact top 10", "{:.3f} found"),
    ("approximate_10m_recall", "approximate, 10M items, 5 % visited", "exact top 10", "{:.3f} found"),
    ("approximate_1m_p50_ms", "one user, 1M items, search alone, p50", "", "{:.1f} ms"),
    ("approximate_10m_p50_ms", "one user, 10M items, search alone, p50", "", "{:.1f} ms"),
    ("one_user_forward_ms", "one user, forward pass, d 256", "", "{:.1f} ms"),
    ("serving_one_user_p50_ms", "FAIR best, 12,101 items, ids to titles: one user, p50", "", "{:.1f} ms"),
    ("serving_ms_a_user", "the same, 32 users at once", "", "{:.2f} ms a user"),
    ("serving_without_prior_ms_a_user", "the same without its prior", "", "{:.2f} ms a user"),
    ("tokenise_1m_seconds", "tokenising 1M items from their vectors, fit included", "", "{:.0f} s"),
    ("load_1m_bytes_per_item", "a loaded tokenizer of 1M items", "", "{:.0f} bytes an item"),
    ("train_memory_of_more_users", "memory of training on 1M users", "100,000 users", "{:+.0f} MiB"),
]  # fmt: skip


def read_records() -> dict[str, dict[str, Any]]:
    """Figure -> its record."""
    records: dict[str, dict[str, Any]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, list):
            records.update({entry["figure"]: {**entry, "file": path.name} for entry in content})
    return records


def speeds(records: dict[str, dict[str, Any]]) -> str:
    """The table, with the machines it was measured on."""
    values = {name: entry["value"] for name, entry in records.items()}
    rows = [
        (what, against.format(**values), form.format(values[name]), f"`{name}`")
        for name, what, against, form in ROWS
        if name in values
    ]
    shown = [records[name] for name, *_ in ROWS if name in records]
    files: dict[str, str] = {}
    for entry in shown:
        machine, commit = entry["machine"], (entry["commit"] or "")[:7]
        files[entry["file"]] = f"`{entry['command']}` ({machine['threads']} thread(s), {machine['device']}, {commit})"
    commands = "\n".join(f"* {line}" for line in files.values())
    return f"{markdown_table(['measured', 'against', 'figure', 'name in benchmarks/results'], rows)}\n\n{commands}\n"


def of_record(name: str, table: Callable[[list[dict[str, Any]]], str]) -> str:
    """A table of one record's figures, with what made it."""
    figures = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return f"{table(figures)}\n\n* `{figures[0]['command']}` ({figures[0]['commit'][:7]})\n"


def sections() -> dict[str, str]:
    """The text of each part of docs/measured.md that is made of records, by its name."""
    return {
        "speeds": speeds(read_records()),
        "noise": of_record("robustness", robustness.table),
        "new items": of_record("new_items", new_items.table),
        "last items": of_record("last_items", last_items.table),
    }


def main() -> None:
    for name, text in sections().items():
        write_between(MEASURED, f"<!-- {name}: made by benchmarks/report.py -->\n", text, f"<!-- /{name} -->\n")


if __name__ == "__main__":
    main()
