"""The recommend stage: the best items for every user, as Parquet with the ids of the raw log."""

from __future__ import annotations

import time
import zlib
from contextlib import closing
from typing import Any

from p5dist import __version__
from p5dist.checkpoint.checkpoints import MARKER
from p5dist.config import RunConfig
from p5dist.data.manifest import Manifest
from p5dist.data.reader import Portion
from p5dist.environment.console import console
from p5dist.environment.provenance import provenance
from p5dist.environment.workers import Here, workers_for
from p5dist.errors import ConfigError
from p5dist.inference.evaluate.score import Load
from p5dist.inference.fidelity import FIDELITY, fidelity_of
from p5dist.inference.fitting import fit, mixes
from p5dist.inference.lists.inputs import NEW_PEOPLE, record
from p5dist.inference.lists.new_people import ROWS, NewPeople, sort_table
from p5dist.inference.lists.parts import Parts
from p5dist.inference.lists.people import portions_with
from p5dist.inference.lists.plan import Plan, make_plan
from p5dist.inference.lists.writer import OFFSET, USERS, ListWriterFactory
from p5dist.inference.memory import of_scoring_process
from p5dist.inference.mixing import decided
from p5dist.inference.scorer import load_scorer
from p5dist.inference.scoring import (
    HISTORIES,
    Reader,
    all_portions,
    score_portions,
    workers_for_counts,
)
from p5dist.inference.vectors import Trained, make_vectors
from p5dist.storage import RunFolder
from p5dist.storage.arrays import write_array

RESULT = "result.json"
_WORTH_PROCESSES = 2_000_000  # interactions of new people


