"""The prepare stage: raw log → sequence shards, as tasks on Ray or on this machine alone.

::

    read     one task per range of a file: parse, clean, divide the rows among shards by user hash
    group    one task per shard: order of time; duplicates, repeats, bots
    merge    one task for several shards: the catalogue of the items of the whole log
    core     one task per shard and round: rare items, then rare users, until none is left
    count    one task per shard: histories, split; training interactions of every item
    write    one task per shard: external ids → internal ids, Parquet

The exchange goes through files under prepare/scratch/ (see :mod:`.scratch`): the memory that a task
needs follows the size of a range or a shard, never the size of the log, and an interrupted run
keeps its finished ranges and shards. The driver sees counts and vocabularies, never rows. Every
task is a pure function of its range or shard, so that running it again changes nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from p5dist import __version__
from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.manifest import MANIFEST, InputFile, Manifest, Targets
from p5dist.environment.console import console, progress
from p5dist.environment.provenance import provenance
from p5dist.environment.workers import Workers
from p5dist.prepare.attributes import WrittenTable, write_attributes
from p5dist.prepare.cleaning import OTHER_EVENTS
from p5dist.prepare.inputs import fingerprint, record
from p5dist.prepare.passes import Passes
from p5dist.prepare.profile import ShardProfile, build_profile
from p5dist.prepare.pseudonyms import check_of
from p5dist.prepare.rejects import Rejects
from p5dist.prepare.shard_tasks import Left
from p5dist.prepare.sources import RANGE_BYTES, Inputs
from p5dist.prepare.split import describe, knows
from p5dist.prepare.vocabulary import Vocabulary
from p5dist.storage import RunFolder


def run(
    job: RunConfig, folder: RunFolder, workers: Workers, *, range_bytes: int = RANGE_BYTES
) -> Manifest:
    """Build ``prepare/`` of the run folder anew, manifest last.

    Finished ranges and shards of an interrupted run with the same input and settings are kept.

    Args:
        job: the resolved job.
        folder: of the run.
        workers: run the tasks (see :func:`.workers.workers_for`).
        range_bytes: approximate number of bytes of the log that one task reads. The written files
            depend neither on this nor on the workers.

    Raises:
        DataError: a file is missing or cannot be parsed.
        MissingColumnError: a column that the job names is not in a file.
        EmptyLogError: no valid row is left.
    """
    began = time.time()
    inputs = Inputs.find(job.prepare)
    prepare = folder.prepare
    (prepare / MANIFEST).remove()
    with progress() as bar, ThreadPoolExecutor(1) as beside:
        files = beside.submit(record, inputs, job.prepare)
        passes = Passes(job, inputs, prepare.make(), workers, bar, range_bytes)
        _claim(passes)
        manifest, profile = _build(passes, files)
    facts = provenance(job, "prepare", data=manifest.fingerprint, seconds=time.time() - began)
    (prepare / "result.json").write_json(facts)
    manifest.save(prepare)
    passes.stage.scratch.folder.remove()
    _tell(manifest, passes.rejects, profile)
    return manifest


def _claim(passes: Passes) -> None:
    """Remove the files of other runs, keep the files of this run from before an interruption."""
    settings = passes.job.fingerprint("prepare")
    before = None if passes.before is None else passes.before.newest.fingerprint
    state = (__version__, settings, passes.ranges, passes.shards, before)
    if not passes.stage.scratch.claim(sha256(repr(state).encode()).hexdigest()):
        (passes.prepare / "rejected").remove()
    for name in ("fitted", "shards", "vocabulary", "attributes", "profile.json", "result.json"):
        (passes.prepare / name).remove()


def _build(passes: Passes, files: Future[tuple[InputFile, ...]]) -> tuple[Manifest, dict[str, Any]]:
    """Everything below prepare/ but the manifest; the manifest and the profile."""
    config, prepare = passes.config, passes.prepare
    counts = passes.read()
    catalogue, seen, had_by = passes.group(counts)
    rows_in = sum(n.rows for n in counts)
    rounds, seen = passes.core(seen, had_by)
    passes.check_left(rows_in, int(seen.sum()))
    left = Left(rounds, passes.cuts(counts, rounds))
    items, ids, coded, before = passes.count(catalogue, left)
    shards, profiles = passes.write(left, ids, coded, before)
    users = before[-1][1]
    _write_vocabularies(passes, items, coded)
    tables = _attributes(passes, items)
    rejected = passes.rejects.by_reason()
    warnings = passes.warnings + [w for table in tables.values() for w in table.warnings]
    profile = build_profile(
        profiles, items, users, config, rejected, warnings, earlier=passes.rows_earlier
    )
    (prepare / "profile.json").write_json(profile)
    kept = int(sum(p.splits.sum() for p in profiles))
    rows = rows_in + passes.rows_earlier
    assert rows == kept + sum(rejected.values()), "rows in = rows kept + rows rejected"
    manifest = Manifest(
        fingerprint=fingerprint(passes.job, files.result(), passes.before),
        inputs=files.result(),
        inputs_from=str(Path.cwd()),
        shards=tuple(shards),
        rows_in=rows_in,
        rows_kept=kept,
        rows_rejected=rejected,
        rows_earlier=passes.rows_earlier,
        users=users,
        items=len(items),
        unnamed_items=items.unnamed,
        item_attributes=tables["item"].sizes,
        user_attributes=tables["user"].sizes,
        item_vectors=tables["item"].widths,
        user_vectors=tables["user"].widths,
        item_rows=tables["item"].rows,
        user_rows=tables["user"].rows,
        context={name: len(v) for name, v in coded.items() if name != c.EVENT},
        events=_event_weights(passes, coded[c.EVENT]) if c.EVENT in coded else {},
        shard_number=passes.shards,
        id_types={side: str(kind) for side, kind in passes.id_types.items()},
        key_check=check_of(config.privacy.pseudonyms),
        since=None if passes.before is None else passes.before.since,
        held_out_from=None if left.cuts is None else left.cuts.validation,
        last_time=max(p.last_time for p in profiles) if passes.timed else None,
        longest_history=max(int(p.lengths[0][-1]) for p in profiles),
        split=describe(config, left.cuts),
        made_from=knows(config),
        unknown_items_by_split={
            name: int(passes.unknown[code]) for name, code in c.SPLIT_CODES.items()
        },
        **_sums(profiles),
    )
    return manifest, profile


def _write_vocabularies(passes: Passes, items: Vocabulary, coded: dict[str, Vocabulary]) -> None:
    folder = passes.prepare / "vocabulary"
    (folder / "item.parquet").write_table(items.table())
    for name, vocabulary in coded.items():
        table = vocabulary.table()
        if name == c.EVENT:
            weight = list(_event_weights(passes, vocabulary).values())
            table = table.append_column(c.WEIGHT, pa.array(weight, pa.float32()))
        (folder / f"{name}.parquet").write_table(table)


def _event_weights(passes: Passes, events: Vocabulary) -> dict[str, float]:
    """Weight of each event in the order of their codes."""
    weights = passes.config.events or {}
    other = weights.get(OTHER_EVENTS, 1.0)
    return {event: weights.get(event, other) for event in events.external.to_pylist()}


def _attributes(passes: Passes, items: Vocabulary) -> dict[str, WrittenTable]:
    """The tables about items and users by side."""
    config, inputs, prepare = passes.config, passes.inputs, passes.prepare
    found = {"item": WrittenTable(), "user": WrittenTable()}
    if config.items is not None:
        found["item"] = write_attributes(
            config.items, inputs.items, "item", items, prepare, passes.earlier
        )
    if config.users is not None:
        users = Vocabulary.of_table((prepare / "vocabulary/user.parquet").read_table())
        found["user"] = write_attributes(
            config.users,
            inputs.users,
            "user",
            users,
            prepare,
            passes.earlier,
            config.privacy.pseudonyms,
        )
    return found


def _sums(profiles: Sequence[ShardProfile]) -> dict[str, Any]:
    """The manifest's sums over all shards: splits, ratings, targets."""
    splits = np.sum([p.splits for p in profiles], axis=0)
    users = np.sum([p.users_by_split for p in profiles], axis=0)
    number, total, low, high = zip(*(p.train_ratings for p in profiles), strict=True)
    rated = sum(number)
    by_event: Counter[str] = Counter()
    for profile in profiles:
        by_event.update(profile.targets_by_event)
    return {
        "targets": Targets(
            total=sum(p.targets[0] for p in profiles),
            rated=sum(p.targets[1] for p in profiles),
            by_event=dict(sorted(by_event.items())),
        ),
        "rows_by_split": {name: int(splits[code]) for name, code in c.SPLIT_CODES.items()},
        "users_by_split": {name: int(users[code]) for name, code in c.SPLIT_CODES.items()},
        "rating_mean": sum(total) / rated if rated else None,
        "rating_range": (min(low), max(high)) if rated else None,
    }


def _tell(manifest: Manifest, rejects: Rejects, profile: dict[str, Any]) -> None:
    console.print(
        f"  {manifest.rows_in_words}, {manifest.rows_kept:,} kept: {manifest.users:,} users, "
        f"{profile['items']:,} items, longest history {manifest.longest_history:,}",
        soft_wrap=True,
    )
    if manifest.rows_rejected:
        console.print(f"  rejected: {rejects}", markup=False, highlight=False, soft_wrap=True)
    for warning in profile["warnings"]:
        console.print(f"  warning: {warning}", style="yellow", markup=False, soft_wrap=True)
