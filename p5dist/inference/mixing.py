"""How much of the ranking comes from counts, chosen on the validation split.

``ranking.item_to_item: auto`` and ``ranking.returns: auto`` stand for the values with the largest
NDCG@10 on validation interactions, under the protocol of the section ``evaluate``. The choice is
written to ``mixture.json`` in the folder of the training stage, and made once for a checkpoint.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from p5dist.checkpoint.checkpoints import MARKER
from p5dist.config import RunConfig
from p5dist.config.output import Evaluate
from p5dist.data.manifest import Manifest
from p5dist.data.reader import Portion
from p5dist.data.users import Users
from p5dist.environment.console import console
from p5dist.inference.fitting import mixture, read_fitted
from p5dist.inference.rankers import Vectors
from p5dist.inference.scorer import load_scorer
from p5dist.inference.scoring import all_portions, score_portions
from p5dist.inference.vectors import Trained
from p5dist.ranking.metrics import rank_values
from p5dist.ranking.products import rank_products
from p5dist.ranking.targets import Rule, Targets
from p5dist.ranking.tiles import Query
from p5dist.storage import Folder, RunFolder

CHOSEN = "mixture.json"
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_K = 10
_METRIC = f"ndcg@{_K}"
_PRODUCTS = 500_000_000
"""Pairs of user and item that are scored for the choice, about."""
_USERS = 1000, 20_000
_PORTIONS = 16
"""That are scored in parallel, if there are so many."""
_GIB = 1 << 30

Option = tuple[float, bool]
"""item_to_item and returns"""
Load = Callable[[RunConfig, RunFolder, str], Any]


def decided(
    job: RunConfig, folder: RunFolder, manifest: Manifest, stage: str, load: Load
) -> tuple[RunConfig, dict[str, Any] | None]:
    """The job without open settings in the section ``ranking``, and how they were chosen (None: by
    the job). Counts and vectors are there; Ray must be connected unless
    :func:`.scoring.scores_here`.

    Args:
        stage: training stage that ranks.
        load: loads it.

    Raises:
        TrainingError: vectors are not numbers.
    """
    if (settled := _settled(job)) is not None:
        return settled, None
    file, of = folder.training(stage) / CHOSEN, _identity(job, folder, manifest, stage, load)
    found = _written(file, of)
    if found is None:
        found = {"of": of, **_choose(job, folder, manifest, stage, load)}
        file.write_json(found)
        _say(found)
    return _chosen(job, found), {name: found[name] for name in ("why", "options") if name in found}


def decided_here(
    job: RunConfig, folder: RunFolder, manifest: Manifest, stage: str, scorer: Any
) -> RunConfig:
    """The job of :func:`decided`, for a run that may lie where nothing can be written; without
    Ray."""
    if (settled := _settled(job)) is not None:
        return settled
    of = _identity(job, folder, manifest, stage, load_scorer)
    found = _written(folder.training(stage) / CHOSEN, of)
    if found is None:
        scale = job.scale.model_copy(update={"workers": 1, "actors": 1, "address": None})
        alone = job.model_copy(update={"scale": scale})
        found = _choose(alone, folder, manifest, stage, lambda *_: scorer)
    return _chosen(job, found)


def _settled(job: RunConfig) -> RunConfig | None:
    """The job if it leaves no choice; else None."""
    if not job.ranking.open:
        return job
    options = _options(job)
    return _with(job, options[0]) if len(options) == 1 else None


def _written(file: Folder, of: dict[str, Any]) -> dict[str, Any] | None:
    """The choice that was made for the same model and protocol."""
    found: dict[str, Any] = file.read_json() if file.exists() else {}
    return found if found.get("of") == of else None


def _chosen(job: RunConfig, found: dict[str, Any]) -> RunConfig:
    return _with(job, (found["item_to_item"], found["returns"]))


def _with(job: RunConfig, option: Option) -> RunConfig:
    values = dict(zip(("item_to_item", "returns"), option, strict=True))
    return job.model_copy(update={"ranking": job.ranking.model_copy(update=values)})


def _options(job: RunConfig) -> list[Option]:
    """All combinations that the job leaves open; of equal ones, the first is taken."""
    ranking, config = job.ranking, job.evaluate or Evaluate()
    shares: list[float] = list(SHARES)
    returns = [False] if config.mask_seen else [False, True]
    if ranking.item_to_item != "auto":
        shares = [ranking.item_to_item]
    if ranking.returns != "auto":
        returns = [ranking.returns]
    if ranking.products != "float32":  # which ranks by the model alone
        shares, returns = [s for s in shares if s == 0], [r for r in returns if not r]
    return [(share, own) for own in returns for share in shares]


def _choose(
    job: RunConfig, folder: RunFolder, manifest: Manifest, stage: str, load: Load
) -> dict[str, Any]:
    options = _options(job)
    first = {"item_to_item": options[0][0], "returns": options[0][1]}
    if not manifest.rows_by_split["validation"]:
        return {**first, "why": "no interaction is in the validation split"}
    reader, portions = all_portions(job, folder, manifest)
    rule = _rule(job, manifest, len(options))
    # Users are spread over the shards by a hash: the first portions are a random sample.
    some = portions[: max(math.ceil(rule.share * len(portions)), _PORTIONS)]
    rule = replace(rule, share=min(rule.share * len(portions) / len(some), 1.0))
    make = ChoiceFactory(job, folder, manifest, stage, load, options, rule)
    total, targets = np.zeros(len(options)), 0
    for row in score_portions(make, job, reader, some, "choose the mixture"):
        total += row["gains"][0].as_py()
        targets += row["targets"][0].as_py()
    if not targets:
        return {**first, "why": "no validation interaction is a target"}
    best = options[int(np.argmax(total))]
    means = [
        {"item_to_item": share, "returns": own, _METRIC: float(gain / targets)}
        for (share, own), gain in zip(options, total, strict=True)
    ]
    return {
        "item_to_item": best[0], "returns": best[1],
        "why": f"the largest {_METRIC} on {targets:,} validation interactions", "options": means,
    }  # fmt: skip


@dataclass(frozen=True)
class ChoiceFactory:
    """Makes, in a process, the function that ranks the validation targets of a portion by every
    option; its result is one row: ``gains``, the sums of NDCG@10 by option, and ``targets``."""

    job: RunConfig
    folder: RunFolder
    manifest: Manifest
    stage: str
    load: Load
    options: list[Option]
    rule: Rule

    def __call__(self) -> Callable[[Portion, Users], pa.Table]:
        model: Vectors = self.load(self.job, self.folder, self.stage)
        fitted = read_fitted(self.job, self.folder, self.manifest)
        mixtures = [mixture(fitted, share, own) for share, own in self.options]
        config = self.job.evaluate or Evaluate()
        items = model.items(int(self.job.ranking.memory * _GIB) // 2)

        def choose(portion: Portion, users: Users) -> pa.Table:
            gains, targets = np.zeros(len(mixtures)), 0
            found = Targets.find(users, self.rule)
            for batch in found.batches(config.batch_size):
                vectors = model.user_vectors(batch.histories)
                seen = batch.seen if config.mask_seen else None
                counted = fitted.item_to_item.scores(batch.histories)
                targets += len(batch.item)
                for number, mixed in enumerate(mixtures):
                    remembered = None
                    if mixed is not None:
                        remembered = mixed.remembered(batch.histories, counted, in_place=False)
                    query = Query(vectors, batch.owner, batch.item, seen, remembered)
                    (((ranks, _),),) = rank_products(
                        [query], items, 1, mixture=mixed is not None, alone=mixed is None
                    )
                    gains[number] += rank_values(ranks, (_K,))[_METRIC].sum()
            return pa.table({"gains": [gains.tolist()], "targets": [targets]})

        return choose


def _rule(job: RunConfig, manifest: Manifest, options: int) -> Rule:
    """The validation targets of some users: fewer where the catalogue is large."""
    least, most = _USERS
    users = max(least, min(most, _PRODUCTS // (max(manifest.items, 1) * options)))
    config = (job.evaluate or Evaluate()).model_copy(update={"users": users})
    return Rule.of(job, manifest, config, "validation", "evaluate")


def _identity(
    job: RunConfig, folder: RunFolder, manifest: Manifest, stage: str, load: Load
) -> dict[str, Any]:
    """What the choice depends on."""
    config = job.evaluate or Evaluate()
    checkpoint = None
    if load is load_scorer:
        found = Trained(job, folder, stage).checkpoint
        checkpoint = [found.step, zlib.crc32((found.folder / MARKER).read_bytes())]
    return {
        "data": manifest.fingerprint, "checkpoint": checkpoint, "seed": job.seed,
        "ranking": job.ranking.model_dump(mode="json", exclude={"memory"}),
        "mask_seen": config.mask_seen, "targets": config.targets,
        "events": None if config.events is None else list(config.events),
        "max_length": job.feed.max_length,
    }  # fmt: skip


def _say(found: dict[str, Any]) -> None:
    text = f"item to item {found['item_to_item']:g}"
    if found["returns"]:
        text += ", returns"
    by = {(one["item_to_item"], one["returns"]): one[_METRIC] for one in found.get("options", [])}
    if by:
        best = by[found["item_to_item"], found["returns"]]
        text += f": NDCG@10 {best:.4f} on validation, {by[min(by)]:.4f} by the model alone"
    console.print(f"  {text} ({found['why']})", markup=False, highlight=False, soft_wrap=True)