def run(job: RunConfig, folder: RunFolder, *, load: Load = load_scorer) -> dict[str, Any]:
    """Write ``recommend/part-*.parquet`` (columns.RECOMMENDATION), then ``recommend/result.json``;
    Ray must be connected unless :func:`p5dist.inference.scoring.scores_here`.

    The history of a user is the whole log of the user, including held-out interactions; with
    sessions the encoder sees the last session. An item that the user has had at any time is not
    listed, unless ``mask_seen`` is false; a list is shorter than k if fewer items are left.

    Parts of an interrupted run are kept if nothing that decides the lists has changed: settings,
    prepared data, checkpoint, the content of all files that the section names.

    Args:
        load: loads the trained stage that ranks.

    Returns:
        The content of result.json.

    Raises:
        ConfigError: the job has no stage that ranks items.
        DataError: see :func:`.plan.make_plan`.
        CheckpointError: the stage has no complete checkpoint.
        TrainingError: scores are not numbers.
    """
    began = time.time()
    assert job.recommend is not None
    stage = _stage(job)
    manifest = Manifest.load(folder.prepare)
    plan = make_plan(job, folder, manifest)
    for line in plan.lines:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    (folder.recommend / RESULT).remove()
    files = record(job)
    trained = Trained(job, folder, stage) if load is load_scorer else None
    parts = Parts(folder.recommend)
    kept = parts.claim(_key(job, manifest, trained, files))
    _compute(job, folder, manifest, trained)
    asked = job
    job, chosen = decided(job, folder, manifest, stage, load)
    assert job.recommend is not None
    reader, portions, more = _to_do(job, folder, manifest, plan, parts)
    if rejected := more.get("rejected"):
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in rejected.items())
        console.print(
            f"  warning: {sum(rejected.values()):,} rows of recommend.histories are rejected: "
            f"{reasons}",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    parts.expect(len(portions))
    done = parts.done()
    if kept and done:
        console.print(f"  {len(done):,} of {len(portions):,} parts are there already")
    popular = plan.candidates.popular(plan.items.count, job.recommend.k)
    make_writer = ListWriterFactory(job, folder, manifest, stage, load, popular)
    left = [portion for portion in portions if portion.number not in done]
    results = score_portions(make_writer, job, reader, left, "score")
    measured = max((result["memory"][0].as_py() for result in results), default=0)
    totals = parts.totals()
    if job.recommend.explain:
        sums = {name: totals.pop(name, 0.0) for name in FIDELITY}
        more["explanations"] = {"named": job.recommend.explain, **fidelity_of(sums)}
    result = {
        **_without_zeros(totals),
        "k": job.recommend.k,
        "memory": {"planned": of_scoring_process(job, manifest), "measured": measured},
        "mask_seen": job.recommend.mask_seen,
        "candidate_items": plan.candidates.number,
        "catalogue": plan.candidates.of,
        "unknown_ids": plan.candidates.unknown,
        **more,
        "files": files,
        "ranking_from": stage,
        "ranking_item_to_item": job.ranking.item_to_item,
        "ranking_returns": job.ranking.returns,
        "ranking_chosen": chosen,
        **provenance(asked, "recommend", data=manifest.fingerprint, seconds=time.time() - began),
    }
    (folder.recommend / RESULT).write_json(result)
    parts.scratch.remove()
    return result


def _compute(
    job: RunConfig, folder: RunFolder, manifest: Manifest, trained: Trained | None
) -> None:
    """What all scoring processes read: counts, and the vectors of the stage."""
    with closing(workers_for_counts(job, manifest, "recommend")) as workers:
        if mixes(job):
            fit(job, folder, manifest, workers)
        if trained is not None:
            make_vectors(trained, workers)


def _stage(job: RunConfig) -> str:
    """The training stage that ranks."""
    stages = job.ranking_stages()
    if not stages:
        raise ConfigError(
            "no model to recommend with", where="recommend",
            rule="recommending needs a trained stage that ranks items",
            fix="add a pretrain section, or set recommend to null",
        )  # fmt: skip
    assert job.recommend is not None
    return job.recommend.ranking_from or stages[-1]


def _key(
    job: RunConfig, manifest: Manifest, trained: Trained | None, files: list[dict[str, Any]]
) -> dict[str, Any]:
    """All that decides the lists, and how they are divided into parts."""
    checkpoint = None
    if trained is not None:
        found = trained.checkpoint
        checkpoint = [found.step, zlib.crc32((found.folder / MARKER).read_bytes())]
    return {
        "version": __version__,
        "job": job.fingerprint("recommend"),
        "data": manifest.fingerprint,
        "checkpoint": checkpoint,
        "files": [[file["setting"], file["digest"]] for file in files],
        "portions": [min(HISTORIES, job.feed.unit_rows), ROWS],
    }


def _to_do(
    job: RunConfig, folder: RunFolder, manifest: Manifest, plan: Plan, parts: Parts
) -> tuple[Reader, list[Portion], dict[str, Any]]:
    """What reads the portions, all portions, and what result.json says about the people. Writes the
    files that scoring processes map."""
    assert job.recommend is not None
    offset = plan.candidates.offset(plan.items.count, job.recommend.popularity_penalty)
    if offset is not None:
        write_array(parts.scratch / OFFSET, offset)
    if plan.new_rows is not None:
        people = _sorted(job, folder, plan.new_rows)
        return people, people.portions(), {"lists_for": NEW_PEOPLE, "rejected": people.rejected}
    reader, portions = all_portions(job, folder, manifest)
    if plan.chosen is None:
        return reader, portions, {"lists_for": "all users"}
    write_array(parts.scratch / USERS, plan.chosen.ids)
    more = {
        "lists_for": "chosen users",
        "unknown_users": plan.chosen.unknown,
        "unknown_users_named": list(plan.chosen.unknown_named),
    }
    return reader, list(portions_with(plan.chosen.ids, reader, portions)), more


def _sorted(job: RunConfig, folder: RunFolder, rows: int) -> NewPeople:
    workers = (
        Here()
        if rows < _WORTH_PROCESSES
        else workers_for(job.scale, "recommend", "p5dist.prepare.log_tasks")
    )
    with closing(workers):
        return sort_table(job, folder.recommend, workers)


def _without_zeros(totals: dict[str, Any]) -> dict[str, Any]:
    return {name: n for name, n in totals.items() if n or name in ("users", "rows")}
