"""Ray Tune draws settings, starts trials and stops poor ones early.

Every trial is a run with checkpoints of its own. A search that was killed is started again by the
same command: it draws the same settings (the seed of the job), tells Ray Tune again what the runs
already know, and goes on with the others. Nothing of Ray Tune's own state is read again.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from p5dist import pipeline
from p5dist.config import RunConfig, dump_job, parse_job
from p5dist.config.places import with_absolute_places
from p5dist.data.manifest import Manifest
from p5dist.environment.extras import need
from p5dist.environment.provenance import provenance
from p5dist.environment.ray_session import connect
from p5dist.environment.resources import worker_resources
from p5dist.errors import BusyError, P5Error, TrainingError
from p5dist.feed.mix import open_mix
from p5dist.feed.order import total_steps
from p5dist.observe.events import Callback, Event, Started, Validated
from p5dist.observe.metrics_log import read_validation
from p5dist.storage import Folder, RunFolder
from p5dist.tuning.show import picture
from p5dist.tuning.space import Range, draw, present
from p5dist.tuning.trials import Goal, Settings, Trial, trial_job

_REDUCTION, _GRACE = 3, 10
_PERCENT, _VALUE, _SETTINGS = "percent", "value", "settings"
_BUSY_S = 5.0
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the runs have logs of their own
    "TUNE_WARN_THRESHOLD_S": "60",
}
_ALMOST_NOTHING = {"memory": 1}
"""The process of a trial only waits for its workers, which reserve what they need; and Ray Tune
allows no trial without resources."""


def folder_of(job: RunConfig) -> Folder:
    """The folder of the result of a search."""
    return Folder.open(job.storage) / f"{job.name}-tune"


def run(
    job: RunConfig,
    space: Mapping[str, Range],
    *,
    trials: int,
    metric: str | None = None,
    at_once: int | None = None,
    algorithm: Literal["random", "optuna"] = "random",
    stop_early: bool = True,
) -> dict[str, Any]:
    """Search, and write the result: the job as it is and ``trials - 1`` drawn settings.

    Args:
        space: ranges by key of the job file.
        metric: of the validations of a training stage; None: of the last stage that has some.
        at_once: trials that run at the same time; None: as many as have CPUs (or GPUs).
        algorithm: optuna: drawn by Optuna's tree-structured Parzen estimator (needs optuna).
        stop_early: stop a trial whose best value so far is not among the best third of those at the
            same share of the training (ASHA, Li et al. 2020; first at 10 %, then at 30 % and 90 %).

    Returns:
        The content of NAME-tune/result.json.

    Raises:
        ConfigError: nothing to search for, or settings of the job that do not fit.
        TrainingError: every trial failed.
    """
    began, goal = time.time(), Goal.of(job, metric)
    first = present(job, space)
    points = draw(space, trials, job.seed, first)
    for point in points:
        trial_job(job, point)  # settings that do not fit each other are an error before anything
    if job.data_of is None:
        pipeline.run(job, ["prepare"])
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    connect(job.scale)
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    log = logging.LoggerAdapter(logging.getLogger("p5dist"), {"run": job.name})
    there = with_absolute_places(job)
    with tempfile.TemporaryDirectory(prefix="p5dist-tune-") as scratch:
        text = dump_job(there, defaults=False)
        trial = tune.with_parameters(_trainable(), job=text, goal=asdict(goal))
        found = tune.Tuner(
            tune.with_resources(trial, _ALMOST_NOTHING),
            param_space=_space(algorithm, space, points),
            tune_config=tune.TuneConfig(
                metric=_VALUE,
                mode="max" if goal.higher_is_better else "min",
                num_samples=1 if algorithm == "random" else trials,
                search_alg=_algorithm(algorithm, space, first, job.seed, at_once or _at_once(job)),
                scheduler=_scheduler(stop_early),
            ),
            run_config=tune.RunConfig(
                name=job.name, storage_path=scratch, verbose=0, callbacks=[_told(log, goal)],
                failure_config=tune.FailureConfig(max_failures=2),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()  # fmt: skip
    read = [Trial.read(job, goal, _of(one.config or {}), _reason(one.error)) for one in found]
    return _write(job, goal, first, read, began)


def _trainable() -> Any:
    """The class of a trial: the run of its settings, from where it was; a step of Ray Tune ends at
    its next validation."""
    from ray import tune

    class Run(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any], *, job: str, goal: dict[str, Any]) -> None:
            aim, one = Goal(**goal), trial_job(parse_job(job), _of(config))
            self._reports, self._asked = _Reports(aim), threading.Event()
            self._reports.known(one)
            self._thread = threading.Thread(target=self._work, args=(one, aim.stage), daemon=True)
            self._thread.start()

        def _work(self, one: RunConfig, stage: str) -> None:
            reports, ended = self._reports, None
            try:
                self._stages(one, stage)
            except BaseException as e:
                ended = e
            reports.end(ended)

        def _stages(self, one: RunConfig, stage: str) -> None:
            """The stages up to ``stage``; waits while a trial with the same settings runs."""
            stages = list(one.trainings())
            stages = stages[: stages.index(stage) + 1]
            while not self._asked.is_set():
                try:
                    pipeline.run(
                        one, stages, stop=self._asked,
                        callbacks=lambda other: [self._reports] if other == stage else [],
                    )  # fmt: skip
                    return
                except BusyError:
                    self._asked.wait(_BUSY_S)

        def step(self) -> dict[str, Any]:
            return self._reports.next()

        def cleanup(self) -> None:
            """Ends the workers, after a checkpoint, before this process is ended."""
            self._asked.set()
            self._thread.join()

    return Run


class _Reports(Callback):
    """Validations on their way to Ray Tune: the best value so far, and how far the training is."""

    def __init__(self, goal: Goal) -> None:
        self._goal = goal
        self._total, self._last, self._values = 0, 0, list[float]()
        self._waiting: queue.SimpleQueue[dict[str, Any] | BaseException] = queue.SimpleQueue()
        self._latest: dict[str, Any] = {}

    def known(self, job: RunConfig) -> None:
        """The validations of an earlier start of the run."""
        lines = read_validation(RunFolder.of_job(job).training(self._goal.stage))
        if lines:
            self._total = _steps(job, self._goal.stage)
        for line in lines:
            self._tell(line["step"], line["metric"], line["value"])

    def on(self, event: Event) -> None:
        match event:
            case Started(total=total):
                self._total = total
            case Validated(step, metric, value):
                self._tell(step, metric, value)

    def _tell(self, step: int, metric: str, value: float) -> None:
        if metric != self._goal.metric or step <= self._last:  # again, after a restart
            return
        self._last = step
        self._values.append(value)
        best, share = self._goal.best(self._values), 100 * step / max(self._total, 1)
        self._waiting.put({_VALUE: best, _PERCENT: share})

    def end(self, error: BaseException | None) -> None:
        """The run has ended."""
        self._waiting.put({"done": True} if error is None else error)

    def next(self) -> dict[str, Any]:
        """The next validation; the last one again, with ``done``, at the end of the run."""
        found = self._waiting.get()
        if isinstance(found, BaseException):
            raise found
        self._latest |= found
        return dict(self._latest)


def _steps(job: RunConfig, stage: str) -> int:
    folder = RunFolder.of_job(job)
    mix = open_mix(job, stage, folder, Manifest.read(folder.prepare))
    return total_steps(job.trainings()[stage], mix.own.order)


def _space(name: str, space: Mapping[str, Range], points: list[dict[str, Any]]) -> dict[str, Any]:
    """What Ray Tune draws from: the settings that are drawn already, one after the other, or the
    ranges."""
    from ray import tune

    if name == "random":
        return {_SETTINGS: tune.grid_search(points)}
    return {key: values.domain() for key, values in space.items()}


def _algorithm(
    name: str, space: Mapping[str, Range], first: Settings, seed: int, at_once: int
) -> Any:
    """What gives the settings of the next trial. With optuna the first ones are those of the job,
    if they lie in the ranges."""
    from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter

    if name == "optuna":
        need("optuna", "tune", "p5dist tune --algorithm optuna")
        from ray.tune.search.optuna import OptunaSearch

        inside = all(space[key].has(value) for key, value in first.items())
        drawn = OptunaSearch(points_to_evaluate=[dict(first)] if inside else None, seed=seed)
        return ConcurrencyLimiter(drawn, max_concurrent=at_once)
    return BasicVariantGenerator(max_concurrent=at_once)


def _scheduler(stop_early: bool) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if not stop_early:
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr=_PERCENT, max_t=100, grace_period=_GRACE, reduction_factor=_REDUCTION,
        stop_last_trials=False,
    )  # fmt: skip


def _at_once(job: RunConfig) -> int:
    """Trials for which the cluster has room."""
    import ray

    there = ray.cluster_resources()
    room = [
        there.get(name, 0) // (wanted * job.scale.most_workers)
        for name, wanted in worker_resources(job.scale).items()
        if wanted
    ]
    return max(int(min(room, default=1)), 1)


def _told(log: Any, goal: Goal) -> Any:
    """A line for each trial that ends."""
    from ray import tune

    class Told(tune.Callback):  # type: ignore[misc]
        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            last = trial.last_result or {}
            value, share = last.get(_VALUE, float("nan")), last.get(_PERCENT, 0)
            log.info(
                f"trial {_in_words(trial)}: {goal.metric} {value:.4f} after {share:.0f} % "
                "of the training"
            )

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            log.warning(f"trial {_in_words(trial)} failed: {_reason(trial.get_error())}")

    return Told()


def _of(config: dict[str, Any]) -> Settings:
    """The settings of a trial, see :func:`_space`."""
    found: Settings = config.get(_SETTINGS, config)
    return dict(found)


def _in_words(trial: Any) -> str:
    settings = _of(trial.config)
    return ", ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in settings.items()
    )


def _reason(error: Any) -> str | None:
    """The message of a failed trial."""
    if error is None:
        return None
    cause = getattr(error, "cause", None)
    text = str(cause if isinstance(cause, P5Error) else error).strip()
    return text.splitlines()[-1] if text else repr(error)


def _write(
    job: RunConfig, goal: Goal, first: Settings, trials: list[Trial], began: float
) -> dict[str, Any]:
    """result.json, best.yaml and the picture of a search."""
    done = [trial for trial in trials if trial.best is not None]
    if not done:
        raise TrainingError(
            "every trial failed", where=str(folder_of(job)),
            value=next((t.error for t in trials if t.error), "no validation"),
            fix="run the job alone, p5dist run, and look at its error; or narrow the ranges",
        )  # fmt: skip
    sign = -1 if goal.higher_is_better else 1
    ranked = sorted(done, key=lambda t: sign * float(t.best or 0.0))
    ranked += [trial for trial in trials if trial.best is None]
    own = next((t for t in trials if dict(t.settings) == dict(first)), None)
    overrides = [f"{key}={json.dumps(value)}" for key, value in ranked[0].settings.items()]
    best = parse_job(dump_job(job, defaults=False), overrides)
    folder, data = folder_of(job), Manifest.read(RunFolder.of_job(job).prepare)
    result = {
        "metric": goal.metric,
        "stage": goal.stage,
        "higher_is_better": goal.higher_is_better,
        "best": asdict(ranked[0]),
        "job_as_it_is": None if own is None else asdict(own),
        "trials": [asdict(trial) for trial in ranked],
        "overrides": overrides,
        **provenance(job, goal.stage, data=data.fingerprint, seconds=time.time() - began),
    }
    (folder / "best.yaml").write_text(dump_job(best, defaults=False))
    (folder / "trials.svg").write_text(picture(result))
    (folder / "result.json").write_json(result)
    return result
