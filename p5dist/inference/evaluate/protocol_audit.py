"""The audit of an evaluation: what could make its metrics better or worse than they should be.

The checks read counts that scoring adds up (:mod:`.audit_counts`). Leaks of training data into the
targets: Kaufman et al. 2012, "Leakage in data mining"; of the future in splits of recommender
systems: Ji et al. 2023, "A critical study on data leakage in recommender system offline
evaluation".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any, Literal

import pyarrow.dataset as ds

from p5dist.config import RunConfig
from p5dist.config.output import Evaluate
from p5dist.data import columns as c
from p5dist.data.catalogue import Catalogue
from p5dist.data.jagged import Ints
from p5dist.data.manifest import Manifest
from p5dist.inference.evaluate.audit_counts import DAY, AuditCounts, Example
from p5dist.ranking.topk import MISSED
from p5dist.storage import Folder, RunFolder

Status = Literal["ok", "found", "not checked"]

_FEW = 0.001
"""Share of targets up to which ties and repeats change no metric by more than their rounding."""
_ODD, _SURE = 0.1, 4.0
"""Items are in the order of ids if the share of rising pairs is this far from a half, and this many
standard errors."""


@dataclass(frozen=True)
class Check:
    """One check of the protocol."""

    name: str
    status: Status
    number: int | None
    """How often it was found; None: not checked."""
    of: int | None
    explanation: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What the checks need beside the counts."""

    job: RunConfig
    prepare: Folder
    manifest: Manifest
    ranks: Mapping[str, Ints] | None
    """[targets] ranks by ranker; None: not known."""

    @property
    def timed(self) -> bool:
        """Whether the log has times."""
        return self.job.prepare.source.columns.timestamp is not None

    @property
    def config(self) -> Evaluate:
        assert self.job.evaluate is not None
        return self.job.evaluate

    def in_words(self, examples: tuple[Example, ...]) -> tuple[str, ...]:
        """Examples such as ``user ann, item x, 2020-01-01 10:00:00``, with the ids of the log."""
        names: dict[str, dict[int, str]] = {}
        for place, side in enumerate((c.USER, c.ITEM)):
            ids = sorted({example[place] for example in examples} - {0})
            file = self.prepare / f"vocabulary/{side}.parquet"
            dataset = ds.dataset(file.path, filesystem=file.fs)
            table = dataset.to_table(filter=ds.field(c.ID).isin(ids))
            found = (table[c.ID].to_pylist(), table[c.EXTERNAL_ID].to_pylist())
            names[side] = dict(zip(*found, strict=True))
        words = []
        for user, item, time in examples:
            text = f"user {names[c.USER].get(user, user)}"
            if item:
                text += f", item {names[c.ITEM].get(item, item)}"
                text += f", {_time(time)}" if self.timed else ""
            words.append(text)
        return tuple(words)


def checks(
    counts: AuditCounts,
    job: RunConfig,
    folder: RunFolder,
    manifest: Manifest,
    *,
    ranks: Mapping[str, Ints] | None = None,
) -> list[dict[str, Any]]:
    """All checks, as evaluate/result.json lists them.

    Args:
        counts: of all users.
        ranks: by ranker, the ranks of all targets.
    """
    facts = Facts(job, folder.prepare, manifest, ranks)
    makers = (
        _copied, _trained_later, _time_cut, _tied, _order, _target_order, _dropped, _cold,
        _untrained, _rankers, _sampled, _repeated,
    )  # fmt: skip
    return [
        {**asdict(check), "examples": list(check.examples)}
        for check in (make(counts, facts) for make in makers)
    ]


def _of_targets(
    name: str, key: str, words: str, counts: AuditCounts, facts: Facts, *, few: float = 0
) -> Check:
    number, of = counts.number(key), counts.number("targets")
    status: Status = "found" if number > few * of else "ok"
    shown = facts.in_words(counts.examples.get(key, ())) if number else ()
    return Check(name, status, number, of, words, shown)


def _untimed(name: str) -> Check:
    return Check(name, "not checked", None, None, "the log has no times")


def _copied(counts: AuditCounts, facts: Facts) -> Check:
    name = "targets that training has too"
    if not facts.timed:
        return _untimed(name)
    words = "user, item and time of a target are also in an earlier split: the model has seen it"
    return _of_targets(name, "copied", words, counts, facts)


def _trained_later(counts: AuditCounts, facts: Facts) -> Check:
    name = "training after the target"
    if not facts.timed:
        return _untimed(name)
    words = "the user has training interactions after the target: the model knows the user's future"
    return _of_targets(name, "trained_later", words, counts, facts)


