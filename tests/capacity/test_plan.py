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
from p5dist.data.manifest import Manifest, ShardFile
from p5dist.errors import ConfigError
from p5dist.storage import RunFolder

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


def planned(
    workers: int, *overrides: str, items: float = 9999, histories: float | None = None
) -> Estimate:
    job = parse_job(JOB, list(overrides))
    manifest = counts(job, 1e5, 1e4, items, histories)  # ten interactions a user
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


def test_a_gpu_computes_in_bf16_and_exchanges_meanwhile() -> None:
    """Rates of the machine by hand, as a GPU whose products in bf16 are ten times as fast."""
    cuda = HAND.model_copy(
        update={"device": "cuda", "flops_bf16": 10 * HAND.flops, "host": 1 / EFFICIENCY["links"]}
    )

    def on_cuda(*overrides: str) -> Estimate:
        job = parse_job(JOB, list(overrides))
        manifest = counts(job, 1e5, 1e4, 9999)
        tables = plan_tables(job, "pretrain", manifest, cuda, 4)
        return estimate(job, "pretrain", manifest, cuda, 4, tables)

    plain, bf16 = on_cuda(), on_cuda("pretrain.precision=bf16")
    faster = 10 * EFFICIENCY["tensor"] / EFFICIENCY["flops"]
    assert bf16.parts["dense forward"] == pytest.approx(plain.parts["dense forward"] / faster)
    assert plain.hidden["dense all-reduce"] == plain.parts["dense all-reduce"]
    assert bf16.step == pytest.approx(sum(bf16.parts.values()) - sum(bf16.hidden.values()))
    half = on_cuda("pretrain.tables.exchange=fp16")
    for part in ("output distribution", "gradient exchange"):
        assert half.parts[part] - 60e-6 == pytest.approx((plain.parts[part] - 60e-6) / 2)
    host = on_cuda("scale.placement={item: uvm}")
    assert host.memory["tables"] == 0
    assert host.parts["lookup"] == pytest.approx(10 * plain.parts["lookup"])
    adam = on_cuda("pretrain.tables.kind=adam")
    assert adam.memory["tables"] == 2500 * 96 * 4


def test_a_table_on_one_worker_is_looked_up_there_by_all() -> None:
    even, one = planned(4), planned(4, "scale.sharding={item: table_wise}")
    assert one.memory["tables"] == 4 * even.memory["tables"]
    assert one.parts["lookup"] == pytest.approx(4 * even.parts["lookup"])
    latency = 30e-6 * 2
    for part in ("input distribution", "output distribution", "gradient exchange"):
        assert one.parts[part] - latency == pytest.approx(4 * (even.parts[part] - latency))


def test_items_without_rows_are_not_looked_up() -> None:
    items = "{files: i.parquet, format: parquet, id: i, attributes: {text: {kind: vector}}}"
    of_items = planned(4, f"prepare.items={items}", "model.item_vectors=[text]")
    assert of_items.memory["tables"] == planned(4).memory["tables"]
    found = planned(
        4, f"prepare.items={items}", "model.item_vectors=[text]", "model.item_ids=false"
    )
    assert found.memory["tables"] == found.parts["lookup"] == 0
    assert found.memory["dense"] > planned(4).memory["dense"], "the matrix of the vectors"


@pytest.mark.parametrize("items", [2e4, 524_289, 3e6])
def test_the_memory_of_logits_is_the_buffer_of_the_loss(items: float) -> None:
    """A full softmax over any catalogue holds a chunk of 4 MB on CPU; 1,280 interactions a worker
    in two layers of twenty vectors of 32 numbers are the rest."""
    softmax = "pretrain.objective.loss={kind: softmax}"
    found = planned(1, softmax, items=items)
    assert found.memory["activations"] == 4 * (1280 * 2 * 20 * 32 + 256 * 4096)
    # The logits are computed once more, as they do not fit: 8 instead of 6 operations each.
    dense = found.tables.dense
    flops = 1280 * (2 * dense + 4 * 2 * 10 * 32 + 8 / 3 * items * 32)
    assert found.parts["dense forward"] == pytest.approx(flops / 100e9)


