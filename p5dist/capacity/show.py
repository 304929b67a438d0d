"""``p5dist plan`` on the terminal."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from p5dist.capacity.estimate import Estimate, estimate
from p5dist.capacity.machines import machine
from p5dist.capacity.sharding import plan_tables
from p5dist.config import RunConfig
from p5dist.data.manifest import Manifest, ShardFile
from p5dist.environment.console import console
from p5dist.errors import ConfigError, ShardError
from p5dist.inference.memory import of_scoring_process, vectors_bytes
from p5dist.storage import RunFolder

_VALUES = 1000  # of an attribute, without a manifest
_WIDTH = 768  # of vectors, where data is not prepared


def run(
    job: RunConfig,
    *,
    workers: int,
    machine_name: str,
    stage: str | None,
    interactions: float | None,
    users: float | None,
    items: float | None,
    histories: float | None,
    as_json: bool,
) -> None:
    """Print the plan of a training stage.

    Args:
        stage: the training stage; None: the first training of the job.
        interactions, users, items, histories: counts that replace the counts of the manifest.

    Raises:
        ConfigError: no such machine or stage, or neither counts nor a manifest.
    """
    hardware = machine(machine_name)
    stage = stage or next(iter(job.trainings()), None)
    if stage not in job.trainings():
        raise ConfigError(
            "no such training", where="--stage", value=stage,
            rule=f"the trainings of this job: {', '.join(job.trainings()) or 'none'}",
        )  # fmt: skip
    manifest = counts(job, interactions, users, items, histories)
    tables = plan_tables(job, stage, manifest, hardware, workers)
    found = estimate(job, stage, manifest, hardware, workers, tables)
    ranking = of_scoring_process(job, manifest)
    if as_json:
        print(json.dumps({**as_values(found), "ranking_memory": ranking}, indent=2))
    else:
        lines = [*_screen(found, manifest, machine_name, stage), _ranking(job, manifest, ranking)]
        Console(highlight=False).print(*lines, sep="\n")


def counts(
    job: RunConfig,
    interactions: float | None,
    users: float | None,
    items: float | None,
    histories: float | None = None,
) -> Manifest:
    """A manifest with the given counts; the manifest of the run gives the other counts.

    Raises:
        ConfigError: no data is prepared and a count is missing.
    """
    asked = {
        "interactions": interactions, "users": users, "items": items, "histories": histories
    }  # fmt: skip
    for name, value in asked.items():
        if value is not None and not 1 <= value < math.inf:
            raise ConfigError(
                "no such size of the data", where=f"--{name}", value=value,
                rule="a finite number, at least 1", fix="for example --interactions 1e9",
            )  # fmt: skip
    wanted = {"rows_kept": interactions, "users": users, "items": items}
    given = {name: int(value) for name, value in wanted.items() if value is not None}
    if len(given) < 3:
        try:
            there = Manifest.load(RunFolder.of_job(job).prepare)
        except ShardError as e:
            raise ConfigError(
                "the size of the data is not known", where=e.where,
                rule="counts come from prepared data or from the command line",
                fix="pass --interactions, --users and --items, or run prepare first",
            ) from e  # fmt: skip
        found = there.model_copy(update=given)
        if histories is None and there.histories != there.users:  # sessions or windows
            histories = max(there.histories * found.rows_kept / max(there.rows_kept, 1), 1)
        return _with_histories(found, histories or found.users)
    sides = (job.model.item_attributes, job.model.user_attributes)
    item, user = (dict.fromkeys(names, _VALUES) for names in sides)
    found = Manifest(
        fingerprint="plan", shards=(), rows_in=given["rows_kept"], rows_kept=given["rows_kept"],
        users=given["users"], users_by_split={}, items=given["items"], rows_rejected={},
        rows_by_split={},
        longest_history=0, split="", rating_mean=3.0, rating_range=(1.0, 5.0),
        item_attributes=item, user_attributes=user,
        item_vectors=dict.fromkeys(job.model.item_vectors, _WIDTH),
        user_vectors=dict.fromkeys(job.model.user_vectors, _WIDTH),
    )  # fmt: skip
    return _with_histories(found, histories or _expected_histories(job, found))


def _expected_histories(job: RunConfig, manifest: Manifest) -> int:
    """One history per user, or the windows that prepare.max_length cuts it into."""
    if job.prepare.session_gap is not None:
        raise ConfigError(
            "the number of sessions is not known", where="prepare.session_gap",
            value=job.prepare.session_gap, rule="it comes from prepared data or the command line",
            fix="pass --histories, or run prepare first",
        )  # fmt: skip
    longest = job.prepare.max_length
    if longest is None or job.prepare.longer == "last":
        return manifest.users
    return manifest.users * math.ceil(manifest.rows_kept / max(manifest.users, 1) / longest)


def _with_histories(manifest: Manifest, histories: float) -> Manifest:
    shard = ShardFile(path="plan", bytes=0, first_row=0, groups=(round(histories),))
    return manifest.model_copy(update={"shards": (shard,)})


_PLACES = {
    "fused": "device", "fused_uvm_caching": "host, cached on the GPU", "fused_uvm": "host",
}  # fmt: skip


def as_values(found: Estimate) -> dict[str, Any]:
    """Plain data, including the derived values."""
    values = asdict(found)
    values["tables"] = found.tables.entries
    for name in ("step", "samples_per_second", "epoch", "fits", "limit"):
        values[name] = getattr(found, name)
    return values


def _screen(found: Estimate, manifest: Manifest, name: str, stage: str) -> list[Any]:
    head = (
        f"[bold]{stage}[/bold] on {found.workers} workers of {name}: {manifest.rows_kept:.3g} "
        f"interactions, {manifest.users:.3g} users, {manifest.items:.3g} items, "
        f"{manifest.histories:.3g} histories; "
        f"{found.batch:,} histories per step. Computed, not measured."
    )
    if found.tables.problem is not None:
        console.print(f"[red]the tables do not fit:[/red] {found.tables.problem}")
    where = Table("table", "sharding", "rows", "dim", "workers", "rows in", box=None)
    for entry in found.tables.entries or []:
        holders = str(len(entry["ranks"]))
        where.add_row(
            entry["table"], entry["sharding"], f"{entry['rows']:,}", str(entry["dim"]), holders,
            _PLACES[entry["kernel"]],
        )  # fmt: skip
    parts = Table("part of a step", "ms", "share", box=None)
    for part, seconds in found.parts.items():
        beside = " (while computing)" if found.hidden.get(part) == seconds > 0 else ""
        share = (seconds - found.hidden.get(part, 0.0)) / found.step
        parts.add_row(part + beside, f"{seconds * 1e3:.3f}", f"{share:.0%}")
    parts.add_row("reading data (in parallel)", f"{found.reading * 1e3:.3f}", "")
    used = sum(found.memory.values())
    memory = ", ".join(f"{k} {v / 2**30:.2f}" for k, v in found.memory.items())
    links = ", ".join(f"{k} {v / 1e6:,.1f} MB" for k, v in found.bytes_by_link.items())
    return [
        head, where, parts,
        f"memory      {used / 2**30:.1f} of {found.capacity / 2**30:.0f} GiB per device ({memory})",
        f"links       one worker sends per step: {links}",
        f"step        {found.step * 1e3:.2f} ms, {found.samples_per_second:,.0f} histories/s",
        f"epoch       {duration(found.epoch)} for {found.histories:,} histories",
        f"checkpoint  {found.checkpoint_bytes / 1e9:,.1f} GB in {found.checkpoint_seconds:.1f} s",
        f"limit       {found.limit}",
    ]  # fmt: skip


def _ranking(job: RunConfig, manifest: Manifest, memory: dict[str, int]) -> str:
    """The memory of evaluate and recommend."""
    parts = ", ".join(f"{use} {size / 2**30:.2f}" for use, size in memory.items() if size)
    vectors = vectors_bytes(job, manifest) / 2**30
    where = "held by every process" if memory["waiting users"] == 0 else "read from disk in passes"
    return (
        f"ranking     {sum(memory.values()) / 2**30:.1f} GiB per scoring process ({parts}); "
        f"all item vectors {vectors:.2f} GiB, {where} (ranking.memory {job.ranking.memory:g})"
    )


def duration(seconds: float) -> str:
    """Seconds in a readable unit."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
