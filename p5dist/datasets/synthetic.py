"""``p5dist synth``: a synthetic log of any size, and the best score that a model can reach on it.

::

    OUT/part-00000.parquet …    user_id, item_id, timestamp (int64; seconds)
    OUT/_synth.json             written last: parameters, rows, best scores; without this file the
                                log is incomplete

The process is described in :mod:`p5dist.datasets.synthetic_process`, the best scores in
:mod:`p5dist.datasets.synthetic_best`. A file holds all events of a block of users over the whole
time, ordered by time; it is a pure function of the parameters and its number, so that neither the
number of tasks nor an interruption changes a byte. A task holds one file in memory, about 200 bytes
per row. Every file has the parameters in its metadata, so files of other parameters are never
mixed in.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow.parquet as pq
from rich.progress import Progress

from p5dist.config.scale import Scale
from p5dist.datasets.synthetic_best import best_scores, summary
from p5dist.datasets.synthetic_process import Process
from p5dist.environment.console import console, progress
from p5dist.environment.provenance import versions
from p5dist.environment.ray_errors import errors_as_raised
from p5dist.environment.ray_session import connect
from p5dist.errors import ConfigError, RunFolderError
from p5dist.storage import Folder

MARKER = "_synth.json"
FILE_ROWS = 2_000_000
SAMPLE_USERS = 20_000

_SAMPLE_FILES = 8
_GROUP_ROWS = 1 << 20
_MOST = 1 << 31  # ids are permuted by products of two numbers below this
_METADATA = b"p5dist.synth"


def plan(
    *,
    interactions: float,
    users: float | None = None,
    items: float | None = None,
    clusters: float | None = None,
    days: float = 365,
    file_rows: float = FILE_ROWS,
    seed: int = 1,
) -> Process:
    """The process with defaults filled in: 50 interactions per user, 100 per item (but at least 100
    items), and √items clusters.

    Raises:
        ConfigError: a number is not whole, or out of range.
    """
    rows = _whole("interactions", interactions, 2, 1 << 53)
    count = _whole("users", rows // 50 or 1 if users is None else users, 1, min(rows // 2, _MOST))
    catalogue = _whole("items", max(rows // 100, 100) if items is None else items, 1, _MOST)
    default = round(catalogue**0.5)
    return Process(
        interactions=rows,
        users=count,
        items=catalogue,
        clusters=_whole("clusters", default if clusters is None else clusters, 1, catalogue),
        days=_whole("days", days, 1, 36_500),
        file_rows=_whole("file-rows", file_rows, 2, _MOST),
        seed=_whole("seed", seed, 0, 1 << 53),
    )


def run(
    out: str, process: Process, *, address: str | None = None, tasks: int | None = None
) -> dict[str, Any]:
    """Write the missing files, then _synth.json; write nothing if _synth.json exists.

    Args:
        out: a folder or URL.
        address: Ray cluster to join; left out: start Ray on this machine.
        tasks: number of concurrent tasks; left out: twice the CPUs, so that no CPU waits.

    Returns:
        The content of _synth.json.

    Raises:
        RunFolderError: ``out`` holds files of other parameters.
    """
    folder = Folder.open(out)
    names = folder.children()
    _check(folder, names, process)
    if MARKER in names:
        found: dict[str, Any] = (folder / MARKER).read_json()
        return found
    folder.make()
    for name in names:
        if name.startswith(".part-"):  # left by a killed task
            (folder / name).remove()
    missing = [file for file in range(process.files) if _name(file) not in names]
    connect(Scale(address=address))
    best = _run_tasks(folder, process, missing, tasks)
    sampled = sum(len(next(iter(part.values()))) for part in best)
    result = {
        "parameters": asdict(process),
        "files": process.files,
        "rows": process.interactions,
        "best": summary(best),
        "best_over": {
            "users": sampled,
            "files": _sample_files(process),
            "rule": "the first users of each file that have at least three events; leave-one-out",
        },
        "versions": versions(),
    }
    (folder / MARKER).write_json(result)
    return result


def show(out: str, result: dict[str, Any], as_json: bool) -> None:
    """Print the result of :func:`run`, as text or as JSON on stdout."""
    if as_json:
        print(json.dumps(result, indent=2))
        return
    parameters = result["parameters"]
    console.print(
        f"  {result['rows']:,} interactions, {parameters['users']:,} users, "
        f"{parameters['items']:,} items: {out.rstrip('/')}/part-*.parquet",
        soft_wrap=True,
    )
    for protocol, metrics in result["best"].items():
        scores = ", ".join(
            f"{name.upper()} {m['value']:.4f} ({m['low']:.4f}–{m['high']:.4f})"
            for name, m in metrics.items()
        )
        console.print(f"  best possible, seen items {protocol}: {scores}", soft_wrap=True)


def write_file(folder: Folder, process: Process, file: int) -> None:
    """Write file number ``file`` atomically."""
    table = process.table(file).replace_schema_metadata({_METADATA: _parameters(process)})
    # Ids repeat too rarely within a page for a dictionary to save space.
    (folder / _name(file)).write_table(
        table, row_group_size=_GROUP_ROWS, compression="zstd", use_dictionary=False
    )


def _run_tasks(folder: Folder, process: Process, missing: list[int], limit: int | None) -> Any:
    """Write the missing files, and return the best scores of the sampled files."""
    import ray

    write, score = ray.remote(write_file), ray.remote(best_scores)
    chosen = _sample_files(process)
    users = -(-SAMPLE_USERS // len(chosen))
    limit = limit or 2 * int(ray.cluster_resources().get("CPU", 1))
    with errors_as_raised("synth"), progress("files") as bar:
        bounded = partial(_bounded, limit=limit, bar=bar)
        bounded("synth", missing, lambda file: write.remote(folder, process, file))
        return bounded("best scores", chosen, lambda file: score.remote(process, file, users))


def _bounded(
    what: str, files: list[int], submit: Callable[[int], Any], *, limit: int, bar: Progress
) -> list[Any]:
    """The results in order; at most ``limit`` tasks at once."""
    import ray

    shown = bar.add_task(what, total=len(files), note="")
    refs: list[Any] = []
    waiting: list[Any] = []
    for number in range(len(files) + limit):
        if len(waiting) == limit or number >= len(files):
            done, waiting = ray.wait(waiting) if waiting else ([], [])
            ray.get(done)
            bar.advance(shown, len(done))
        if number < len(files):
            waiting.append(submit(files[number]))
            refs.append(waiting[-1])
    return list(ray.get(refs))


def _sample_files(process: Process) -> list[int]:
    """Evenly spaced files, whose users give the best scores."""
    count = min(process.files, _SAMPLE_FILES)
    return [process.files * number // count for number in range(count)]


def _name(file: int) -> str:
    return f"part-{file:05d}.parquet"


def _parameters(process: Process) -> bytes:
    return json.dumps(asdict(process), sort_keys=True).encode()


def _check(folder: Folder, names: list[str], process: Process) -> None:
    """Raise RunFolderError if the folder has files of other parameters. The first file is enough:
    a run checks before it writes."""
    parts = [name for name in names if name.startswith("part-")]
    ours = json.loads(_parameters(process))
    found: Any = None
    if MARKER in names:
        found = (folder / MARKER).read_json().get("parameters")
    elif parts:
        with folder.fs.open_input_file((folder / parts[0]).path) as f:
            metadata = pq.read_schema(f).metadata or {}
        found = json.loads(metadata.get(_METADATA, b"{}"))
    else:
        return
    if found != ours:
        theirs = found or {}
        value = ", ".join(
            f"{name} {theirs.get(name, '?')} instead of {ours[name]}"
            for name in ours
            if theirs.get(name) != ours[name]
        )
        raise RunFolderError(
            "the folder holds a log of other parameters", where=str(folder), value=value,
            rule="one folder holds one log",
            fix="give another folder or the parameters of this log, or remove the folder",
        )  # fmt: skip


def _whole(name: str, value: float, least: int, most: int) -> int:
    if not least <= value <= most or value != int(value):
        raise ConfigError(
            "not a possible size", where=f"--{name}", value=f"{value:,.10g}",
            rule=f"a whole number from {least:,} to {most:,}",
            fix=f"change --{name}, or the numbers that its limits depend on",
        )  # fmt: skip
    return int(value)
