"""``python -m p5dist.capacity.table``: the table of docs/operations/sizing.md, as Markdown."""

from __future__ import annotations

from p5dist.capacity.estimate import Estimate, estimate
from p5dist.capacity.machines import machine
from p5dist.capacity.sharding import plan_tables
from p5dist.capacity.show import counts, duration
from p5dist.config import RunConfig, parse_job

MACHINE = "h100x8"
SIZES = (1e9, 1e10, 1e11)
WORKERS = (8, 64, 512)
JOB = """
name: scale
prepare: {source: {files: log.parquet, columns: {timestamp: time}}}
feed: {lanes: 512, max_length: 50}
model: {dim: 256, encoder: {kind: transformer, layers: 4, heads: 4}}
pretrain:
  objective: {kind: causal, loss: {kind: sampled_softmax, negatives: 8192}}
  epochs: 1
  batch_size: 512
"""
PER_WORKER = 512  # histories of a step

COLUMNS = (
    "interactions", "items", "GPUs", "table / GPU", "memory / GPU", "step in float32", "step",
    "histories/s", "epoch", "checkpoint", "limit",
)  # fmt: skip


def cell(interactions: float, workers: int, precision: str = "bf16") -> Estimate:
    """The estimate of one line: fifty interactions per user, a thousand per item."""
    more = [f"pretrain.batch_size={PER_WORKER * workers}", f"pretrain.precision={precision}"]
    job: RunConfig = parse_job(JOB, more)
    manifest = counts(job, interactions, interactions / 50, interactions / 1000)
    hardware = machine(MACHINE)
    tables = plan_tables(job, "pretrain", manifest, hardware, workers)
    return estimate(job, "pretrain", manifest, hardware, workers, tables)


def line(interactions: float, workers: int) -> str:
    """One line of the table in Markdown."""
    found = cell(interactions, workers)
    memory = sum(found.memory.values()) / 2**30
    values = [
        f"{interactions:.0e}".replace("e+", "e"),
        f"{interactions / 1000:.0e}".replace("e+0", "e"),
        str(workers),
        f"{found.memory['tables'] / 2**30:.2f} GiB",
        f"{memory:.1f} GiB" if found.fits else f"{memory:.0f} GiB: too much",
    ]
    if found.fits:
        values += [
            f"{cell(interactions, workers, 'float32').step * 1e3:.1f} ms",
            f"{found.step * 1e3:.1f} ms",
            f"{found.samples_per_second:,.0f}",
            duration(found.epoch),
            f"{found.checkpoint_bytes / 1e9:.1f} GB, {duration(found.checkpoint_seconds)}",
        ]
    else:
        values += ["–"] * 5
    return f"| {' | '.join([*values, found.limit])} |"


def main() -> None:
    """Print all lines."""
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for interactions in SIZES:
        for workers in WORKERS:
            print(line(interactions, workers), flush=True)


if __name__ == "__main__":
    main()
