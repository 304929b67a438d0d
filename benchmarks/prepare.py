"""How fast is prepare, and how much does it need, compared with DuckDB and polars?

::

    python benchmarks/prepare.py --interactions 2e7 [--tools p5dist duckdb polars floor] [--runs 3]
    python benchmarks/prepare.py --interactions 1e8 --users 4e5 --items 2e5 --tools p5dist

The second command keeps the users and items of 20 M interactions, so that only rows grow.
``p5dist-ray`` is p5dist with tasks of a Ray cluster that it starts on this machine.

Every tool is a separate command, with start-up and imports: it reads the same synthetic log and
writes the same histories (see prepare_peers.py), which a digest over all histories checks.
``floor`` only reads the log, sorts it by user and writes it. The tools take turns, in alternating
order. Needs the extra ``bench``, and Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measure import measure
from outcome import RESULTS, circumstances, heading, write
from workload import P5DIST, short, synthetic_job, write_job

HERE = Path(__file__).parent
PACKAGES = ("p5dist", "duckdb", "polars", "pyarrow", "numpy", "ray")


def main() -> None:
    """Make the log, run the tools in turn, write the results."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # or Ray writes a token to the home folder
    arguments = _arguments()
    data: Path = arguments.data
    interactions = int(arguments.interactions)
    given = {n: int(v) for n in ("users", "items") if (v := getattr(arguments, n)) is not None}
    name = "-".join([short(interactions), *(f"{short(v)}{n}" for n, v in given.items())])
    log = data / f"log-{name}"
    if not (log / "_synth.json").exists():
        command = [*P5DIST, "synth", str(log), "--interactions", str(interactions)]
        command += [word for n, v in given.items() for word in (f"--{n}", str(v))]
        measure(command, data / "w")
    runs: dict[str, list[dict[str, Any]]] = {tool: [] for tool in arguments.tools}
    for turn in range(arguments.runs):
        for tool in arguments.tools if turn % 2 == 0 else reversed(arguments.tools):
            found = _run(tool, log, data / "w", arguments.memory_limit)
            runs[tool].append(found)
            print(
                f"run {turn + 1} {tool:8} {found['seconds']:8.1f} s "
                f"{found['memory_bytes'] / 1e9:6.2f} GB  {found['disk_bytes'] / 1e9:6.2f} GB disk",
                file=sys.stderr,
            )
    histories = {json.dumps(r["histories"]) for t in runs for r in runs[t] if t != "floor"}
    if len(histories) > 1:
        raise SystemExit(f"the tools do not agree: {histories}")
    result = {
        "question": "prepare: raw log → histories",
        "log": json.loads((log / "_synth.json").read_text())["parameters"],
        "tools": {tool: _summary(found, interactions) for tool, found in runs.items()},
        "histories": json.loads(histories.pop()) if histories else None,
        "better": {"seconds": "lower", "memory_bytes": "lower", "disk_bytes": "lower"},
        "memory_limit_gb": arguments.memory_limit,
        **circumstances("prepare.py", PACKAGES),
        "runs": runs,
    }
    write(f"prepare-{name}", result, _markdown(result), arguments.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interactions", type=float, default=2e7)
    for side in ("users", "items"):
        parser.add_argument(f"--{side}", type=float, help="left out: as p5dist synth has it")
    parser.add_argument("--tools", nargs="+", default=["p5dist", "duckdb", "polars", "floor"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--memory-limit", type=float, default=12.0, help="GB; of DuckDB")
    # Ray's sockets have names of at most 107 bytes, hence a short path.
    place = Path(tempfile.gettempdir()) / "p5dist-bench"
    parser.add_argument("--data", type=Path, default=place, help="log and scratch")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def _run(tool: str, log: Path, scratch: Path, memory_gb: float) -> dict[str, Any]:
    """Measure one run; for all tools except floor with the digest of the histories."""
    out = scratch / "out"
    if tool.startswith("p5dist"):
        scale = {"scale": {"address": "local"}} if tool == "p5dist-ray" else {}
        settings = synthetic_job(str(log), str(out), **scale)
        settings["prepare"]["clean"] = {"min_user_interactions": 5, "min_item_interactions": 5}
        job = write_job(scratch.with_suffix(".json"), settings)
        measured = measure([*P5DIST, "prepare", str(job)], scratch)
        prepare = out / "bench" / "prepare"
        manifest = json.loads((prepare / "manifest.json").read_text())
        own = {key: manifest[key] for key in ("rows_in", "rows_kept", "users", "items")}
        histories, users = prepare / "shards" / "*.parquet", prepare / "vocabulary/user.parquet"
    else:
        command = [sys.executable, str(HERE / "prepare_peers.py"), tool, str(log), str(out)]
        measured = measure([*command, "--memory-limit", str(memory_gb)], scratch)
        own = json.loads(measured.output)
        histories, users = out / "histories.parquet", out / "user.parquet"
    found = {key: value for key, value in asdict(measured).items() if key != "output"}
    found["steps"] = own.get("seconds")
    if tool == "floor":
        return found
    counts = {key: own[key] for key in ("rows_in", "rows_kept", "users", "items")}
    return {**found, "histories": {**counts, "digest": _digest(histories, users, memory_gb)}}


def _digest(histories: Path, users: Path, memory_gb: float) -> str:
    """A sum of hashes of (external user, item ids, times, split) over all users."""
    import duckdb

    with duckdb.connect() as con:
        con.execute(f"SET memory_limit = '{memory_gb}GB'")
        row = con.execute(
            f"""SELECT sum(hash(u.external_id::VARCHAR, h.item::BIGINT[], h.timestamp::BIGINT[],
            h.split::TINYINT[])::HUGEINT) FROM read_parquet('{histories}') h
            JOIN read_parquet('{users}') u ON h."user" = u.id"""
        ).fetchone()
    assert row is not None
    return f"{int(row[0]) & (2**64 - 1):016x}"


def _summary(runs: list[dict[str, Any]], interactions: int) -> dict[str, Any]:
    def median(key: str) -> float:
        return float(statistics.median(run[key] for run in runs))

    return {
        "seconds": round(median("seconds"), 2),
        "seconds_of_runs": [round(run["seconds"], 2) for run in runs],
        "rows_per_second": round(interactions / median("seconds")),
        "peak_memory_gb": round(median("memory_bytes") / 1e9, 2),
        "peak_disk_gb": round(median("disk_bytes") / 1e9, 2),
    }


def _markdown(result: dict[str, Any]) -> str:
    log = result["log"]
    fastest = min(
        (t["seconds"] for name, t in result["tools"].items() if name in ("duckdb", "polars")),
        default=None,
    )
    lines = [
        f"Synthetic log (seed {log['seed']}): {log['users']:,} users, {log['items']:,} items. "
        "Median of the runs; whole commands, imports and start of workers included. Memory: peak "
        "sum of PSS over all processes. Disk: peak of scratch and output together. DuckDB's memory "
        f"limit is {result['memory_limit_gb']} GB.",
        "",
        "| tool | seconds (runs) | rows/s | time ÷ fastest other | peak memory GB | peak disk GB |",
        "|---|---|---|---|---|---|",
    ]
    for name, tool in result["tools"].items():
        ratio = f"{tool['seconds'] / fastest:.2f}" if fastest else "–"
        runs = ", ".join(str(s) for s in tool["seconds_of_runs"])
        lines.append(
            f"| {name} | {tool['seconds']} ({runs}) | {tool['rows_per_second']:,} | {ratio} "
            f"| {tool['peak_memory_gb']} | {tool['peak_disk_gb']} |"
        )
    if (found := result["histories"]) is not None:
        lines += [
            "",
            f"All left the same histories (digest {found['digest']}): {found['rows_kept']:,} "
            f"interactions of {found['users']:,} users with {found['items']:,} items.",
        ]
    title = f"Prepare: {log['interactions']:,} interactions → histories"
    return heading(title, result) + "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
