"""The circumstances in every result, and the files of a result."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import picture

RESULTS = Path(__file__).parent / "results"


def circumstances(program: str, packages: tuple[str, ...]) -> dict[str, Any]:
    """Date, command, machine and versions.

    Args:
        program: file name below benchmarks/.
        packages: packages whose versions matter.
    """
    models = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", f"benchmarks/{program}", *sys.argv[1:]]),
        "machine": {
            "processor": models[0].split(":")[1].strip() if models else platform.machine(),
            "cores": os.cpu_count(),
            "memory_gb": round(memory / 1e9, 1),
            "platform": platform.platform(),
        },
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in packages},
    }


def heading(title: str, result: dict[str, Any]) -> str:
    """The first lines of a result's Markdown."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"# {title}\n\n{result['date']}, {machine['cores']} cores of {machine['processor']}, "
        f"{machine['memory_gb']} GB; {versions}\n\n    {result['command']}\n\n"
    )


def write(
    name: str,
    result: dict[str, Any],
    markdown: str,
    out: Path = RESULTS,
    draw: Callable[[dict[str, Any], Path], bool] = picture.draw,
) -> None:
    """Write ``<name>-<machine>-<date>`` below ``out`` as ``.json``, as ``.jsonl`` (one line per
    run), as ``.md``, which is also printed, and as ``.svg`` if there is a picture.

    compare.py and picture.py read these keys of a result: ``question``, ``settings``, ``runs`` (a
    list of numbers by name, or such lists by what was measured) and ``better`` (``higher`` or
    ``lower`` by name of the number).

    Args:
        draw: draws the picture of a result; returns False if there is nothing to draw.
    """
    out.mkdir(parents=True, exist_ok=True)
    stem = f"{name}-{platform.machine()}-{os.cpu_count()}cores-{result['date'][:10]}"
    (out / f"{stem}.json").write_text(json.dumps(result, indent=2) + "\n")
    lines = "".join(json.dumps(line) + "\n" for line in _lines(result.get("runs") or {}))
    if lines:
        (out / f"{stem}.jsonl").write_text(lines)
    if draw(result, out / f"{stem}.svg"):
        markdown += f"\n![{result['question']}]({stem}.svg)\n"
    (out / f"{stem}.md").write_text(markdown)
    print(markdown)


def _lines(runs: dict[str, Any] | list[Any]) -> Iterator[dict[str, Any]]:
    for measured, found in runs.items() if isinstance(runs, dict) else [("", runs)]:
        for turn, run in enumerate(found, start=1):
            yield {"measured": measured, "turn": turn} | run
