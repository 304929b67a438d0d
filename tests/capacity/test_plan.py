"""p5dist plan: memory, bytes and times against numbers computed by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from p5dist.capacity import table
from p5dist.capacity.estimate import EFFICIENCY, Estimate, estimate
from p5dist.capacity.machines import Machine, machine, machines
from p5dist.capacity.sharding import plan_tables
from p5dist.capacity.show import counts
from p5dist.cli.main import app
from p5dist.config import parse_job
from p5dist.errors import ConfigError

JOB = """
name: plan
prepare: {source: {files: log.parquet, columns: {timestamp: time}}}
feed: {lanes: 64, max_length: 20}
model: {dim: 32, encoder: {kind: transformer, layers: 2, heads: 2}}
pretrain:
  objective: {kind: causal, loss: {kind: sampled_softmax, negatives: 100}}
  epochs: 1
  batch_size: 128
"""
# Two devices a machine; rates so that what is reached is round.
HAND = Machine(
    device="cpu", devices=2, device_memory=1, device_rate=10 / EFFICIENCY["memory"],
    flops=100 / EFFICIENCY["flops"], inside=4 / EFFICIENCY["links"],
    network=2 / EFFICIENCY["links"], memory=2, storage=1 / EFFICIENCY["links"],
)  # fmt: skip


def planned(workers: int, *overrides: str, items: float = 9999) -> Estimate:
    job = parse_job(JOB, list(overrides))
    manifest = counts(job, 1e5, 1e4, items)  # ten interactions a history
    tables = plan_tables(job, "pretrain", manifest, HAND, workers)
    return estimate(job, "pretrain", manifest, HAND, workers, tables)


def test_tables_are_split_evenly_and_fit() -> None:
    found = planned(4)
    (entry,) = found.tables.entries or []
    assert entry["sharding"] == "row_wise"
    assert entry["ranks"] == [0, 1, 2, 3]
    # 10,000 rows with padding, 2,500 a worker, of 32 values and the optimizer's one.
    assert found.memory["tables"] == 2500 * 33 * 4
    assert found.fits


def test_the_planner_gets_the_rules_of_training() -> None:
    found = planned(4, "scale.sharding={item: table_wise}")
    (entry,) = found.tables.entries or []
    assert (entry["sharding"], len(entry["ranks"])) == ("table_wise", 1)
    with pytest.raises(ConfigError, match="a table cannot be split in that way"):
        planned(4, "scale.sharding={item: column_wise}")  # with row-wise Adagrad
    with pytest.raises(ConfigError, match="no such table"):
        planned(4, "scale.sharding={films: table_wise}")


def test_bytes_and_seconds_by_hand() -> None:
    found = planned(4)
    # 32 histories a worker · 10 interactions + 100 negatives = 420 rows of 32 float32 and an id.
    ids, vectors = 420 * 8, 420 * 32 * 4
    dense = found.tables.dense
    assert found.parts["lookup"] == pytest.approx(vectors / 10e9)
    # Of what is sent to four workers, one part stays, one goes to the other in the machine and two
    # to the other machine, whose 2 GB/s both workers share.
    latency = 30e-6 * 2
    assert found.parts["output distribution"] == pytest.approx(vectors / 2 / 1e9 + latency)
    assert found.parts["input distribution"] == pytest.approx(ids / 2 / 1e9 + latency)
    assert found.parts["dense all-reduce"] == pytest.approx(2 * 4 * dense * 3 / 4 / 2e9 + latency)
    links = found.bytes_by_link
    assert links["inside a machine"] == pytest.approx((ids + 2 * vectors) / 4)
    assert links["between machines"] == pytest.approx(
        (ids + 2 * vectors) / 2 + 2 * 4 * dense * 3 / 4
    )
    flops = 320 * (2 * dense + 4 * 2 * 10 * 32 + 2 * 100 * 32)
    assert found.parts["dense forward"] == pytest.approx(flops / 100e9)
    assert found.parts["dense backward"] == 2 * found.parts["dense forward"]
    assert found.step == pytest.approx(sum(found.parts.values()))
    assert found.epoch == pytest.approx(math.ceil(1e4 / 128) * found.step)


@pytest.mark.parametrize("size", [0, -5, math.nan, math.inf])
def test_a_size_that_is_none(size: float) -> None:
    with pytest.raises(ConfigError, match="--items"):
        counts(parse_job(JOB), 1e5, 1e4, size)


def test_one_worker_sends_nothing() -> None:
    found = planned(1)
    assert set(found.bytes_by_link.values()) == {0.0}
    assert found.parts["output distribution"] == found.parts["dense all-reduce"] == 0.0


def test_tables_that_do_not_fit_are_said_to(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(2, items=3e7)  # 3.7 GiB on two devices of 1 GiB
    assert not found.fits
    assert found.tables.problem
    assert found.limit == "memory: tables"


def test_reading_may_be_the_limit() -> None:
    slow = HAND.model_copy(update={"storage": 1e-6})
    job = parse_job(JOB)
    manifest = counts(job, 1e5, 1e4, 9999)
    tables = plan_tables(job, "pretrain", manifest, slow, 2)
    assert estimate(job, "pretrain", manifest, slow, 2, tables).limit == "reading data"


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    words = ["plan", str(path), f"storage={tmp_path}", "--workers", "16", "--machine", "a100x8"]
    size = ["--interactions", "1e8", "--users", "1e6", "--items", "1e5"]
    shown = CliRunner().invoke(app, [*words, *size]).stdout
    assert "Computed, not measured." in shown and "row_wise" in shown
    values = json.loads(CliRunner().invoke(app, [*words, *size, "--json"]).stdout)
    assert values["batch"] == 128
    assert values["samples_per_second"] == pytest.approx(128 / values["step"])
    failed = CliRunner().invoke(app, words)
    assert isinstance(failed.exception, ConfigError)
    assert "pass --interactions" in str(failed.exception)


def test_machines_have_names() -> None:
    assert all(rate > 0 for m in machines().values() for rate in (m.flops, m.network, m.storage))
    with pytest.raises(ConfigError, match=r"no such machine(.|\n)*h100x8"):
        machine("h200")


@pytest.mark.parametrize(("interactions", "workers"), [(1e9, 8), (1e11, 64)])
def test_the_table_of_the_docs_is_what_is_computed(interactions: float, workers: int) -> None:
    docs = Path(__file__).parents[2] / "docs" / "scale.md"
    line = table.line(interactions, workers, table.cell(interactions, workers))
    assert line in docs.read_text(), "python -m p5dist.capacity.table"
