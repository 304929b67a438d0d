"""How long does a checkpoint stop training, and how fast is it written?

::

    python benchmarks/checkpoint.py [--gigabytes 2] [--runs 5]

A table with row-wise momenta is saved (1) synchronously, (2) in the background while steps update
random rows, and loaded; for comparison ``dd`` writes as many bytes to the same disk. All in turn,
several times.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from outcome import RESULTS, circumstances, heading, write

from p5dist.checkpoint.checkpoints import Checkpoints
from p5dist.checkpoint.saver import Saver
from p5dist.storage import Folder

DIM = 128
ROWS_PER_STEP = 5_000


def main() -> None:
    """Measure, then write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "p5dist-bench")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = int(arguments.gigabytes * 1e9 / (DIM + 1) / 4)
    state = {"table": torch.randn(rows, DIM), "momentum": torch.rand(rows)}
    bytes_ = sum(value.numel() * 4 for value in state.values())
    runs = []
    background = _Background(arguments.data / "background", state)
    for number in range(arguments.runs):
        run = {
            "dd": _dd(arguments.data / "dd", bytes_),
            **_waiting(arguments.data / "waiting", state),
            **background.run(number + 1),
        }
        runs.append(run)
        print(f"run {number + 1}: { ({k: round(v, 3) for k, v in run.items()}) }")
    shutil.rmtree(arguments.data)
    median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    result = {
        "question": "checkpoint: stall and write rate",
        "better": dict.fromkeys(runs[0], "lower"),
        "bytes": bytes_, "median": median, "runs": runs,
        **circumstances("checkpoint.py", ("p5dist", "torch", "numpy")),
    }  # fmt: skip
    write("checkpoint", result, _markdown(result), arguments.out)


def _dd(place: Path, bytes_: int) -> float:
    place.parent.mkdir(parents=True, exist_ok=True)
    os.sync()
    began = time.perf_counter()
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={place}", "bs=4M", f"count={bytes_ // (4 << 20)}",
         "conv=fsync"], check=True, capture_output=True,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    place.unlink()
    return seconds


def _waiting(folder: Path, state: dict[str, torch.Tensor]) -> dict[str, float]:
    checkpoints = Checkpoints(Folder.open(str(folder)))
    os.sync()
    began = time.perf_counter()
    saver = Saver(checkpoints, asynchronous=False)
    saver.save(1, state, {})
    saver.wait()
    saved = time.perf_counter()
    checkpoints.require().load(state)
    loaded = time.perf_counter()
    shutil.rmtree(folder)
    return {"waiting": saved - began, "load": loaded - saved}


class _Background:
    """Saves while steps continue; its buffers are kept from run to run, as in training."""

    def __init__(self, folder: Path, state: dict[str, torch.Tensor]) -> None:
        self.state = state
        self.saver = Saver(Checkpoints(Folder.open(str(folder))))
        self.saver.prepare(state)

    def run(self, step: int) -> dict[str, float]:
        alone = self._steps(lambda done: done < 200)
        os.sync()
        began = time.perf_counter()
        self.saver.save(step, self.state, {})
        stall = time.perf_counter() - began
        meanwhile = self._steps(lambda _: self.saver.busy)
        self.saver.wait()
        written = time.perf_counter() - began
        return {
            "stall": stall, "background": written, "step_alone": statistics.median(alone),
            "step_meanwhile": statistics.median(meanwhile),
        }  # fmt: skip

    def _steps(self, go_on: Any) -> list[float]:
        taken: list[float] = []
        table = self.state["table"]
        while go_on(len(taken)):
            began = time.perf_counter()
            index = torch.randint(len(table), (ROWS_PER_STEP,))
            table.index_add_(0, index, table[index] * 1e-6)
            taken.append(time.perf_counter() - began)
        return taken


def _markdown(result: dict[str, Any]) -> str:
    m, size = result["median"], result["bytes"]
    stalls = ", ".join(f"{run['stall']:.3f}" for run in result["runs"])
    lines = [
        ("write the same bytes with dd and fsync", m["dd"], size / m["dd"]),
        ("save that waits", m["waiting"], size / m["waiting"]),
        ("save in the background, until complete", m["background"], size / m["background"]),
        ("load, checksums verified", m["load"], size / m["load"]),
    ]
    table = "".join(f"| {name} | {s:.2f} | {rate / 1e6:,.0f} |\n" for name, s, rate in lines)
    share = m["stall"] / m["waiting"]
    slower = m["step_meanwhile"] / m["step_alone"]
    return (
        heading(f"Checkpoint of {size / 1e9:.1f} GB", result)
        + "Median of the runs; one process, the table is in memory, local disk.\n\n"
        + "| | seconds | MB/s |\n|---|---|---|\n"
        + table
        + f"\nTraining stands still for {m['stall']:.3f} s ({stalls}): **{share:.1%}** of a save "
        f"that waits. Steps that update {ROWS_PER_STEP:,} random rows take "
        f"{m['step_alone'] * 1e3:.2f} ms alone and {m['step_meanwhile'] * 1e3:.2f} ms while the "
        f"checkpoint is written ({slower:.2f} ×).\n"
    )


if __name__ == "__main__":
    main()
