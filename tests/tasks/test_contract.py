"""Every registered objective and task, of p5dist and of installed packages, keeps the contract."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from p5dist.config import RunConfig, dump_job, parse_job
from p5dist.config.registry import ATTRIBUTES, ENCODERS, FORMATS, OBJECTIVES, TASKS, Registry
from p5dist.config.train import Training
from p5dist.data import columns as c
from p5dist.data.batch import Batch
from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Array, Floats, Ints
from p5dist.data.manifest import Manifest
from p5dist.data.randomness import uniform
from p5dist.data.reader import ShardReader
from p5dist.errors import ConfigError
from p5dist.feed.negatives import Candidates
from p5dist.inference.scorer import Scorer
from p5dist.models.precision import dense_part
from p5dist.ranking.targets import Rule, TargetBatch, Targets
from p5dist.storage import RunFolder
from p5dist.tasks.build import Model, build_model, catalogue_loss, make_collate
from p5dist.tasks.evaluation import MODEL, USER, Evaluation, Predictor
from p5dist.tasks.task import Context, Task
from tests.small_data import small_job, write_small_data

Settings = dict[str, Any]
SETTINGS: dict[tuple[str, str], Settings] = {
    ("objective", "attributes"): {"attributes": ["genre"]},
    ("objective", "multi"): {
        "objectives": {"next": {"kind": "causal"}, "near": {"kind": "skip_gram"}}
    },
    ("task", "click"): {"positive": ["buy"], "negatives": 2},
    ("task", "multi"): {
        "tasks": {"next": {"kind": "next_item"}, "buys": {"kind": "click", "positive": ["buy"]}}
    },
}
"""What a kind cannot do without."""
BESIDE_OTHERS: dict[str, Settings] = {"rating": {"history": "time"}}
"""What a task cannot do without as one of several."""
KINDS = [(r, name) for r in (OBJECTIVES, TASKS) for name in r.names()]
STAGES = {"objective": "pretrain", "task": "finetune/rating"}
STEP = 3


@dataclass(frozen=True)
class Case:
    """A training stage with one kind of objective or task, on small data."""

    job: RunConfig
    stage: str
    folder: RunFolder
    manifest: Manifest

    @property
    def training(self) -> Training:
        return self.job.trainings()[self.stage]

    def model(self, device: str = "cpu") -> Model:
        return build_model(self.job, self.stage, self.manifest, torch.device(device))

    def batch(self, histories: Histories) -> Batch:
        """The batch of a step; candidates are those of all histories."""
        collate = make_collate(self.job, self.folder, self.manifest, self.training)
        loss = catalogue_loss(self.job, self.stage)
        if loss is None:
            return collate(histories, step=STEP)
        counts = np.arange(1, self.manifest.items + 1)
        ids, log_q = Candidates(loss, counts, Catalogue(len(counts)), self.job.seed).at(
            STEP, histories
        )
        return collate(histories, step=STEP, candidates=ids, candidate_log_q=log_q)

    def reader(self) -> ShardReader:
        return ShardReader(self.folder.prepare, self.manifest, self.job.history_columns())

    def histories(self) -> Histories:
        """What training reads."""
        reader, parts = self.reader(), []
        for number in range(len(reader.groups)):
            rows = reader.group(number)
            had, had_of = reader.training_items(number, rows)
            parts.append(replace(rows.training(), had=had, had_of=had_of))
        return Histories.concat(parts).last(self.job.feed.max_length)

    def targets(self) -> list[Targets]:
        rule = Rule(split=c.TEST, sessions=False)
        reader = self.reader()
        return [Targets.find(reader.users(portion), rule) for portion in reader.portions(20)]

    def evaluations(self) -> Iterator[tuple[str, Task, Evaluation]]:
        """Name, task and evaluation of each task that has metrics."""
        for name, task in self.training.tasks().items():
            assert isinstance(task, Task)
            found = task.evaluation(Context(self.job, self.manifest, self.folder.prepare, name))
            assert (found is not None) == bool(task.metrics), "metrics are those of an evaluation"
            if found is not None:
                yield name, task, found


def make_case(
    folder: Path, registry: Registry, settings: Settings, *, model: Settings | None = None
) -> Case:
    stage = STAGES[registry.noun]
    key = "pretrain.objective" if stage == "pretrain" else "finetune.rating.task"
    more = [f"model.{name}={json.dumps(value)}" for name, value in (model or {}).items()]
    try:
        job = small_job(
            folder, f"{key}={json.dumps(settings)}", "prepare.source.columns.event=event",
            "finetune.rating.init_from=null", *more,
        )  # fmt: skip
    except ConfigError as e:
        pytest.fail(f"add minimal settings for {settings['kind']} to SETTINGS: {e}")
    run = RunFolder.of(job.storage, job.name)
    if not (run.prepare / "manifest.json").exists():
        write_small_data(job)
    return Case(job, stage, run, Manifest.load(run.prepare))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds")


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0].noun}-{kind[1]}")
def case(request: pytest.FixtureRequest, folder: Path) -> Case:
    registry, name = request.param
    return make_case(folder, registry, {"kind": name, **SETTINGS.get((registry.noun, name), {})})


def sums(model: Model, batch: Batch) -> list[float]:
    losses = model(batch)
    assert losses.shape == (len(model.head.names),)
    return list(losses.tolist())


def mean_loss(model: Model, batch: Batch) -> torch.Tensor:
    return model.head.combine(model(batch) / torch.tensor(model.head.counts(batch)))


def test_registered_classes_are_read_without_pytorch() -> None:
    code = (
        "import sys\n"
        "from p5dist.config import registry as r\n"
        "for one in (r.OBJECTIVES, r.TASKS, r.ENCODERS, r.ATTRIBUTES, r.FORMATS):\n"
        "    for name in one.names():\n"
        "        one.find(name)\n"
        "        assert not {'torch', 'ray'} & set(sys.modules), (one.noun, name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(registry.names() for registry in (ENCODERS, ATTRIBUTES, FORMATS))


def test_what_is_written_is_read_again(case: Case) -> None:
    for defaults in (True, False):
        assert parse_job(dump_job(case.job, defaults=defaults)) == case.job


def test_tables_are_made_on_the_device_that_is_asked_for(case: Case) -> None:
    model = case.model("meta")
    assert any(p.is_meta for p in model.parameters())
    assert all(bool(p.isfinite().all()) for p in model.parameters() if not p.is_meta)
    assert len(set(model.head.names)) == len(model.head.names) >= 1
    for name, task in case.training.tasks().items():
        assert model.head.part(name).ranks == task.ranks


def test_losses_and_counts_of_a_batch_are_the_sums_of_those_of_its_histories(case: Case) -> None:
    """So that losses depend neither on the number of workers nor on who has which history: batch
    fields, hidden interactions and dropout follow (seed, step, row, position)."""
    model, histories = case.model().train(), case.histories()
    whole = case.batch(histories)
    expected, counts = sums(model, whole), model.head.counts(whole)
    assert len(counts) == len(model.head.names) and all(count > 0 for count in counts)
    assert sums(model, case.batch(histories)) == expected, "made again, the batch is the same"
    everyone = np.random.default_rng(0).permutation(len(histories))
    for pieces in (1,) if model.head.compares_histories else (1, 2, len(histories)):
        parts = [case.batch(histories.take(i)) for i in np.array_split(everyone, pieces)]
        every_count = np.array([model.head.counts(part) for part in parts])
        assert (every_count >= 0).all()
        assert every_count.sum(0) == pytest.approx(counts, rel=1e-6)
        found = np.sum([sums(model, part) for part in parts], axis=0)
        assert found == pytest.approx(expected, rel=1e-4)


def test_every_parameter_has_a_gradient_and_losses_fall(case: Case) -> None:
    model, batch = case.model().eval(), case.batch(case.histories())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = mean_loss(model, batch)
        torch.autograd.backward(loss)
        losses.append(float(loss))
        check_gradients(model)
        optimizer.step()
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


def test_bf16_gives_nearly_the_same_losses_and_gradients(case: Case) -> None:
    model, batch = case.model().eval(), case.batch(case.histories())
    with torch.no_grad():  # some modules begin with scores of zero, which have no rounding
        for parameter in model.head.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.05)
    found = []
    for precision in ("float32", "bf16"):
        model.zero_grad()
        with dense_part(precision, torch.device("cpu")):  # type: ignore[arg-type]
            losses = model(batch)
        assert losses.dtype == torch.float32
        torch.autograd.backward(model.head.combine(losses))
        check_gradients(model)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(p.dtype == torch.float32 for p in gradients)
        found.append((losses.tolist(), torch.cat([g.flatten() for g in gradients])))
    (exact, exact_gradient), (near, near_gradient) = found
    assert near != exact
    assert near == pytest.approx(exact, rel=2e-2)
    assert torch.nn.functional.cosine_similarity(near_gradient, exact_gradient, dim=0) > 0.995


def test_a_worker_without_histories_takes_part(case: Case) -> None:
    model, nobody = case.model().train(), np.zeros(0, dtype=np.int64)
    batch = case.batch(case.histories().take(nobody))
    assert model.head.counts(batch) == [0.0] * len(model.head.names)
    losses = model(batch)
    assert losses.tolist() == [0.0] * len(model.head.names)
    torch.autograd.backward(losses.sum())
    check_gradients(model.head)


def check_gradients(module: torch.nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} has no gradient"
            assert bool(parameter.grad.isfinite().all()), name


@pytest.mark.parametrize("name", [name for name in TASKS.names() if name != "multi"])
def test_a_task_twice_beside_another(folder: Path, name: str) -> None:
    own = {"kind": name, **SETTINGS.get(("task", name), {}), **BESIDE_OTHERS.get(name, {})}
    tasks = {"next": {"kind": "next_item"}, "one": own, "other": own}
    case = make_case(folder, TASKS, {"kind": "multi", "tasks": tasks})
    model, batch = case.model().train(), case.batch(case.histories())
    assert model.head.names == ("next", "one", "other")
    counts = model.head.counts(batch)
    assert counts[1] == counts[2] > 0
    torch.autograd.backward(mean_loss(model, batch))
    check_gradients(model.head)


class Hashed:
    """Predicts a number in (0, 1) that follows user, item and time."""

    def predict(self, histories: Histories, owner: Ints, item: Ints, timestamp: Ints) -> Floats:
        found: Floats = uniform(5, histories.user[owner], item, timestamp)[: len(item)]
        return found


def examples_of(
    case: Case, evaluation: Evaluation, predictor: Predictor, fitted: Any, size: int
) -> Mapping[str, Array]:
    """Examples of all targets, ``size`` histories at a time."""
    batches: list[TargetBatch] = [
        b for t in case.targets() for b in (*t.batches(size), t.nothing())
    ]
    parts = [evaluation.examples(predictor, batch, fitted) for batch in batches]
    assert len({tuple(sorted(part)) for part in parts}) == 1, "the same names for every batch"
    assert {len(values) for values in parts[-1].values()} == {0}
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def rows(examples: Mapping[str, Array]) -> Floats:
    """Examples in an order that does not depend on how they came."""
    names = [MODEL, *(name for name in sorted(examples) if name != MODEL)]
    table = np.stack([examples[name].astype(np.float64) for name in names], axis=1)
    return table[np.lexsort(table.T)]


def test_examples_do_not_depend_on_batches_and_give_the_metrics(case: Case) -> None:
    known = [case.reader().users(portion) for portion in case.reader().portions(20)]
    training = [u.histories.where(u.histories.split == c.TRAIN) for u in known]
    for _, task, evaluation in case.evaluations():
        fitted = evaluation.fit(iter(training))
        examples = examples_of(case, evaluation, Hashed(), fitted, 1000)
        assert {USER, MODEL} <= set(examples) and len(examples[USER]) > 5
        for size in (1, 7):
            other = examples_of(case, evaluation, Hashed(), fitted, size)
            assert np.array_equal(rows(other), rows(examples))
        alone = examples_of(case, evaluation, Hashed(), None, 7)
        assert len(alone[MODEL]) == len(examples[MODEL]), "baselines are not asked for in training"
        measured = evaluation.measure(examples, resamples=50, seed=1)
        assert set(measured[MODEL]) == set(task.metrics)
        assert len(measured) > 1 or fitted is None, "a baseline is measured too"
        for values in measured.values():
            assert set(values) <= set(task.metrics)
        for name, found in measured[MODEL].items():
            assert found.low is not None and found.high is not None, name
            assert found.low <= found.value <= found.high
        nothing = {name: values[:0] for name, values in examples.items()}
        empty = evaluation.measure(nothing, resamples=50, seed=1)
        assert all(set(values) <= set(task.metrics) for values in empty.values())
        shown = evaluation.columns(examples)
        assert {len(values) for values in shown.values()} <= {sum(map(len, case.targets()))}


def test_predictions_do_not_depend_on_batches(case: Case) -> None:
    training, length = case.training, case.job.feed.max_length
    collate = make_collate(case.job, case.folder, case.manifest, training)
    model = case.model()
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    scorer = Scorer(
        model, collate, Catalogue(case.manifest.items), length, shuffled=training.shuffled
    )
    for name, _, evaluation in case.evaluations():
        one, many = (examples_of(case, evaluation, scorer.task(name), None, n) for n in (1, 99))
        assert rows(one) == pytest.approx(rows(many), abs=1e-4)
