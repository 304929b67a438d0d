"""Synthetic jobs that several benchmarks prepare and train."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from p5dist.data import columns as c
from p5dist.data.manifest import Manifest
from p5dist.observe.metrics_log import read_metrics
from p5dist.storage import Folder, RunFolder

P5DIST = [sys.executable, "-m", "p5dist.cli.main"]
"""The command line, in this environment."""


def p5dist(*words: str, mark: str = "") -> None:
    """Run a command of p5dist to its end.

    Args:
        mark: shown with an error.

    Raises:
        RuntimeError: the command failed; with the end of its output.
    """
    done = subprocess.run([*P5DIST, *words], capture_output=True, text=True)
    if done.returncode:
        end = (done.stdout + done.stderr)[-3000:]
        raise RuntimeError(f"{mark} p5dist {' '.join(words)} ended with {done.returncode}:\n{end}")


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Processes started in this block share the given number of cores (at most all of this
    machine)."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def short(number: float) -> str:
    """``2e7`` for 20,000,000, as in file names and titles."""
    return f"{number:.0e}".replace("e+0", "e").replace("e+", "e")


def write_job(place: Path, job: dict[str, Any]) -> Path:
    """Write the job file as JSON, which is also YAML."""
    place.write_text(json.dumps(job))
    return place


def synthetic_job(log: str, storage: str, **sections: Any) -> dict[str, Any]:
    """A job over the log of ``p5dist synth`` that only trains, unless ``sections`` add stages."""
    return {
        "name": "bench",
        "storage": storage,
        "prepare": {
            "source": {
                "files": f"{log}/part-*.parquet", "format": "parquet",
                "columns": {"timestamp": "timestamp"},
            },
        },
        "evaluate": None, "recommend": None, "report": None,
        **sections,
    }  # fmt: skip


def prepared_job(data: str, interactions: int, *, address: str | None = None) -> dict[str, Any]:
    """A small next-item job; its log is made and prepared below ``data`` if it is missing.

    Args:
        data: folder or URL.
        address: address of a Ray cluster; left out: this machine.
    """
    place = f"{data}/train-{short(interactions)}"
    log = f"{place}/log"
    cluster = [] if address is None else ["--address", address]
    if not (Folder.open(log) / "_synth.json").exists():
        p5dist("synth", log, "--interactions", str(interactions), *cluster)
    job = synthetic_job(
        log,
        f"{place}/runs",
        feed={"max_length": 50},
        model={"dim": 64},
        pretrain={
            "steps": 1, "log_every": 5,
            "objective": {"loss": {"kind": "sampled_softmax", "negatives": 512}},
        },
        scale={} if address is None else {"address": address},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        prepare(write_job(Path(folder) / "job.json", job))
    return job


def prepare(job: Path) -> None:
    """Prepare the data of a job, and remove an earlier pre-training of it."""
    settings = json.loads(job.read_text())
    RunFolder.of(settings["storage"], settings["name"]).training("pretrain").remove()
    p5dist("prepare", str(job))


def synthetic_sequences(data: Path, interactions: int) -> Path:
    """The histories of :func:`prepared_job` as text, one line per user: ``user item item …``."""
    job = prepared_job(str(data), interactions)
    prepared = RunFolder.of(job["storage"], job["name"]).prepare
    place = data / f"synthetic-{short(interactions)}" / "sequences.txt"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("w") as file:
        for shard in Manifest.load(prepared).shards:
            table = (prepared / shard.path).read_table([c.USER, c.ITEM])
            for row in table.to_pylist():
                file.write(f"{row[c.USER]} {' '.join(map(str, row[c.ITEM]))}\n")
    return place


def trained(job: dict[str, Any], *, steps_left_out: int) -> dict[str, float]:
    """Numbers of a finished pre-training: ``rate`` (histories per second) and ``step`` (seconds)
    over the logged lines after the first steps, and ``seconds <part>`` of a step (medians of the
    lines)."""
    stage = RunFolder.of(job["storage"], job["name"]).training("pretrain")
    lines = [line for line in read_metrics(stage) if line["step"] > steps_left_out]
    every = job["pretrain"]["log_every"]
    taken = [sum(line["seconds"].values()) for line in lines]
    histories = sum(line["samples_per_second"] * s for line, s in zip(lines, taken, strict=True))
    parts = lines[-1]["seconds"]
    return {
        "rate": histories / sum(taken),
        "step": sum(taken) / (every * len(lines)),
        **{
            f"seconds {part}": statistics.median(line["seconds"][part] for line in lines) / every
            for part in parts
        },
    }
