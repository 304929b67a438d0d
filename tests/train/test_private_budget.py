"""Noise ↔ ε, and data and settings that privacy does not fit."""

from __future__ import annotations

import json
import math
from pathlib import Path

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant

from p5dist.config import RunConfig
from p5dist.data.manifest import Manifest
from p5dist.environment.keys import key_of
from p5dist.errors import ConfigError
from p5dist.feed.mix import open_mix
from p5dist.feed.order import LaneOrder
from p5dist.observe.metrics_log import METRICS
from p5dist.storage import Folder, RunFolder
from p5dist.train.private.budget import Budget, begun_epochs, budget_of, default_delta
from p5dist.train.private.noise import Noise
from p5dist.train.private.outcome import lines, outcome
from tests.small_data import small_job, write_small_data

STAGE = "finetune/rating"


def job_with(folder: Path, privacy: str, *overrides: str) -> RunConfig:
    job = small_job(
        folder, f"finetune.rating.privacy={privacy}", "finetune.rating.init_from=null", *overrides
    )
    write_small_data(job)
    return job


def budget(job: RunConfig, **changed: int) -> Budget:
    manifest, order = data_of(job)
    found = budget_of(job, STAGE, manifest.model_copy(update=changed), order)
    assert found is not None
    return found


def data_of(job: RunConfig) -> tuple[Manifest, LaneOrder]:
    folder = RunFolder.of_job(job)
    manifest = Manifest.load(folder.prepare)
    return manifest, open_mix(job, STAGE, folder, manifest).own.order


def delta_of(epsilon: float, noise: float) -> float:
    """Balle and Wang 2018, theorem 8, for sensitivity 1."""

    def normal(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    a, b = 1 / (2 * noise), epsilon * noise
    return normal(a - b) - math.exp(epsilon) * normal(-a - b)


@pytest.mark.parametrize("noise", [0.4, 1.0, 7.0])
def test_one_epoch_is_the_analytic_gaussian_mechanism(noise: float) -> None:
    found = Budget(noise, 1.0, 1e-5, 100, 1).epsilon(1)
    assert delta_of(found, noise) == pytest.approx(1e-5, rel=1e-6)


@pytest.mark.parametrize(("noise", "epochs"), [(1.0, 3), (4.0, 20), (9.0, 100)])
def test_several_epochs_are_as_numerical_composition_says(noise: float, epochs: int) -> None:
    accountant = PLDAccountant()
    accountant.compose(
        dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(noise), epochs)
    )
    found = Budget(noise, 1.0, 1e-6, 100, epochs).epsilon(epochs)
    assert found == pytest.approx(accountant.get_epsilon(1e-6), rel=1e-4)


def test_noise_is_the_smallest_that_satisfies_epsilon(tmp_path: Path) -> None:
    job = job_with(tmp_path, "{epsilon: 3, key: K}", "finetune.rating.steps=30")
    found = budget(job)
    assert found.epochs == begun_epochs(data_of(job)[1], 30) > 1
    assert 3 * (1 - 1e-6) < found.epsilon(found.epochs) <= 3
    assert found.delta == 1e-5


def test_a_begun_epoch_counts(tmp_path: Path) -> None:
    _, order = data_of(job_with(tmp_path, "{noise: 2, key: K}"))
    first, second = order.steps_in(0), order.steps_in(1)
    steps = [0, 1, first, first + 1, first + second, first + second + 1]
    assert [begun_epochs(order, n) for n in steps] == [0, 1, 1, 2, 2, 3]


def test_delta_is_far_below_one_user(tmp_path: Path) -> None:
    assert budget(job_with(tmp_path, "{noise: 2, key: K}")).delta == 1e-5
    assert default_delta(10_000_000) == pytest.approx(1e-8)


@pytest.mark.parametrize(
    ("privacy", "changed", "text"),
    [
        ("{noise: 2, key: K, delta: 0.02}", {}, "smaller than 1 / users = 1 / 50"),
        ("{noise: 2, key: K}", {"users": 49}, "50 histories of 49 users"),
    ],
)
def test_data_that_privacy_does_not_fit(
    privacy: str, changed: dict[str, int], text: str, tmp_path: Path
) -> None:
    job = job_with(tmp_path, privacy)
    with pytest.raises(ConfigError, match=text):
        budget(job, **changed)


