"""What every benchmark shares: timing, the machine, and records of measured figures."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from training_fair.records import provenance, write_json

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
MEASURED = README.parent / "docs" / "measured.md"


def machine(device: torch.device) -> dict[str, Any]:
    """What a figure hangs on beside the code."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return (names or [platform.processor() or platform.machine()])[0]


def record(name: str, figures: Iterable[dict[str, Any]], settings: dict[str, Any], device: torch.device) -> Path:
    """Write `benchmarks/results/<name>.json`: one entry a figure (`figure`, `value`, `unit` and any notes), each with
    the command, commit, versions, machine and settings that it was measured with."""
    made = provenance()
    folder = RESULTS.parents[1]
    changed = subprocess.run(["git", "-C", str(folder), "status", "--porcelain"], capture_output=True, text=True)
    common = {
        "command": " ".join(["python", "-m", _module(), *(without_machine(word) for word in sys.argv[1:])]),
        "commit": made["commit"],
        "uncommitted_changes": bool(changed.stdout.strip()),
        "versions": made["versions"],
        "machine": machine(device),
        "settings": settings,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    write_json(path, [{**figure, **common} for figure in figures])
    return path


def without_machine(word: str) -> str:
    """An absolute path by its last part: where things lie is the machine's own."""
    return Path(word).name if Path(word).is_absolute() else word


def forget_peak(device: torch.device) -> None:
    """Let the most so far be what is in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _module() -> str:
    """The benchmark that runs, as `python -m` names it."""
    return f"benchmarks.{Path(sys.argv[0]).stem}"


def seconds(call: Callable[[], Any], device: torch.device, repeat: int = 5, warm_up: int = 1) -> float:
    """Median time of a call."""
    times = []
    for turn in range(warm_up + repeat):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if turn >= warm_up:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def matmul_rate(device: torch.device, dtype: torch.dtype = torch.bfloat16, size: int = 2048) -> float:
    """Operations a second of a square matrix product, median of 5."""
    matrix = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / seconds(lambda: matrix @ matrix, device)


def memory(device: torch.device) -> tuple[int, int]:
    """Bytes in use now, and the most so far: of the process on a CPU, of tensors on a GPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    now, most = (int(status.split(f"{name}:", 1)[1].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


def in_own_process(*arguments: str) -> Any:
    """Run this benchmark again with `arguments` and return the JSON of its last line: memory is measured from a fresh
    start."""
    command = [sys.executable, "-m", _module(), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"The measuring process failed: {run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def write_between(path: Path, begin: str, text: str, end: str) -> None:
    """Replace what stands between two lines of a file."""
    before, rest = path.read_text(encoding="utf-8").split(begin)
    path.write_text(f"{before}{begin}{text}{end}{rest.split(end)[1]}", encoding="utf-8")
