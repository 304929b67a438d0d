"""Recall, latency and cost of the indexes of FAISS that ``p5dist export`` writes.

::

    python benchmarks/export.py JOB.yaml [--kinds hnsw,ivfpq,int8,flat] [--name NAME]

Exports the item vectors of a trained run as an index of each kind. Recall and milliseconds a query
(one thread, one query at a time) are against exact search over the same vectors for users of the
run, as the command writes them into ``index.json``; seconds and peak memory are of the whole
command, of which building the index is most.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from measure import measure
from outcome import RESULTS, circumstances, heading, write
from workload import P5DIST

from p5dist.inference.export.index import ABOUT, INDEX


def main() -> None:
    """Export every kind, then write the results."""
    a = _arguments()
    kinds: dict[str, Any] = {}
    for kind in a.kinds.split(","):
        kinds[kind] = _exported(a, kind)
        print(kind, json.dumps(kinds[kind]), flush=True)
    result = {
        "question": "indexes of item vectors against exact search: recall@10, latency, cost",
        "settings": {name: next(iter(kinds.values()))[name] for name in ("items", "dim")},
        "better": {"recall@10": "more", "times_exact": "more"},
        "kinds": kinds,
        **circumstances("export.py", ("p5dist", "faiss-cpu", "torch", "numpy")),
    }  # fmt: skip
    write(f"export-{a.name}", result, _markdown(result), a.out, draw=lambda *_: False)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", help="a job that was run")
    parser.add_argument("--kinds", default="hnsw,ivfpq,int8")
    parser.add_argument("--name", default="index", help="in the names of the result's files")
    parser.add_argument(
        "--scratch", type=Path, default=Path(tempfile.gettempdir()) / "p5dist-export"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def _exported(a: argparse.Namespace, kind: str) -> dict[str, Any]:
    place = a.scratch / kind
    shutil.rmtree(place, ignore_errors=True)
    words = ["export", a.job, str(place), "--format", "faiss", "--index", kind]
    measured = measure([*P5DIST, *words], a.scratch / "w")
    about: dict[str, Any] = json.loads((place / ABOUT).read_text())
    return {
        **{name: value for name, value in about.items() if name != "folder"},
        "times_exact": about["exact_ms_a_query"] / about["ms_a_query"],
        "index_bytes": (place / INDEX).stat().st_size,
        "seconds": measured.seconds, "memory_bytes": measured.memory_bytes,
    }  # fmt: skip


def _markdown(result: dict[str, Any]) -> str:
    settings = result["settings"]
    text = heading("Indexes of item vectors", result)
    columns = (
        "kind", "recall@10", "ms a query", "exact ms", "times exact", "index GB", "export s",
        "peak GB",
    )  # fmt: skip
    text += f"{settings['items']:,} item vectors of {settings['dim']} numbers:\n\n"
    text += f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n"
    for kind, found in result["kinds"].items():
        candidates = f" (efSearch {found['ef_search']})" if "ef_search" in found else ""
        text += (
            f"| {kind}{candidates} | {found['recall@10']:.4f} | {found['ms_a_query']:.3f} "
            f"| {found['exact_ms_a_query']:.2f} | {found['times_exact']:.1f} "
            f"| {found['index_bytes'] / 1e9:.2f} | {found['seconds']:.0f} "
            f"| {found['memory_bytes'] / 1e9:.2f} |\n"
        )
    return text


if __name__ == "__main__":
    main()
