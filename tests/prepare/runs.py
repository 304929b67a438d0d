"""Small logs and runs of the stage over them."""

from __future__ import annotations

import atexit
import csv
import random
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from p5dist.config import RunConfig
from p5dist.data.manifest import Manifest
from p5dist.environment.processes import Processes
from p5dist.prepare.stage import run
from p5dist.storage import RunFolder
from tests.prepare.reference import Row

FIELDS = ("user", "item", "rating", "timestamp")
COLUMNS = {name: name for name in FIELDS}


def make_job(tmp: Path, source: dict[str, Any], **prepare: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "run",
            "storage": str(tmp),
            "prepare": {"source": {"columns": COLUMNS, **source}, "shards": 3, **prepare},
        }
    )


@cache
def processes() -> Processes:
    """The same two for all tests of the session."""
    found = Processes("prepare", 2)
    atexit.register(found.close)
    return found


def prepared(job: RunConfig, **options: Any) -> tuple[Manifest, Path]:
    folder = RunFolder.of(job.storage, job.name)
    manifest = run(job, folder, **{"workers": processes(), **options})
    assert Manifest.load(folder.prepare) == manifest
    assert manifest.rows_in == manifest.rows_kept + sum(manifest.rows_rejected.values())
    unknown = manifest.rows_rejected.get("unknown_item", 0)
    assert sum(manifest.unknown_items_by_split.values()) == unknown
    return manifest, Path(folder.prepare.path)


def write_csv(path: Path, rows: Iterable[Row]) -> str:
    with path.open("w", newline="") as f:
        out = csv.DictWriter(f, FIELDS)
        out.writeheader()
        out.writerows(rows)
    return str(path)


def dirty_rows(seed: int, n: int) -> list[Row]:
    """Rows with every kind of fault, many ties and repeats, one heavy user."""
    draw = random.Random(seed)
    times = ["1000", "1001", "1001.5", " 1002 ", "1003", "99", "9999", "soon", "", "-5"]
    users = ["", "NULL", "ü", "u,1", 'q"q', *map(str, range(12)), *["1"] * 8]
    items = ["", "nan", "NA", *map(str, range(25))]
    ratings = ["1", "2.5", "5", "5.0", "", "NaN", "0", "7", "good", "1e2", ".5"]
    return [
        {
            "user": draw.choice(users),
            "item": draw.choice(items),
            "rating": draw.choice(ratings if draw.random() < 0.5 else ["3", "4"]),
            "timestamp": draw.choice(times if draw.random() < 0.5 else times[:5]),
        }
        for _ in range(n)
    ]  # fmt: skip
