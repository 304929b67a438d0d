"""Everything that one GPU can tell in eight minutes, in the order of its value.

::

    python benchmarks/gpu.py [--parts versions,tests,…] [--out benchmarks/results] [--small]

Every part runs in a process of its own with a time limit, and its result is on disk before the next
one begins: gpu-<card>-<part>.json, at the end gpu-<card>.md. A part that fails or runs out of time
says so in its file. gpu_parts.py has the parts. Without a GPU the parts run on the CPU in a small
size, which proves nothing but that they run.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from outcome import RESULTS, circumstances

PARTS = {
    "versions": 60, "tests": 150, "losses": 100, "train": 150, "tables": 40, "ranking": 60,
    "plan": 30, "run": 150, "nccl": 40,
}  # fmt: skip
"""Seconds that each part may take."""


def main() -> None:
    """Run the parts one after the other."""
    arguments = _arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    card = _card()
    found = {}
    for name in arguments.parts.split(","):
        found[name] = _part(name, card, arguments)
        print(f"== {name}: {json.dumps(found[name])[:3000]}", flush=True)
    result = {
        "question": "one GPU", "card": card, "parts": found,
        **circumstances("gpu.py", ("p5dist", "torch", "torchrec")),
    }  # fmt: skip
    (arguments.out / f"gpu-{card}.json").write_text(json.dumps(result, indent=1) + "\n")
    (arguments.out / f"gpu-{card}.md").write_text(_markdown(result))


def _part(name: str, card: str, arguments: argparse.Namespace) -> dict[str, Any]:
    file = arguments.out / f"gpu-{card}-{name}.json"
    program = Path(__file__).with_name("gpu_parts.py")
    command = [sys.executable, "-W", "ignore", str(program), name, str(file)]
    command += ["--small"] * (arguments.small or not torch.cuda.is_available())
    file.unlink(missing_ok=True)
    began, note = time.perf_counter(), {}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PARTS[name] * arguments.patience
        )
        if done.returncode:
            note = {"failed": (done.stdout + done.stderr)[-1500:]}
    except subprocess.TimeoutExpired as e:
        note = {"out of time": str((e.stdout or b"")[-500:])}
    # A part writes what it has as it goes, so that a failure loses what follows only.
    found = json.loads(file.read_text()) if file.exists() else {}
    found |= note | {"seconds": round(time.perf_counter() - began, 1)}
    file.write_text(json.dumps(found, indent=1) + "\n")
    return found


def _card() -> str:
    """The name of the card, as part of a file name."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--small", action="store_true", help="small sizes, to try the program")
    parser.add_argument("--patience", type=float, default=1.0, help="factor on the time limits")
    return parser.parse_args()


def _markdown(result: dict[str, Any]) -> str:
    lines = [f"# {result['card']}", "", result["date"], ""]
    for name, part in result["parts"].items():
        lines += [f"## {name} ({part['seconds']} s)", "", "```", json.dumps(part, indent=1), "```"]
        lines += [""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
