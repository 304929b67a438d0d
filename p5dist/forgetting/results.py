"""People leave the results of a run: lists, targets, rows of user tables, vectors, the page.

Every step may be repeated; what was done before stays done.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from p5dist.checkpoint.checkpoints import Checkpoints
from p5dist.checkpoint.rewrite import zero_rows
from p5dist.checkpoint.shard_files import Entry
from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.batch import USER_FEATURE
from p5dist.data.jagged import contains
from p5dist.data.manifest import Manifest
from p5dist.forgetting.described import without_mentions
from p5dist.forgetting.people import People
from p5dist.observe.stages import marker
from p5dist.storage import Folder, RunFolder

_TABLE = f".embedding_bags.{USER_FEATURE}.weight"
"""In the names of the rows of user ids, and of what optimizers keep of them."""


@dataclass
class Left:
    """What was removed from the results of a run."""

    targets: int = 0
    """Rows of evaluate/targets.parquet."""
    lists: int = 0
    """Lists under recommend/."""
    user_rows: int = 0
    """Rows of checkpoints that were not zero."""


def forget_in_results(
    job: RunConfig, folder: RunFolder, manifest: Manifest, people: People
) -> Left:
    """Remove people from all stages but ``prepare``.

    Args:
        job: of the run.
    """
    found = Left(
        targets=_targets(folder.evaluate, people),
        lists=_lists(folder, people),
    )
    for stage in job.trainings():
        place = folder.training(stage)
        (place / "vectors/vectors.json").remove()  # the marker; vectors are computed again
        (place / "vectors").remove()

        def is_table(entry: Entry) -> bool:
            return _TABLE in entry.name and entry.shape[0] == manifest.users + 1

        for checkpoint in Checkpoints(place / "checkpoints").all():
            found.user_rows += zero_rows(checkpoint, is_table, people.ids)
    if len(people.ids) or found.lists:
        folder.report.remove()
    return found


def _targets(evaluate: Folder, people: People) -> int:
    file, result, gone = evaluate / "targets.parquet", evaluate / "result.json", 0
    if file.exists():
        table = file.read_table()
        theirs = contains(people.ids, table[c.USER].to_numpy())
        gone = int(theirs.sum())
        if gone:
            file.write_table(table.filter(pa.array(~theirs)))
    if result.exists():
        before = result.read_json()
        after = without_mentions(before, people)
        if after != before:
            result.write_json(after)
    return gone


def _lists(folder: RunFolder, people: People) -> int:
    """Number of lists that were removed; lists that are not complete are removed as a whole."""
    lists = folder.recommend
    result = marker(folder, "recommend")
    if not result.exists():
        lists.remove()
        return 0
    gone = rows = 0
    for name in lists.children():
        if not name.endswith(".parquet"):
            continue
        file = lists / name
        users = file.read_table([c.USER_ID])[c.USER_ID]
        theirs = people.among(users)
        if not theirs.any():
            continue
        gone += len(users.filter(pa.array(theirs)).unique())
        rows += int(theirs.sum())
        with pq.ParquetFile(file.path, filesystem=file.fs) as opened:
            table = opened.read()
        file.write_table(table.filter(pa.array(~theirs)))
    before = result.read_json()
    after = {**before, "users": before["users"] - gone, "rows": before["rows"] - rows}
    if named := before.get("unknown_users_named"):
        theirs = people.among(pa.array(named, pa.string()))
        after["unknown_users_named"] = [n for n, own in zip(named, theirs, strict=True) if not own]
    if after != before:
        result.write_json(after)
    return gone