def test_sessions_and_windows_are_planned_as_such() -> None:
    # Windows of four interactions: ten interactions a user are three of them.
    windows = planned(4, "prepare.max_length=4")
    assert windows.histories == 30_000
    tokens = 32 * 1e5 / 3e4
    assert windows.parts["lookup"] == pytest.approx((tokens + 100) * 32 * 4 / 10e9)
    last = planned(4, "prepare.max_length=4", "prepare.longer=last")
    assert last.histories == 10_000
    assert last.parts["lookup"] == pytest.approx((32 * 4 + 100) * 32 * 4 / 10e9)
    with pytest.raises(ConfigError, match="--histories"):
        planned(4, "prepare.session_gap=60")
    sessions = planned(4, "prepare.session_gap=60", histories=5e4)
    assert sessions.histories == 50_000
    assert sessions.parts["lookup"] == pytest.approx((32 * 2 + 100) * 32 * 4 / 10e9)


def test_prepared_sessions_are_planned_as_they_are(tmp_path: Path) -> None:
    job = parse_job(JOB, [f"storage={tmp_path}"])
    prepare = RunFolder.of(job.storage, job.name).prepare
    prepare.make()
    (prepare / "part").write_text("shard")
    Manifest(
        fingerprint="", shards=(ShardFile(path="part", bytes=5, first_row=0, groups=(40, 20)),),
        rows_in=300, rows_kept=300, rows_rejected={}, rows_by_split={}, users=20, users_by_split={},
        items=9, longest_history=9, split="",
    ).save(prepare)  # fmt: skip
    assert counts(job, None, None, None).histories == 60
    assert counts(job, 3000, None, None).histories == 600  # as long as they are
    assert counts(job, 3000, None, None, 70).histories == 70


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


def test_memory_of_a_scoring_process_does_not_follow_the_catalogue(tmp_path: Path) -> None:
    """Vectors of 10 million items (the width of the job, float32) are not held by a process that
    may take 1 GiB: blocks of 32,768 rows, and users that wait for the next pass."""
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    words = ["plan", str(path), f"storage={tmp_path}", "--interactions", "1e9", "--users", "1e7"]
    dim = parse_job(JOB).model.dim
    shown = {}
    for items in ("1e5", "1e7"):
        sized = [*words, "--items", items]
        shown[items] = json.loads(CliRunner().invoke(app, [*sized, "--json"]).stdout)
        text = CliRunner().invoke(app, sized).stdout
        assert f"all item vectors {4 * dim * float(items) / 2**30:.2f} GiB" in " ".join(
            text.split()
        )
    small, large = (shown[items]["ranking_memory"] for items in ("1e5", "1e7"))
    assert small["item vectors"] == 4 * dim * (100_000 + 1)
    assert small["waiting users"] == 0
    assert large["item vectors"] == 4 * dim * 32_768
    assert large["waiting users"] == 2**29
    assert large["scores"] == small["scores"], "a tile of users against a strip of items"


def test_machines_have_names() -> None:
    assert all(rate > 0 for m in machines().values() for rate in (m.flops, m.network, m.storage))
    with pytest.raises(ConfigError, match=r"no such machine(.|\n)*h100x8"):
        machine("h200")


@pytest.mark.parametrize(("interactions", "workers"), [(1e9, 8), (1e11, 64)])
def test_the_table_of_the_docs_is_what_is_computed(interactions: float, workers: int) -> None:
    docs = Path(__file__).parents[2] / "docs" / "operations" / "sizing.md"
    line = table.line(interactions, workers)
    assert line in docs.read_text(), "python -m p5dist.capacity.table"
