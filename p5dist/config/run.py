"""RunConfig: the object of a whole job file."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from p5dist.config.base import Column, Section
from p5dist.config.feed import Feed
from p5dist.config.model import Model
from p5dist.config.output import Evaluate, Ranking, Report
from p5dist.config.prepare import Prepare
from p5dist.config.raw_files import Attribute
from p5dist.config.recommend import Recommend
from p5dist.config.registry import ENCODERS
from p5dist.config.scale import Scale
from p5dist.config.sections import TaskSection
from p5dist.config.tracking import Tracking
from p5dist.config.train import Advance, Finetune, Pretrain, Training

_HOW_TO_READ = ("in_memory", "unit_rows", "read_ahead")


def _folder_name(name: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is None:
        raise ValueError(
            "a name has letters, digits, '.', '_' and '-', and begins with a letter or a digit"
        )
    return name


FolderName = Annotated[str, AfterValidator(_folder_name)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class RunConfig(Section):
    """A whole run, from the raw log to the report."""

    name: FolderName
    """Name of the run, and of its folder under ``storage``."""
    storage: str = "runs"
    """A folder, or a URL that fsspec opens."""
    seed: Seed = 1
    """Seed of all randomness: ties, weights, order of the data, masks, dropout, negatives,
    evaluated users."""
    train_seed: Seed | None = None
    """Seed of training: initial weights, order of the data, masks, dropout, negatives. Left out:
    ``seed``. Prepared data, evaluated users, their negatives and intervals follow ``seed``, so that
    runs that differ in ``train_seed`` only are evaluated on the same targets."""
    data_of: FolderName | None = None
    """Name of another run in the same storage whose prepared data this run uses, instead of a stage
    prepare of its own. Both jobs need the same seed and the same sections prepare and feed.lanes.
    ``p5dist run --seeds`` sets it."""
    prepare: Prepare
    feed: Feed = Feed()
    model: Model = Model()
    pretrain: Pretrain | None = None
    finetune: dict[FolderName, Finetune] = {}
    """One entry per fine-tuning stage; its name is the folder under finetune/."""
    advance: Advance = Advance()
    ranking: Ranking = Ranking()
    evaluate: Evaluate | None = Evaluate()
    recommend: Recommend | None = Recommend()
    report: Report | None = Report()
    scale: Scale = Scale()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _data(self) -> RunConfig:
        if self.data_of == self.name:
            raise ValueError(
                f"data_of '{self.data_of}' is this run itself: name another run, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _lanes(self) -> RunConfig:
        if self.feed.lanes < self.scale.most_workers:
            raise ValueError(
                f"feed.lanes {self.feed.lanes} must be at least scale.workers "
                f"{self.scale.most_workers}: raise feed.lanes or use fewer workers"
            )
        for stage, training in self.trainings().items():
            if training.batch_size % self.feed.lanes:
                raise ValueError(
                    f"{key_of(stage)}.batch_size {training.batch_size} must be a multiple of "
                    f"feed.lanes {self.feed.lanes} (batch = lanes · rows per lane): change one"
                )
        sets = 1 + len(self.feed.mix)
        if self.pretrain is not None and self.pretrain.batch_size < sets * self.feed.lanes:
            raise ValueError(
                f"pretrain.batch_size {self.pretrain.batch_size} must be at least {sets} data sets "
                f"· feed.lanes {self.feed.lanes}, so that every lane has a history of each data "
                "set: raise pretrain.batch_size, or lower feed.lanes"
            )
        return self

    @model_validator(mode="after")
    def _attributes(self) -> RunConfig:
        for side in ("items", "users"):
            named = self._attributes_of(side)
            for what, known in (
                ("attributes", self.readable_attributes(side)),
                ("vectors", self.vectors_of(side)),
            ):
                key = f"{side[:-1]}_{what}"
                for name in getattr(self.model, key):
                    if name in known:
                        continue
                    has = (
                        f"has as kind '{named[name].kind}'" if name in named else "does not define"
                    )
                    raise ValueError(
                        f"model.{key} names '{name}', which prepare.{side}.attributes {has} "
                        f"(it has: {', '.join(known) or 'none'})"
                    )
        known = self.readable_attributes("items")
        for key, name in [] if self.evaluate is None else self.evaluate.named_attributes():
            if name not in known:
                raise ValueError(
                    f"evaluate.{key} names '{name}', which is no attribute with values of "
                    f"prepare.items.attributes (it has: {', '.join(known) or 'none'})"
                )
        return self

    @model_validator(mode="after")
    def _stages(self) -> RunConfig:
        before: list[str] = []
        for stage, training in self.trainings().items():
            self._check_start(stage, training, before)
            before.append(stage)
        if self.model.inputs.rating and self.prepare.source.columns.rating is None:
            raise ValueError(
                "model.inputs.rating needs ratings, but prepare.source.columns.rating names no "
                "column"
            )
        for key, task in self.tasks():
            task.check(self, key)
        for key in ("item_to_item", "returns"):
            value = getattr(self.ranking, key)
            if value and value != "auto" and not self.ranking_stages():
                raise ValueError(
                    f"ranking.{key} {value} shares the ranking with a model, but no stage of this "
                    "job ranks items: leave it out"
                )
        if self.recommend is not None:
            self.recommend.check(self)
        for section in ("evaluate", "recommend"):
            chosen = getattr(getattr(self, section), "ranking_from", None)
            if chosen is not None and chosen not in self.ranking_stages():
                raise ValueError(
                    f"{section}.ranking_from '{chosen}' is no stage of this job that ranks items "
                    f"(it has: {', '.join(self.ranking_stages()) or 'none'})"
                )
        return self

    @model_validator(mode="after")
    def _encoder(self) -> RunConfig:
        source, inputs = self.prepare.source.columns, self.model.inputs
        for wanted, column in (
            ([n for n in ("time_gap", "calendar") if getattr(inputs, n)], "timestamp"),
            (["event"] if inputs.event else [], "event"),
        ):
            if wanted and getattr(source, column) is None:
                raise ValueError(
                    f"model.inputs.{wanted[0]} reads the {column} of interactions, but "
                    f"prepare.source.columns.{column} names no column"
                )
        encoder = self.model.encoder
        for name in encoder.columns:
            if getattr(source, name) is None:
                raise ValueError(
                    f"model.encoder '{encoder.kind}' reads the {name} of interactions, but "
                    f"prepare.source.columns.{name} names no column: {encoder.without_columns}"
                )
        for key, task in self.tasks():
            if task.sees == "both" and not encoder.sees_both_sides:
                raise ValueError(
                    f"{key} predicts hidden items from both sides, but model.encoder "
                    f"'{encoder.kind}' sees the past only: use "
                    f"{ENCODERS.ours_with('sees_both_sides', 'or')}"
                )
        return self

    @model_validator(mode="after")
    def _events(self) -> RunConfig:
        sections: dict[str, Any] = {"evaluate": self.evaluate}
        for stage, training in self.trainings().items():
            sections[f"{key_of(stage)}.validation"] = training.validation
        for key, section in sections.items():
            named = None if section is None else section.events
            if named is not None and self.prepare.source.columns.event is None:
                raise ValueError(
                    f"{key}.events names events, but prepare.source.columns.event names no column"
                )
        return self

    @property
    def training_seed(self) -> int:
        """``train_seed``; left out, ``seed``."""
        return self.seed if self.train_seed is None else self.train_seed

    def tasks(self) -> list[tuple[str, TaskSection]]:
        """Key path and section of every objective and task."""
        return [(key, task) for stage in self.trainings() for key, _, task in self.tasks_of(stage)]

    def tasks_of(self, stage: str) -> list[tuple[str, str, TaskSection]]:
        """Key path, name (empty for a single one) and section of the objectives or tasks of a
        training stage."""
        training = self.trainings()[stage]
        one = "task" if isinstance(training, Finetune) else "objective"
        return [
            (f"{key_of(stage)}.{one}" + (f".{one}s.{name}" if name else ""), name, task)
            for name, task in training.tasks().items()
        ]

    def _check_start(self, stage: str, training: Training, before: list[str]) -> None:
        start, key = training.init_from, key_of(stage)
        if start == "pretrain" and self.pretrain is None:
            raise ValueError(
                f"{key}.init_from is 'pretrain', but the job has no pretrain "
                f"section: add one (pretrain: {{}} is enough), or set {key}.init_from to null to "
                "train without it"
            )
        inside = start is not None and (start in self.trainings() or "/" not in start)
        if inside and start not in before:
            raise ValueError(
                f"{key}.init_from '{start}' is neither an earlier stage of this job (it has: "
                f"{', '.join(before) or 'none'}) nor the folder or URL of a stage of another run"
            )
        adapted = isinstance(training, Finetune) and training.train == "adapters"
        if adapted and not self.model.encoder.adaptable:
            raise ValueError(
                f"{key}.train is 'adapters', but encoder {self.model.encoder.kind} has no linear "
                "layers"
            )

    def readable_attributes(self, side: str) -> list[str]:
        """Names of the attributes of ``items`` or ``users`` that have values."""
        return [n for n, attribute in self._attributes_of(side).items() if attribute.for_models]

    def vectors_of(self, side: str) -> list[str]:
        """Names of the attributes of ``items`` or ``users`` that are vectors."""
        return [n for n, attribute in self._attributes_of(side).items() if attribute.is_vector]

    def _attributes_of(self, side: str) -> dict[str, Attribute]:
        table = getattr(self.prepare, side)
        return {} if table is None else table.attributes

    def trainings(self) -> dict[str, Training]:
        """Training stages by folder name, in the order in which they run."""
        stages: dict[str, Training] = {}
        if self.pretrain is not None:
            stages["pretrain"] = self.pretrain
        for name, section in self.finetune.items():
            stages[f"finetune/{name}"] = section
        return stages

    def ranking_stages(self) -> list[str]:
        """Training stages whose model ranks items; the last is the default."""
        return [stage for stage, section in self.trainings().items() if section.ranks]

    def predicting_tasks(self) -> dict[str, tuple[str, str]]:
        """Tasks whose predictions are evaluated, in the order of training: training stage and name
        of the task, by path (``finetune/<stage>`` or, with several tasks in the stage,
        ``finetune/<stage>/<task>``)."""
        return {
            f"{stage}/{name}" if name else stage: (stage, name)
            for stage, training in self.trainings().items()
            for name, task in training.tasks().items()
            if task.metrics
        }

    def history_columns(self) -> tuple[Column, ...]:
        """Columns of a history that models and tasks read, besides user, item and split."""
        source = self.prepare.source.columns
        wanted: list[Column] = ["rating", "event"]
        wanted += [column for _, task in self.tasks() for column in task.columns]
        if self.prepare.continues is not None:  # what trains is decided by its time
            wanted.append("timestamp")
        there = [name for name in wanted if getattr(source, name) is not None]
        return tuple(dict.fromkeys((*there, *self.model.columns)))

    def stages(self) -> list[str]:
        """All stages of the job in order; a job that uses the data of another run has no stage
        prepare."""
        names = [*([] if self.data_of else ["prepare"]), *self.trainings()]
        names += [s for s in ("evaluate", "recommend", "report") if getattr(self, s) is not None]
        return names

    def identity(self, stage: str) -> dict[str, Any]:
        """The settings that decide the result of ``stage``, by section; without scale, storage, and
        settings of reading, logging, saving and profiling."""
        job = self.model_dump(mode="json")
        del job["prepare"]["changed_inputs"]
        parts: dict[str, Any] = {"seed": job["seed"], "prepare": job["prepare"]}
        if stage == "prepare":
            parts["lanes"] = job["feed"]["lanes"]
            return parts
        if self.training_seed != self.seed:
            parts["train_seed"] = self.training_seed
        feed = {k: v for k, v in job["feed"].items() if k not in _HOW_TO_READ}
        for mixed in feed["mix"].values():  # the location of the run does not matter
            mixed["data"] = mixed["data"].rstrip("/").rsplit("/", 1)[-1]
        parts |= {"feed": feed, "model": job["model"]}
        last = stage if stage in self.trainings() else None
        for name in self.trainings():
            if last is None or name in self._ancestry(last):
                section = dict(_section(job, name))
                for key in ("log_every", "checkpoint", "ledger", "profile"):
                    section.pop(key)
                start = section["init_from"]
                if start is not None and start not in self.trainings():  # likewise
                    section["init_from"] = "/".join(start.rstrip("/").split("/")[-3:])
                parts[key_of(name)] = section
        if last is None:
            parts["ranking"] = job["ranking"]
            for name in ("evaluate", "recommend", "report"):
                if name == stage or stage == "report":
                    parts[name] = job[name]
        return parts

    def _ancestry(self, stage: str) -> list[str]:
        """A training stage and, along ``init_from``, the stages whose weights it starts from."""
        found = [stage]
        while (start := self.trainings()[found[-1]].init_from) in self.trainings():
            found.append(str(start))
        return found

    def fingerprint(self, stage: str) -> str:
        """SHA-256 (16 hex digits) of :meth:`identity`."""
        text = json.dumps(self.identity(stage), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def key_of(stage: str) -> str:
    """Key path in the job file of a training stage."""
    return stage.replace("/", ".")


def _section(job: dict[str, Any], stage: str) -> dict[str, Any]:
    for part in stage.split("/"):
        job = job[part]
    return job
