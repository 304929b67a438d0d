"""The parts of gpu.py: ``python benchmarks/gpu_parts.py PART FILE [--small]``."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from workload import P5DIST, synthetic_job, write_job

from p5dist.capacity.estimate import estimate
from p5dist.capacity.machines import Machine, machine
from p5dist.capacity.sharding import plan_tables
from p5dist.capacity.show import counts
from p5dist.config import RunConfig, parse_job
from p5dist.config.train import TableOptimizer
from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Jagged, offsets_of
from p5dist.data.manifest import Manifest
from p5dist.feed.collate import Collate
from p5dist.feed.negatives import Candidates
from p5dist.models.backbone import Encoded
from p5dist.models.precision import dense_part, set_precision
from p5dist.models.tables import ItemTables
from p5dist.ranking.products import HeldItems, rank_products
from p5dist.ranking.tiles import Query
from p5dist.storage import Folder
from p5dist.tasks.build import build_model, catalogue_loss
from p5dist.tasks.task import Context
from p5dist.train.agreement import Flags
from p5dist.train.batches import Ready
from p5dist.train.lookups import Lookups
from p5dist.train.meter import meter_for, watch_tables
from p5dist.train.optimizers import Optimizers
from p5dist.train.session import Session
from p5dist.train.sharding import init_tables, shard, table_names
from p5dist.train.step import take_step

ROOT = Path(__file__).parent.parent
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if CUDA else torch.device("cpu")
PEAKS = {"h100": (989e12, 494e12, 67e12, 3.35e12), "h200": (989e12, 494e12, 67e12, 4.8e12)}
"""By card: operations per second in bf16, TF32 and float32 (dense), bytes of memory per second; the
maker's figures."""
Write = Callable[[dict[str, Any]], None]


