"""Fitting on training interactions: item-to-item counts, and the baselines of the evaluation.

Counts are made once for the prepared data, in parallel tasks (see :mod:`.counting`), and lie in
``prepare/fitted/``; scoring processes map them. ``fitted.json`` is written last.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from p5dist.config import RunConfig
from p5dist.config.output import Evaluate
from p5dist.data import columns as c
from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.manifest import Manifest
from p5dist.data.reader import ShardReader
from p5dist.data.users import Users
from p5dist.environment.workers import Here, Workers
from p5dist.inference.counting import (
    Counted,
    Counting,
    added_rows,
    join_ranges,
    read_weights,
    weight_ranges,
    write_range,
)
from p5dist.ranking.item_to_item import ItemToItem
from p5dist.ranking.mixture import Mixture
from p5dist.ranking.popularity import Popularity, RecentPopularity
from p5dist.ranking.ppmi import PpmiSvd
from p5dist.ranking.repeats import LastItem, LastOfEvent
from p5dist.ranking.returns import Returns, returns_of
from p5dist.ranking.targets import events_of_targets
from p5dist.ranking.topk import Ranker
from p5dist.storage import Folder, RunFolder
from p5dist.storage.arrays import LocalCopies, write_array
from p5dist.tasks.build import task_of
from p5dist.tasks.evaluation import Evaluation
from p5dist.tasks.task import Context

FITTED = "fitted.json"
_FOLDER = "fitted"
_SUMS = ("count", "users", "recent")
_PPMI_DIM = 64
_PPMI_PAIRS = 30_000_000
"""Item pairs that one process factorises at most."""
_TASK_INTERACTIONS = 20_000_000
"""Approximate limit of the training interactions that baselines of tasks are fitted on."""
_ROWS = 65_536  # read at once


@dataclass(frozen=True)
class Fitted:
    """What was counted, mapped from files."""

    catalogue: Catalogue
    counted: Counted
    item_to_item: ItemToItem
    returns: Returns | None
    ppmi: PpmiSvd | None
    about: dict[str, Any]
    """The content of ``fitted.json``."""
    own_files: Any = field(default=None, repr=False)


def fit(job: RunConfig, folder: RunFolder, manifest: Manifest, workers: Workers) -> None:
    """Count the training interactions, unless that is done.

    Args:
        workers: run the tasks.
    """
    out = folder.prepare / _FOLDER
    if not _is_fitted(job, out, manifest):
        _fit(job, folder, manifest, workers, out)


def read_fitted(job: RunConfig, folder: RunFolder, manifest: Manifest) -> Fitted:
    """What :func:`fit` wrote. If it was not called, this process counts, into a temporary
    folder."""
    found, own = folder.prepare / _FOLDER, None
    if not _is_fitted(job, found, manifest):
        own = tempfile.TemporaryDirectory(prefix="p5dist-")
        found = Folder.open(own.name)
        _fit(job, folder, manifest, Here(), found)
    about, copies = (found / FITTED).read_json(), LocalCopies()
    catalogue = Catalogue.read(folder.prepare, manifest)
    count, users, recent = (copies.mapped(found / f"{name}.npy") for name in _SUMS)
    vectors: npt.NDArray[np.float32] | None = None
    returns = None
    if about["of"]["returns"] is not None:
        returns = Returns(catalogue, returns_of(copies.mapped(found / "returns.npy")))
    if about["ppmi"]["fitted"]:
        vectors = copies.mapped(found / "ppmi.npy")
    return Fitted(
        catalogue,
        Counted(count, users, recent, about["all_users"], about["interactions"]),
        ItemToItem(catalogue, read_weights(found, copies)),
        returns,
        None if vectors is None else PpmiSvd(catalogue, vectors),
        about,
        own,
    )


def fitted_on(job: RunConfig, manifest: Manifest, fitted: Fitted) -> dict[str, str]:
    """By name of a baseline what it was fitted on."""
    pairs = "item pairs of training histories"
    share = fitted.about["share_of_users_in_pairs"]
    if share < 1:
        pairs += f" of {share:.1%} of the users, chosen at random (ranking.counted)"
    found = {ranker.name: ranker.fitted_on for ranker in baselines(job, manifest, fitted)}
    found |= {name: pairs for name in ("ppmi_svd",) if name in found}
    ppmi = fitted.about["ppmi"]
    if fitted.about["of"]["ppmi"] and not ppmi["fitted"]:
        found["ppmi_svd"] = (
            f"not fitted: {ppmi['pairs']:,} item pairs; at most {ppmi['most_pairs']:,} are "
            "factorised"
        )
    return found | ({"item_to_item": pairs} if "item_to_item" in wanted_baselines(job) else {})


def baselines(job: RunConfig, manifest: Manifest, fitted: Fitted) -> list[Ranker]:
    """The baselines that the evaluation of the job compares with, except item to item."""
    catalogue, counted = fitted.catalogue, fitted.counted
    wanted = wanted_baselines(job)
    found: list[Ranker] = []
    if "popularity" in wanted:
        found.append(Popularity(counted.count, catalogue))
    if "recent_popularity" in wanted:
        assert job.evaluate is not None
        found.append(RecentPopularity(counted.recent, catalogue, job.evaluate.recent_days))
    if "last_item" in wanted:
        found.append(LastItem(catalogue))
    if "last_event" in wanted:
        codes = enumerate(manifest.events, 1)
        found += [LastOfEvent(catalogue, code, event) for code, event in codes]
    if "returns" in wanted and fitted.returns is not None:
        found.append(fitted.returns)
    if fitted.ppmi is not None:
        found.append(fitted.ppmi)
    return found


def mixture_of(job: RunConfig, fitted: Fitted) -> Mixture | None:
    """What the job ranks by beside the model; None: the model ranks alone.

    Args:
        job: in which nothing of the section ``ranking`` is open (see :func:`.mixing.decided`).
    """
    assert not job.ranking.open, "chosen before"
    return mixture(fitted, float(job.ranking.item_to_item), bool(job.ranking.returns))


def mixture(fitted: Fitted, share: float, returns: bool) -> Mixture | None:
    """The mixture with these settings of the section ``ranking``; None: the model alone."""
    if not share and not returns:
        return None
    return Mixture(
        fitted.item_to_item if share else None, share, fitted.returns if returns else None
    )


def mixes(job: RunConfig) -> bool:
    """Whether counts share the ranking, or may turn out to."""
    return bool(job.ranking.item_to_item or job.ranking.returns)


def wanted_baselines(job: RunConfig) -> tuple[str, ...]:
    """The names of ``evaluate.baselines``; left out, all that the log and the protocol have a use
    for."""
    config = job.evaluate
    assert config is not None
    if config.baselines is not None:
        return config.baselines
    columns = job.prepare.source.columns
    of_no_use = set()
    if columns.timestamp is None:
        of_no_use.add("recent_popularity")
    if config.mask_seen:  # nothing that the user has had can be ranked
        of_no_use |= {"last_item", "last_event", "returns"}
    if columns.event is None:
        of_no_use.add("last_event")
    return tuple(name for name in Evaluate.BASELINES if name not in of_no_use)


def _is_fitted(job: RunConfig, out: Folder, manifest: Manifest) -> bool:
    file = out / FITTED
    return file.exists() and file.read_json()["of"] == _identity(job, manifest)


def _identity(job: RunConfig, manifest: Manifest) -> dict[str, Any]:
    """What the counts depend on."""
    days = None
    ppmi = False
    returns = job.ranking.returns is True or (
        job.ranking.returns == "auto" and job.evaluate is not None and not job.evaluate.mask_seen
    )
    if job.evaluate is not None:
        wanted = wanted_baselines(job)
        ppmi = "ppmi_svd" in wanted
        returns = returns or "returns" in wanted
        days = job.evaluate.recent_days if "recent_popularity" in wanted else None
    return {
        "data": manifest.fingerprint, "counted": job.ranking.counted, "days": days,
        "ppmi": _PPMI_DIM if ppmi else None, "seed": job.seed,
        "returns": _returned(job, manifest) if returns else None,
    }  # fmt: skip


def _returned(job: RunConfig, manifest: Manifest) -> list[bool]:
    """By code of the event, whether users come back with it: the events of targets."""
    named = events_of_targets(job, job.evaluate)
    return [named is None, *(named is None or event in named for event in manifest.events)]


def _fit(
    job: RunConfig, folder: RunFolder, manifest: Manifest, workers: Workers, out: Folder
) -> None:
    (out / FITTED).remove()
    out.remove()
    scratch = (out / "scratch").make()
    of = _identity(job, manifest)
    trained = max(manifest.rows_by_split["train"], 1)
    share = 1.0 if job.ranking.counted is None else min(job.ranking.counted / trained, 1.0)
    columns = [c.TIMESTAMP] if of["days"] is not None else []
    if of["returns"] is not None and manifest.events:
        columns.append(c.EVENT)
    counting = Counting(
        ShardReader(folder.prepare, manifest, tuple(columns)),
        scratch,
        sessions=job.prepare.session_gap is not None,
        days=of["days"],
        share=share,
        targets=None if of["returns"] is None else tuple(of["returns"]),
    )
    counted = counting.run(workers)
    spills = counting.pairs()
    for name in _SUMS:
        write_array(out / f"{name}.npy", getattr(counted, name))
    if counted.returns is not None:
        write_array(out / "returns.npy", counted.returns)
    ppmi: dict[str, Any] = {"fitted": False}
    if of["ppmi"] is not None:
        pairs = int(sum(spill.pairs_of_items().sum() for spill in spills)) // 2
        ppmi = {"fitted": 0 < pairs <= _PPMI_PAIRS, "pairs": pairs, "most_pairs": _PPMI_PAIRS}
    calls: list[tuple[Any, ...]] = []  # the longest first
    if ppmi["fitted"]:
        calls.append((_factorise, folder, manifest, spills, of["ppmi"], job.seed, out))
    ranges = weight_ranges(spills, counted.count)
    calls += [
        (write_range, spills, counted.count, scratch, number, *between)
        for number, between in enumerate(ranges)
    ]
    for _ in workers.results(_call, calls):
        pass
    join_ranges(out, scratch, len(ranges))
    scratch.remove()
    about = {
        "of": of, "interactions": counted.interactions, "all_users": counted.all_users,
        "share_of_users_in_pairs": share, "ppmi": ppmi,
    }  # fmt: skip
    (out / FITTED).write_json(about)


def _call(function: Callable[..., None], *arguments: Any) -> None:
    function(*arguments)


def _factorise(
    folder: RunFolder, manifest: Manifest, spills: list[Any], dim: int, seed: int, out: Folder
) -> None:
    items = manifest.items
    forward = added_rows(spills, "forward", 0, items, items)
    catalogue = Catalogue.read(folder.prepare, manifest)
    write_array(out / "ppmi.npy", PpmiSvd.fit(forward, catalogue, dim, seed).item_vectors)


def fit_tasks(job: RunConfig, folder: RunFolder, manifest: Manifest) -> dict[str, Any]:
    """By path of a predicting task the baselines that its evaluation fits, on all training
    interactions or a random sample of the users."""
    evaluations = task_evaluations(job, folder, manifest)
    if not evaluations:
        return {}
    reader = ShardReader(folder.prepare, manifest, job.history_columns())
    histories = [_training(users.histories) for users in _training_users(reader)]
    return {path: evaluation.fit(histories) for path, evaluation in evaluations.items()}


def task_evaluations(
    job: RunConfig, folder: RunFolder, manifest: Manifest
) -> dict[str, Evaluation]:
    """The evaluation of every predicting task by path (see RunConfig.predicting_tasks)."""
    found = {}
    for path, (stage, name) in job.predicting_tasks().items():
        evaluation = task_of(job, stage, name).evaluation(
            Context(job, manifest, folder.prepare, name)
        )
        if evaluation is not None:
            found[path] = evaluation
    return found


def _training_users(reader: ShardReader) -> Iterator[Users]:
    """All users, or the first ones in the order of the shards (a random sample, since users are
    spread by a hash) with about _TASK_INTERACTIONS training interactions."""
    manifest = reader.manifest
    share = max(1.0, manifest.rows_by_split["train"] / _TASK_INTERACTIONS)
    wanted = max(1, int(manifest.histories / share))
    read = 0
    for portion in reader.portions(_ROWS):
        if read >= wanted:
            return
        yield reader.users(portion)
        read += portion.rows


def _training(histories: Histories) -> Histories:
    return histories.where(histories.split == c.TRAIN)
