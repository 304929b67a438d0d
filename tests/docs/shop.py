"""The folder of a small shop, in which the commands of the pages run."""

from __future__ import annotations

import os
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from p5dist.cli.main import app
from tests.docs.blocks import ROOT, Block

USERS, ITEMS, DAY = 160, 30, 86_400_000
PRIVATE = """
name: private
prepare:
  source:
    files: logs/*.csv
    columns: {user: customer, item: product, timestamp: time}
    timestamp_unit: ms
  privacy: {pseudonyms: SHOP_KEY}
pretrain: {epochs: 1}
"""


def write_shop(folder: Path) -> None:
    """Three days of a log, a table of products, and the files that pages name."""
    draw = random.Random(4)
    days: dict[int, list[str]] = {1: [], 2: [], 3: []}
    for user in range(USERS):
        item = draw.randrange(ITEMS)
        for place in range(draw.randrange(6, 14)):
            day = 1 if place < 4 else 2 if place < 8 else 3
            time = 1_700_000_000_000 + day * DAY + place * 60_000 + user
            event = draw.choice(["view", "view", "cart", "buy"])
            days[day].append(f"c{user},p{item},{time},{1 + item % 5},{event}")
            item = (item + 1 if draw.random() < 0.8 else draw.randrange(ITEMS)) % ITEMS
    head = "customer,product,time,stars,type"
    for day, rows in days.items():
        file = folder / ("incoming" if day == 3 else "logs") / f"day-{day}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join([head, *rows]) + "\n")
    kinds = ["lamp", "chair", "table"]
    products = [f"p{i},{kinds[i % 3]} number {i},{kinds[i % 3]}" for i in range(ITEMS)]
    (folder / "products.csv").write_text("\n".join(["product,name,category", *products]) + "\n")
    (folder / "today.txt").write_text("c1\nc2\nc3\n")
    (folder / "private.yaml").write_text(PRIVATE)


def write_file(folder: Path, block: Block) -> None:
    """The file that a block shows; a job trains on one worker here."""
    values = yaml.safe_load(block.text)
    values["scale"] = values.get("scale", {}) | {"workers": 1}
    (folder / block.value).write_text(yaml.safe_dump(values, sort_keys=False))


def run_block(block: Block, names: dict[str, Any], *, alone: bool = False) -> None:
    """Run the commands or the Python of a block in the current folder.

    Args:
        names: of the Python blocks of the page before.
        alone: commands run in processes of their own, which start Ray in the current folder.
    """
    if block.language == "python":
        exec(compile(block.text, str(block), "exec"), names)
        return
    for command in block.commands:
        run_command(command, block, alone=alone)


def run_command(command: str, block: Block, *, alone: bool) -> None:
    words = shlex.split(command, comments=True)
    if words[0] == "export":
        name, _, value = words[1].partition("=")
        pytest.MonkeyPatch().setenv(name, value)  # until the end of the process
        return
    if words[0] != "p5dist":
        subprocess.run(words, check=True)
        return
    if alone:
        call = [sys.executable, "-m", "p5dist.cli", *words[1:]]
        own = os.environ | {"PYTHONPATH": str(ROOT)}
        ended = subprocess.run(call, env=own, capture_output=True, text=True)
        assert ended.returncode == 0, f"{block}: {command}\n{ended.stdout}\n{ended.stderr}"
        return
    done = CliRunner().invoke(app, words[1:])
    said = re.sub(r"\x1b\[[^m]*m", "", done.output)
    assert done.exit_code == 0, f"{block}: {command}\n{said}\n{done.exception!r}"