SAMPLED = "{kind: next_item, loss: {kind: sampled_softmax, distribution: %s}}"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (["finetune.rating.privacy={noise: 1, epsilon: 1, key: K}"], "exactly one of noise"),
        (["finetune.rating.privacy={key: K}"], "exactly one of noise"),
        (["finetune.rating.privacy={noise: 0, key: K}"], "greater than 0"),
        (["finetune.rating.privacy={noise: 1}"], "key"),
        (["finetune.rating.non_finite.policy=skip"], "because of its data"),
        (["finetune.rating.task.base=biases"], "ratings of all users"),
        ([f"finetune.rating.task={SAMPLED % 'popularity'}"], "popularity draws negatives"),
        ([f"finetune.rating.task={SAMPLED % '{uniform: 1, in_batch: 1}'}"], "in_batch draws"),
    ],
)
def test_settings_that_privacy_does_not_fit(settings: list[str], text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=text):
        small_job(tmp_path, "finetune.rating.privacy={noise: 1, key: K}", *settings)


def test_privacy_decides_the_weights(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    private = small_job(tmp_path, "finetune.rating.privacy={noise: 1, key: K}")
    assert private.fingerprint(STAGE) != job.fingerprint(STAGE)


def test_the_key_must_be_there_and_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(ConfigError, match="the key of the noise is not set"):
        key_of("NO_KEY", "finetune.a.privacy.key", "the noise")
    monkeypatch.setenv("NO_KEY", "short")
    with pytest.raises(ConfigError, match="too short") as caught:
        key_of("NO_KEY", "finetune.a.privacy.key", "the noise")
    assert "short" not in str(caught.value).replace("too short", "")


def test_noise_is_normal_and_a_function_of_its_coordinates() -> None:
    noise = Noise(b"k" * 16, "run")
    drawn = noise.block(3, "a", 0, 100_000)
    assert np.array_equal(drawn, Noise(b"k" * 16, "run").block(3, "a", 0, 100_000))
    share = [float((np.abs(drawn) < limit).mean()) for limit in (1, 2, 3)]
    assert share == pytest.approx([0.6827, 0.9545, 0.9973], abs=5e-3)
    others = [
        noise.block(4, "a", 0, 100_000), noise.block(3, "b", 0, 100_000),
        noise.block(3, "a", 1, 100_000), Noise(b"k" * 16, "other").block(3, "a", 0, 100_000),
        Noise(b"l" * 16, "run").block(3, "a", 0, 100_000),
    ]  # fmt: skip
    for other in others:
        assert abs(np.corrcoef(drawn, other)[0, 1]) < 0.02


def test_the_outcome_counts_epochs_and_clipped_users(tmp_path: Path) -> None:
    job = job_with(tmp_path, "{noise: 2, key: K}", "finetune.rating.steps=30")
    stage = Folder.open(str(tmp_path / "stage")).make()
    (stage / "privacy.json").write_json({"numbers": 5, "tables": {}, "frozen": {"user": "rows"}})
    logged = [
        {"step": 4, "clipped": {"0": [40, 30]}}, {"step": 8, "clipped": {"0": [10, 5], "1": [8, 2]}}
    ]  # fmt: skip
    (stage / METRICS).write_text("".join(json.dumps(line) + "\n" for line in logged))
    _, order = data_of(job)
    found = outcome(budget(job), order, stage, order.steps_in(0) + 1)
    assert found["epochs"] == 2
    assert found["clipped"] == {"0": 0.7, "1": 0.25}
    assert found["epsilon"] == pytest.approx(
        dp_accounting.get_epsilon_gaussian(2 / math.sqrt(2), 1e-5)
    )
    text = "\n".join(lines(found))
    assert "2 epochs" in text and "not: vocabulary" in text and "frozen: user" in text