def versions(write: Write, small: bool) -> None:
    """Versions, the card, and one look-up on it."""
    found: dict[str, Any] = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for name in ("torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "ray", "triton"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    write(found)
    if CUDA:
        asked = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version,clocks.max.sm"]
        done = subprocess.run([*asked, "--format=csv,noheader"], capture_output=True, text=True)
        found["card"] = done.stdout.strip()
        write(found)
    with one_process():
        found["losses of three steps"] = _losses("transformer", SMALL, 3)
    write(found)


def tests(write: Write, small: bool) -> None:
    """The tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu and not slow", "-q", "-x", "tests/gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    write({"returned": done.returncode, "last lines": done.stdout[-1500:]})


def losses(write: Write, small: bool) -> None:
    """Ten steps of every kind of model beside those of the CPU: largest relative difference."""
    sys.path.insert(0, str(ROOT))
    from tests.golden.cases import small_cases
    from tests.golden.losses import difference, train

    steps = "STAGE.steps=10"
    backend = "cpu:gloo,cuda:nccl" if CUDA else "gloo"
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        here = train(small_cases(Path(folder, "cpu"), steps), 1)
        for precision in ("float32", "bf16"):
            more = (steps, f"STAGE.precision={precision}")
            there = train(small_cases(Path(folder, precision), *more), 1, backend)
            found[precision] = {
                name: round(difference(expected[:10], there[name][0][:10]), 6)
                for name, (expected, _) in here.items()
            }
            found[f"largest in {precision}"] = max(found[precision].values())
            write(found)


def train(write: Write, small: bool) -> None:
    """Steps of both encoders at two lengths: histories and model operations per second, memory,
    seconds by part; and the encoder and loss without tables."""
    found: dict[str, Any] = {}
    sizes = [SMALL] if small else [Size(200, 512), Size(1024, 96)]
    with one_process():
        for size in sizes:
            for encoder in ("hstu", "transformer"):
                for precision in ("bf16", "float32"):
                    name = f"{encoder} {size.length} {precision}"
                    try:
                        found[name] = _measured(encoder, size, precision, 3 if small else 20)
                    except Exception as e:
                        found[name] = {"failed": repr(e)[-600:]}
                    write(found)
                    if CUDA:
                        torch.cuda.empty_cache()


def tables(write: Write, small: bool) -> None:
    """Look-up and fused update of distinct rows: bytes per second, beside the memory's."""
    rows, dim, asked = (10_000, 32, 1000) if small else (20_000_000, 128, 1_000_000)
    found: dict[str, Any] = {"rows": rows, "dim": dim, "distinct rows of a step": asked}
    with one_process():
        for kind in ("rowwise_adagrad", "sgd", *(["adam"] if CUDA else [])):
            found[kind] = _table(kind, rows, dim, asked)
            write(found)


def _table(kind: str, rows: int, dim: int, asked: int) -> dict[str, float]:
    model = torch.nn.Sequential(ItemTables(rows, {}, dim, torch.device("meta")))
    split = shard(model, TableOptimizer(kind=kind), batch_size=1, device=DEVICE)
    table = next(m for m in split.modules() if isinstance(m, ItemTables))
    ids = np.sort(np.random.default_rng(0).choice(rows, asked, replace=False)) + 1
    asked_for = KeyedJaggedTensor(
        keys=["item"],
        values=torch.from_numpy(ids),
        lengths=torch.tensor([asked], dtype=torch.int32),
        stride=1,
    ).to(DEVICE)
    grad = torch.randn(asked, dim, device=DEVICE)
    look_up = _seconds(lambda: table(asked_for, None))
    update = _seconds(lambda: table(asked_for, None).backward(grad)) - look_up
    row = 4 * dim
    size = asked * (3 * row + {"rowwise_adagrad": 8, "sgd": 0, "adam": 4 * row}[kind])
    return {
        "lookup bytes/s": asked * 2 * row / look_up,
        "update bytes/s": size / max(update, 1e-9),
        "update, share of memory rate": size / max(update, 1e-9) / _peaks()[3],
    }


def ranking(write: Write, small: bool) -> None:
    """Lists of all users over all items against a bare product with top k in the same blocks."""
    users, items, dim, k = (500, 3000, 32, 20) if small else (65_536, 1_000_000, 128, 20)
    rng = np.random.default_rng(0)
    query = torch.randn(users, dim, device=DEVICE)
    vectors = torch.randn(items, dim, device=DEVICE)
    seen = Jagged(offsets_of(np.full(users, 20)), rng.integers(1, items + 1, users * 20))
    none = np.zeros(0, dtype=np.int64)
    held = HeldItems(vectors, Catalogue(items))
    found: dict[str, Any] = {"users": users, "items": items, "dim": dim, "k": k}

    def lists() -> None:
        rank_products([Query(query, none, none, seen)], held, k, targets=False)

    def ranks() -> None:
        owner = np.arange(users)
        rank_products([Query(query, owner, owner % items + 1, seen)], held, k)

    def bare() -> None:
        for begin in range(0, users, 4096):
            part, best = query[begin : begin + 4096], []
            for first in range(0, items, 32_768):
                scores = part @ vectors[first : first + 32_768].T
                best.append(torch.topk(scores, min(k, scores.shape[1])).values)
            torch.topk(torch.cat(best, 1), k).values.cpu()

    for name, work in {"bare": bare, "lists": lists, "lists and ranks": ranks}.items():
        found[f"{name}, users/s"] = users / _seconds(work, 2)
        write(found)
    found["lists / bare"] = found["lists, users/s"] / found["bare, users/s"]
    write(found)


def plan(write: Write, small: bool) -> None:
    """The estimate of ``p5dist plan`` beside the measured step."""
    found: dict[str, Any] = {}
    size, kind = SMALL if small else Size(200, 512), this_machine()
    with one_process():
        for precision in ("bf16", "float32"):
            job = job_of("hstu", size, precision)
            manifest = manifest_of(job, size)
            tables_ = plan_tables(job, "pretrain", manifest, kind, 1)
            planned = estimate(job, "pretrain", manifest, kind, 1, tables_).step
            measured = _measured("hstu", size, precision, 3 if small else 20)["step"]
            found[precision] = {
                "planned": planned, "measured": measured, "measured / planned": measured / planned,
            }  # fmt: skip
            write(found)


def run(write: Write, small: bool) -> None:
    """From a log to lists by the command line: Ray Train, validation, a kill and a restart."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        number = "2e4" if small else "2e6"
        _command(found, write, "synth", "synth", f"{place}/log", "--interactions", number)
        job = synthetic_job(
            f"{place}/log", f"{place}/runs", model={"dim": 64}, feed={"max_length": 50},
            pretrain={
                "steps": 60 if small else 600, "batch_size": 64 if small else 1024,
                "precision": "bf16", "checkpoint": {"every": 20 if small else 100},
                "validation": {"every": 20 if small else 200},
                "objective": {"loss": {"kind": "sampled_softmax", "negatives": 128}},
            },
            evaluate={"users": 2000}, recommend={}, scale={"device": "cuda" if CUDA else "cpu"},
        )  # fmt: skip
        path = str(write_job(place / "job.json", job))
        _command(found, write, "prepare", "run", path, "prepare")
        killed = subprocess.Popen([*P5DIST, "run", path, "pretrain"], start_new_session=True)
        checkpoints = place / "runs/bench/pretrain/checkpoints"
        while killed.poll() is None and not list(checkpoints.glob("*/complete.json")):
            time.sleep(0.2)
        os.killpg(killed.pid, 9)
        killed.wait()
        found["checkpoints when killed"] = [
            p.parent.name for p in checkpoints.glob("*/complete.json")
        ]
        for stage in ("pretrain", "evaluate", "recommend"):
            _command(found, write, stage, "run", path, stage)
        lines = Folder.open(f"{place}/runs/bench/pretrain") / "metrics.jsonl"
        last = [json.loads(line) for line in lines.read_bytes().decode().splitlines()][-1]
        found["last line"] = last
        result = (Folder.open(f"{place}/runs/bench/evaluate") / "result.json").read_json()
        found["metrics"] = result["metrics"]
        write(found)


def nccl(write: Write, small: bool) -> None:
    """An all-to-all and an all-reduce over the GPUs that there are."""
    count = torch.cuda.device_count()
    if count < 2:
        write({"GPUs": count, "note": "one GPU or none: nothing to exchange"})
        return
    sys.path.insert(0, str(ROOT))
    from tests.processes import run_distributed

    found = run_distributed(_exchanges, count, backend="nccl")
    write({"GPUs": count, **found[0]})


def _exchanges() -> dict[str, float]:
    torch.cuda.set_device(dist.get_rank())
    given = torch.randn(1 << 26, device="cuda")
    taken = torch.empty_like(given)
    size = given.numel() * 4
    return {
        "all-to-all bytes/s": size / _seconds(lambda: dist.all_to_all_single(taken, given)),
        "all-reduce bytes/s": 2 * size / _seconds(lambda: dist.all_reduce(given)),
    }


# What the parts share.


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    """A group of this process alone."""
    logging.getLogger("torchrec").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        backend = "cpu:gloo,cuda:nccl" if CUDA else "gloo"
        os.environ |= {"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        dist.init_process_group(backend, init_method=f"file://{folder}/m", rank=0, world_size=1)
        yield
        dist.destroy_process_group()


@dataclass(frozen=True)
class Size:
    """Of a training."""

    length: int
    batch: int
    dim: int = 256
    items: int = 1_000_000
    layers: int = 8
    negatives: int = 8192


SMALL = Size(20, 16, 32, 1000, 2, 128)


def manifest_of(job: RunConfig, size: Size) -> Manifest:
    """Of a log that is not there."""
    users = 1e6
    return counts(job, users * size.length * 0.75, users, float(size.items))


def job_of(encoder: str, size: Size, precision: str) -> RunConfig:
    """A causal pre-training."""
    heads = 4 if size.dim >= 64 else 2
    job = synthetic_job(
        "log", "runs",
        feed={"max_length": size.length, "lanes": 1},
        model={
            "dim": size.dim,
            "encoder": {"kind": encoder, "layers": size.layers, "heads": heads},
        },
        pretrain={
            "steps": 1000, "batch_size": size.batch, "precision": precision,
            "objective": {"loss": {"kind": "sampled_softmax", "negatives": size.negatives}},
        },
    )  # fmt: skip
    return parse_job(json.dumps(job))


def this_machine() -> Machine:
    """The entry of machines.yaml of this card, with one device."""
    if not CUDA:
        return machine("cpu16")
    return machine("h100x8").model_copy(update={"devices": 1, "device_rate": _peaks()[3] / 1e9})


def _peaks() -> tuple[float, float, float, float]:
    name = torch.cuda.get_device_name().lower() if CUDA else ""
    return next((peaks for card, peaks in PEAKS.items() if card in name), PEAKS["h100"])


def _session(job: RunConfig, size: Size) -> Session:
    """A stage without data and checkpoints."""
    manifest, training = manifest_of(job, size), job.trainings()["pretrain"]
    set_precision(training.precision)
    model = shard(
        build_model(job, "pretrain", manifest, torch.device("meta")), training.tables,
        batch_size=training.batch_size, device=DEVICE,
    )  # fmt: skip
    names = table_names(model.plan)
    init_tables({n: t for n, t in model.state_dict().items() if n in names}, seed=1, std=0.02)
    made: Any = Session.__new__(Session)
    made.job, made.stage, made.training, made.manifest = job, "pretrain", training, manifest
    made.model, made.device = model, DEVICE
    made.optimizers = Optimizers(model, training, 1000)
    return made  # type: ignore[no-any-return]


def _batches(job: RunConfig, session: Session, count: int) -> list[Ready]:
    """Batches of histories whose lengths are three quarters of the longest in the mean."""
    rng, manifest, training = np.random.default_rng(0), session.manifest, session.training
    loss, found = catalogue_loss(job, "pretrain"), []
    draw = Candidates(loss, np.ones(manifest.items, dtype=np.int64), Catalogue(manifest.items), 1)
    context = Context(job, manifest, None)
    fields = training.learned.batch_fields(context)
    collate = Collate(1, fields={"": fields})
    for step in range(count):
        lengths = rng.integers(
            job.feed.max_length // 2, job.feed.max_length + 1, training.batch_size
        )
        total = int(lengths.sum())
        histories = Histories(
            user=np.arange(1, len(lengths) + 1), row=np.arange(len(lengths)),
            offsets=offsets_of(lengths),
            item=(rng.zipf(1.2, total) % manifest.items + 1).astype(np.int64),
            timestamp=np.sort(rng.integers(0, 10**15, total)), event=np.zeros(total, np.int8),
            rating=np.full(total, np.nan, np.float32), split=np.zeros(total, np.int8),
        )  # fmt: skip
        ids, log_q = draw.at(step, histories)
        batch = collate(histories, step=step, candidates=ids, candidate_log_q=log_q)
        counted = session.inner.head.counts(batch)
        found.append(Ready(step, batch.to(DEVICE), None, False, batch.histories, counted, 0.0))
    return found


def _losses(encoder: str, size: Size, steps: int) -> list[float]:
    """Of some steps."""
    job = job_of(encoder, size, "float32")
    session = _session(job, size)
    batches = _batches(job, session, steps)
    meter, lookups, found = meter_for(DEVICE), Lookups(session.model, DEVICE), []
    for ready, following in zip(batches, [*batches[1:], None], strict=True):
        taken = take_step(session, lookups, ready, following, meter, Flags())
        found.append(taken.totals.loss)
    lookups.close()
    return found


def _measured(encoder: str, size: Size, precision: str, steps: int) -> dict[str, Any]:
    """Rates of the steps of a job, after warm-up."""
    job = job_of(encoder, size, precision)
    session = _session(job, size)
    batches = _batches(job, session, 4)
    meter, lookups = meter_for(DEVICE), Lookups(session.model, DEVICE)
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    with watch_tables(session.model, meter):
        for step in range(5 + steps):
            if step == 5:
                _wait()
                meter.take()
                began = time.perf_counter()
            ready, following = batches[step % 4], batches[(step + 1) % 4]
            taken = take_step(session, lookups, ready, following, meter, Flags())
    loss = taken.totals.loss
    _wait()
    seconds = (time.perf_counter() - began) / steps
    lookups.close()
    _, parts = meter.take()
    operations = statistics.mean(_operations(session, ready) for ready in batches)
    peak = _peaks()[0 if precision == "bf16" else 2]
    dense = _dense(session, batches[0], precision)
    dense_operations = _operations(session, batches[0])
    return {
        "step": seconds, "histories/s": session.training.batch_size / seconds, "loss": loss,
        "tokens/s": statistics.mean(len(r.batch.token) for r in batches) / seconds,
        "model FLOPs/s": operations / seconds, "MFU": operations / seconds / peak,
        "dense part, seconds": dense, "dense part, share of peak": dense_operations / dense / peak,
        "memory GB": torch.cuda.max_memory_allocated() / 1e9 if CUDA else None,
        "parts": {name: s / steps for name, s in parts.items()},
    }  # fmt: skip


def _operations(session: Session, ready: Ready) -> float:
    """Floating-point operations of a step, forward and backward: products of the dense layers, of
    attention over what each interaction sees, and of the loss."""
    job, batch = session.job, ready.batch
    tokens, dim = len(batch.token), job.model.dim
    weights = sum(p.numel() for p in session.inner.backbone.encoder.parameters() if p.dim() == 2)
    lengths = torch.diff(batch.offsets).double()
    attention = float((lengths * (lengths + 1) / 2).sum()) * 4 * dim
    layers = job.model.encoder.layer_count()  # type: ignore[attr-defined]
    loss = 2.0 * ready.counts[0] * len(batch.candidates) * dim
    return 3 * (2.0 * weights * tokens + layers * attention + loss)


def _dense(session: Session, ready: Ready, precision: str) -> float:
    """Seconds of encoder and loss, forward and backward, from given item vectors."""
    backbone, head = session.inner.backbone, session.inner.head
    items = torch.randn(
        len(ready.batch.items.values()), session.job.model.dim, device=DEVICE, requires_grad=True
    )

    def work() -> None:
        with dense_part(precision, DEVICE):  # type: ignore[arg-type]
            states = backbone.encoder(backbone.inputs(items, ready.batch), ready.batch).float()
            head.losses(Encoded(states, items), ready.batch).sum().backward()

    return _seconds(work)


def _seconds(work: Callable[[], Any], runs: int = 5) -> float:
    """The median of some runs, after two that warm up."""
    found = []
    for number in range(runs + 2):
        _wait()
        began = time.perf_counter()
        work()
        _wait()
        if number >= 2:
            found.append(time.perf_counter() - began)
    return statistics.median(found)


def _wait() -> None:
    if CUDA:
        torch.cuda.synchronize()


def _command(found: dict[str, Any], write: Write, name: str, *words: str) -> None:
    began = time.perf_counter()
    done = subprocess.run([*P5DIST, *words], capture_output=True, text=True)
    found[name] = {"seconds": round(time.perf_counter() - began, 1), "returned": done.returncode}
    if done.returncode:
        found[name]["said"] = (done.stdout + done.stderr)[-1500:]
    write(found)


PARTS = {f.__name__: f for f in (versions, tests, losses, train, tables, ranking, plan, run, nccl)}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("file", type=Path)
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()

    def write(found: dict[str, Any]) -> None:
        """To disk, so that it stays whatever happens next."""
        given.file.write_text(json.dumps(found))

    PARTS[given.part](write, given.small)