def _time_cut(counts: AuditCounts, facts: Facts) -> Check:
    name = "training after the first target"
    kind = facts.job.prepare.split.kind
    if not facts.timed:
        return _untimed(name)
    if kind not in ("time", "given"):
        words = f"{kind} cuts every user at another time, so others' training is later by design"
        return Check(name, "not checked", None, None, words)
    total = sum(counts.train_days.values())
    first, last = counts.first_target, counts.last_train
    if first is None or last is None or last <= first:
        return Check(name, "ok", 0, total, "all training is before the first target")
    later = sum(n for day, n in counts.train_days.items() if day > first // DAY)
    words = f"training lasts to {_time(last)}, the first target is of {_time(first)}"
    if not later:
        words += ", on the same day"
    return Check(name, "found", max(later, 1), total, f"{words} (whole days are counted)")


def _tied(counts: AuditCounts, facts: Facts) -> Check:
    name = "targets tied with the history"
    if not facts.timed:
        return _untimed(name)
    order = "the order of the log" if facts.job.prepare.ties == "log" else "chance"
    words = (
        f"a target has the time of the interaction before it: {order} chose which one is held out"
    )
    return _of_targets(name, "tied", words, counts, facts, few=_FEW)


def _order(counts: AuditCounts, facts: Facts) -> Check:
    pairs = counts.number("pairs")
    keys = {"internal": "rising", "external": "rising_external"}
    rising = {kind: counts.number(key) for kind, key in keys.items()}
    kind = max(rising, key=lambda k: abs(rising[k] - pairs / 2))
    where = "at one time" if facts.timed else "in a history"
    return _rising("items in the order of ids", rising[kind], pairs, f"neighbours {where}", kind)


def _target_order(counts: AuditCounts, facts: Facts) -> Check:
    what = "targets tied with the history" if facts.timed else "targets"
    return _rising(
        "targets in the order of ids", counts.number("target_rises"),
        counts.number("target_pairs"), what, "external",
    )  # fmt: skip


def _rising(name: str, rising: int, pairs: int, what: str, kind: str) -> Check:
    if not pairs:
        return Check(name, "ok", 0, 0, f"no {what}, so no order of ids can leak")
    share = rising / pairs
    odd = abs(share - 0.5) > _ODD and abs(share - 0.5) > _SURE * (0.25 / pairs) ** 0.5
    words = f"{share:.0%} of the {what} rise by {kind} id, 50 % are expected"
    if odd:
        words += ": the order of ids gives the target away; use prepare.ties: shuffled"
    return Check(name, "found" if odd else "ok", rising, pairs, words)


def _dropped(counts: AuditCounts, facts: Facts) -> Check:
    name, manifest, split = "targets of unknown items", facts.manifest, facts.config.split
    by_split = manifest.unknown_items_by_split
    if not by_split and manifest.rows_rejected.get("unknown_item"):
        words = "prepared by an earlier version, which did not count them by split"
        return Check(name, "not checked", None, None, words)
    number = by_split.get(split, 0)
    of = manifest.rows_by_split[split] + number
    words = (
        f"{split} interactions of items that training never saw are dropped before the evaluation "
        "(prepare.vocabulary.of: all keeps them, and they count as hard targets)"
    )
    return Check(name, "found" if number else "ok", number, of, words)


def _cold(counts: AuditCounts, facts: Facts) -> Check:
    words = "the item of a target has no training interaction: only attributes can find it"
    return _of_targets("targets of untrained items", "cold_items", words, counts, facts)


def _untrained(counts: AuditCounts, facts: Facts) -> Check:
    number, of = counts.number("untrained_users"), counts.number("users")
    words = f"users with {facts.config.split} interactions have no training interaction"
    shown = facts.in_words(counts.examples.get("untrained_users", ())) if number else ()
    status: Status = "found" if number else "ok"
    return Check("users without training", status, number, of, words, shown)


def _rankers(counts: AuditCounts, facts: Facts) -> Check:
    name = "rankers with other targets"
    if not facts.ranks:
        ranks = bool(facts.job.ranking_stages())
        words = "ranks were not given" if ranks else "no stage of this job ranks items"
        return Check(name, "not checked", None, None, words)
    sizes = {
        ranker: (len(ranks), int((ranks == MISSED).sum())) for ranker, ranks in facts.ranks.items()
    }
    first = next(iter(sizes.values()))
    other = [ranker for ranker, size in sizes.items() if size != first]
    words = f"all rank the same {first[0]:,} targets, of which {first[1]:,} cannot be listed"
    if other:
        each = (f"{ranker} {n:,} ({missed:,})" for ranker, (n, missed) in sizes.items())
        words = "targets (and those that cannot be listed): " + ", ".join(each)
    return Check(name, "found" if other else "ok", len(other), len(sizes), words)


def _sampled(counts: AuditCounts, facts: Facts) -> Check:
    ids = len(Catalogue.read(facts.prepare, facts.manifest))
    words = f"ranks are over the whole catalogue of {ids:,} ids"
    if facts.config.users is not None:
        of = facts.manifest.users_by_split[facts.config.split]
        words += f"; about {facts.config.users:,} of {of:,} users are evaluated"
    return Check("sampled candidates", "ok", 0, ids, words)


def _repeated(counts: AuditCounts, facts: Facts) -> Check:
    config = facts.config
    words = (
        "cannot be listed and count as misses (mask_seen: true); evaluate.targets: new leaves them "
        "out, mask_seen: false ranks them"
        if config.mask_seen
        else "are ranked as any other target (mask_seen: false)"
    )
    few = _FEW if config.mask_seen else 1.0
    return _of_targets(
        "targets that the user had before", "repeated", words, counts, facts, few=few
    )


def _time(microseconds: int) -> str:
    try:
        moment = datetime.fromtimestamp(microseconds // c.SECOND, timezone.utc)
    except (ValueError, OverflowError):  # beyond the year 9999
        return f"{microseconds / c.SECOND:,.0f} seconds after 1970"
    return f"{moment:%Y-%m-%d %H:%M:%S}"
