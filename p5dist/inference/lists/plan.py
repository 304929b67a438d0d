"""What the recommend stage is going to do, decided before anything is computed. Needs neither torch
nor Ray."""

from __future__ import annotations

from dataclasses import dataclass

from p5dist.config import RunConfig
from p5dist.data.manifest import MANIFEST, Manifest
from p5dist.inference.items import ItemIds
from p5dist.inference.lists.candidates import Candidates, choose_by_job
from p5dist.inference.lists.inputs import HISTORIES, check_files
from p5dist.inference.lists.people import Chosen, chosen_users
from p5dist.prepare.layout import Layout
from p5dist.prepare.sources import estimate_rows, find_files
from p5dist.storage import RunFolder


@dataclass(frozen=True)
class Plan:
    """For whom and of which items lists are made."""

    items: ItemIds
    candidates: Candidates
    chosen: Chosen | None
    """None: all users of the log, or new people."""
    new_rows: int | None
    """About the number of interactions of new people; None: lists are for users of the log."""
    lines: tuple[str, ...]
    """The plan in words."""


def make_plan(job: RunConfig, folder: RunFolder, manifest: Manifest) -> Plan:
    """Reads the files with ids, and of tables of histories the columns.

    Raises:
        DataError: see :func:`.candidates.choose_by_job` and :func:`.people.chosen_users`; a file
            cannot be read.
        MissingColumnError: a column that the job names is not in a table.
    """
    section = job.recommend
    assert section is not None
    items = ItemIds.read_ids(job, folder.prepare, manifest)
    candidates = choose_by_job(job, items, folder.prepare)
    chosen, new_rows = chosen_users(job, folder.prepare), None
    people = f"all {manifest.users - manifest.forgotten:,} users of the log"
    if chosen is not None:
        people = f"{len(chosen.ids):,} users of the log"
        if chosen.unknown:
            people += f" (of those named, {chosen.unknown:,} unknown)"
    elif section.histories is not None:
        layout = Layout.of_log(section.histories, section=HISTORIES)
        new_rows = estimate_rows(find_files(section.histories.files, layout), layout)
        people = f"new people with about {new_rows:,} interactions"
    order = [f"lists of {section.k}" + ("" if section.mask_seen else ", seen items too")]
    if section.popularity_penalty:
        order.append(f"popularity penalty {section.popularity_penalty:g}")
    if section.diversity:
        order.append(f"diversity {section.diversity:g} among {section.depth:,} items")
    lines = [f"for {people}", f"from {candidates.in_words()}", "; ".join(order)]
    after = manifest.rows_rejected.get("after_test", 0)
    if after and section.histories is None:
        lines.append(
            f"warning: {after:,} interactions after the test interactions are in no history: "
            "prepare.split.events drops them; give the latest histories by recommend.histories"
        )
    return Plan(items, candidates, chosen, new_rows, tuple(lines))


def plan_lines(job: RunConfig, folder: RunFolder, *, prepared: bool) -> tuple[str, ...]:
    """What the stage is going to do, in words; empty as long as there is no prepared data.

    Args:
        prepared: whether the prepared data will be read as it is.

    Raises:
        P5Error: see :func:`.inputs.check_files` and :func:`make_plan`.
    """
    check_files(job)
    if not (prepared and (folder.prepare / MANIFEST).exists()):
        return ()
    return make_plan(job, folder, Manifest.read(folder.prepare)).lines
