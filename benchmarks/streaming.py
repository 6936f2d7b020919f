"""Tokenising and training from disk: speed and resident memory.

    python -m benchmarks.streaming --vectors ../shared/data/beauty/minilm_l6.float16.npy --threads 1

1. A catalogue of `--millions` items out of the vectors given, with noise and 2 % equal items, is written to disk,
   tokenised with a work folder, saved, and loaded by a new process.
2. FAIR trains on `--users` users of ten items each, from disk: memory during training must not grow with them.
"""

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from benchmarks.records import in_own_process, record
from modeling_fair import FairConfig, FairForGenerativeRecommendation, FairTrainer, FairTrainingArguments
from modeling_fair.markdown_fair import markdown_table
from tokenization_fair import FairTokenizer
from tokenization_fair.preprocessing_fair import prepare_datasets

CHUNK, FIT_ITEMS, STEPS, CATALOGUE = 100_000, 8_192, 200, 10_000
SMALL: dict[str, Any] = {"num_codebooks": 4, "codebook_size": 16}


def anonymous_mib() -> int:
    """Memory of the process that no file stands behind; mapped files come and go with the page cache."""
    lines = (line.split() for line in Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:])
    return next(int(words[1]) for words in lines if words[0] == "Anonymous:") // 1024


class Peak(threading.Thread):
    """The most anonymous memory, looked up every 50 ms, above that at the start."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start_mib = self.most = anonymous_mib()
        self.running = True
        self.start()

    def run(self) -> None:
        while self.running:
            self.most = max(self.most, anonymous_mib())
            time.sleep(0.05)

    def stop(self) -> int:
        self.running = False
        self.join()
        return self.most - self.start_mib


def write_catalogue(folder: Path, source: str, count: int) -> Any:
    """Vectors (.npy) and items (Arrow) on disk; every 50th vector is that of the item before it."""
    import pyarrow as pa
    from datasets import Dataset
    from datasets.arrow_writer import ArrowWriter

    base, rng = np.load(source).astype(np.float32), np.random.default_rng(0)
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float16, (count, base.shape[1]))
    with ArrowWriter(path=str(folder / "items.arrow")) as writer:
        for start in range(0, count, CHUNK):
            rows = np.arange(start, min(start + CHUNK, count))
            noisy = base[rows % len(base)] + 0.02 * rng.standard_normal((len(rows), base.shape[1]), dtype=np.float32)
            noisy[49::50] = noisy[48::50]
            vectors[rows[0] : rows[-1] + 1] = noisy
            titles = [f"Moisturising cream with a name, edition {row:06d}" for row in rows]
            writer.write_table(pa.table({"item_id": [f"B{row:09d}" for row in rows], "title": titles}))
        writer.finalize()
    return Dataset.from_file(str(folder / "items.arrow"))


def tokenise(folder: Path, source: str, count: int) -> dict[str, float]:
    items = write_catalogue(folder, source, count)
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    fit_ids = (f"B{row:09d}" for row in np.linspace(0, count - 1, FIT_ITEMS).astype(int))
    peak, start = Peak(), time.perf_counter()
    tokenizer = FairTokenizer.fit(
        items, embeddings=vectors, fit_item_ids=fit_ids, work_dir=folder / "work", show_progress=True
    )
    seconds, most = time.perf_counter() - start, peak.stop()
    start = time.perf_counter()
    tokenizer.save_pretrained(folder / "tokenizer")
    return {"seconds": seconds, "peak_mib": most, "save_seconds": time.perf_counter() - start}


def load(folder: Path) -> dict[str, float]:
    before, start = anonymous_mib(), time.perf_counter()
    tokenizer = FairTokenizer.from_pretrained(folder / "tokenizer")
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "bytes_per_item": (anonymous_mib() - before) * 2**20 / len(tokenizer.catalogue)}


def train(folder: Path, users: int) -> dict[str, Any]:
    """Sequences in Parquet, split, prepared and trained on as run_training.py does."""
    import duckdb
    from datasets import Dataset

    from data_fair import split_leave_one_out

    sequences_file = folder / f"{users}.parquet"
    duckdb.execute(
        "COPY (SELECT 'u' || range AS user_id, list_transform(range(10), lambda k: 'i' ||"
        f" (hash(range * 10 + k) % {CATALOGUE})::VARCHAR) AS item_ids FROM range({users})) TO '{sequences_file}'"
    )
    items = [{"item_id": f"i{row}", "title": f"item {row}"} for row in range(CATALOGUE)]
    vectors = np.random.default_rng(0).normal(size=(CATALOGUE, 16)).astype(np.float32)
    tokenizer = FairTokenizer.fit(items, embeddings=vectors, **SMALL, show_progress=False)
    start, peak = time.perf_counter(), Peak()
    sequences = Dataset.from_parquet(str(sequences_file), cache_dir=str(folder / "cache"))
    data = prepare_datasets(split_leave_one_out(sequences), tokenizer)
    prepared, prepared_peak = time.perf_counter() - start, peak.stop()
    during: list[int] = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % (STEPS // 10) == 0:
                during.append(anonymous_mib())

    trainer = FairTrainer(
        model=FairForGenerativeRecommendation(
            FairConfig(**SMALL, hidden_size=32, intermediate_size=48, num_attention_heads=2)
        ),
        args=FairTrainingArguments(
            output_dir=str(folder / "run"), max_steps=STEPS, per_device_train_batch_size=64, use_cpu=True,
            eval_strategy="no", save_strategy="no", load_best_model_at_end=False, disable_tqdm=True, report_to="none",
        ),
        processing_class=tokenizer, train_dataset=data["train"], callbacks=[Watch()],
    )  # fmt: skip
    trainer.train()
    return {"prepare_seconds": prepared, "prepare_peak_mib": prepared_peak, "during_mib": during}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", required=True, help=".npy file of item vectors, unit length")
    parser.add_argument("--millions", type=float, default=1, help="items to tokenise; default 1 million")
    parser.add_argument("--users", type=int, nargs=2, default=[100_000, 1_000_000], help="default 100 k and 1 million")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; default 1")
    parser.add_argument("--folder", help="where to write; default a temporary folder")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.part:
        folder, count = Path(options.folder), int(options.millions * 1e6)
        if options.part == "tokenise":
            result: dict[str, Any] = tokenise(folder, options.vectors, count)
        elif options.part == "load":
            result = load(folder)
        else:
            result = train(folder, int(options.part))
        print(json.dumps(result))
        return
    figures: list[dict[str, Any]] = []

    def figure(name: str, value: float, unit: str, **notes: Any) -> None:
        figures.append({"figure": name, "value": round(value, 2), "unit": unit, **notes})

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        arguments = ["--vectors", options.vectors, "--millions", str(options.millions), "--folder", folder]
        arguments += ["--threads", str(options.threads), "--part"]
        tokenised, loaded = in_own_process(*arguments, "tokenise"), in_own_process(*arguments, "load")
        size = f"{options.millions:g}m"
        figure(f"tokenise_{size}_seconds", tokenised["seconds"], "s, vectors given, fit included", fit_items=FIT_ITEMS)
        figure(f"tokenise_{size}_peak_memory", tokenised["peak_mib"], "MiB beyond the start")
        figure(f"load_{size}_seconds", loaded["seconds"], "s")
        figure(f"load_{size}_bytes_per_item", loaded["bytes_per_item"], "bytes: ids, titles, codes, counts")
        few, many = (in_own_process(*arguments, str(users)) for users in options.users)
    grown = many["during_mib"][-1] - many["during_mib"][0]
    figure("train_memory_growth", grown, f"MiB between step {STEPS // 10} and {STEPS}", users=options.users[1])
    more = many["during_mib"][-1] - few["during_mib"][-1]
    figure("train_memory_of_more_users", more, f"MiB of {options.users[1]:,} users over {options.users[0]:,}")
    figure("prepare_seconds", many["prepare_seconds"], "s", users=options.users[1])
    figure("prepare_peak_memory", many["prepare_peak_mib"], "MiB beyond the start", users=options.users[1])
    print(markdown_table(["figure", "value", "unit"], ((row["figure"], row["value"], row["unit"]) for row in figures)))
    settings = {"millions": options.millions, "users": options.users, "steps": STEPS}
    print(f"Written to {record('streaming', figures, settings, torch.device('cpu'))}.")


if __name__ == "__main__":
    main()
