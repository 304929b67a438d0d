"""Estimates the time of a training step from counts of bytes and operations, without a run.

The time of every part is bytes or operations divided by a rate; the rate is the maker's figure
times an efficiency. Parts of a step run one after the other, except that on GPUs the ids of the
next step and the dense gradients travel while the device computes, as in training. Reading data and
writing checkpoints run in parallel to the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from p5dist.capacity.machines import Machine
from p5dist.capacity.sharding import RESERVED, Tables, row_bytes
from p5dist.config import RunConfig
from p5dist.config.losses import FullSoftmax
from p5dist.data.batch import ITEM_FEATURE
from p5dist.data.manifest import Manifest
from p5dist.models.encoders.encoder import Encoder
from p5dist.models.losses import chunk_shape
from p5dist.tasks.build import catalogue_loss

EFFICIENCY = {"flops": 0.35, "tensor": 0.2, "memory": 0.5, "links": 0.6}
"""Share of the maker's figures that a run reaches; 35 % of operations in float32 is usual for small
matrices, and less of those of tensor cores (TF32, bf16), which wait for memory."""
_LATENCY_S = 30e-6
"""Latency of one collective, in addition to its bytes; multiplied by log2 of the workers."""
_STORED_BYTES = 14.0
"""Size of one interaction in a compressed shard."""
_GB = 1e9
_GIB = float(1 << 30)


@dataclass(frozen=True)
class Estimate:
    """A training stage on ``workers`` devices. Times in seconds, sizes in bytes."""

    workers: int
    batch: int
    """Histories of a step over all workers."""
    parts: dict[str, float]
    """Seconds of a step by part."""
    hidden: dict[str, float]
    """Seconds of these parts that pass while the device computes."""
    reading: float
    """Seconds to read the data of a step, in parallel to the step."""
    bytes_by_link: dict[str, float]
    """Bytes that one worker sends in a step, by link."""
    memory: dict[str, float]
    """Memory of the fullest device, by use."""
    capacity: float
    """Memory of a device."""
    checkpoint_bytes: float
    checkpoint_seconds: float
    histories: int
    tables: Tables = field(repr=False)

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return max(self._busy, self.reading)

    @property
    def _busy(self) -> float:
        return sum(self.parts.values()) - sum(self.hidden.values())

    @property
    def samples_per_second(self) -> float:
        return self.batch / self.step

    @property
    def epoch(self) -> float:
        """Seconds of an epoch."""
        return math.ceil(self.histories / self.batch) * self.step

    @property
    def fits(self) -> bool:
        return self.tables.problem is None and sum(self.memory.values()) <= self.capacity

    @property
    def limit(self) -> str:
        """The part that limits the rate, or the largest use of memory if the job does not fit."""
        if not self.fits:
            return f"memory: {max(self.memory, key=lambda k: self.memory[k])}"
        if self.reading > self._busy:
            return "reading data"
        return max(self.parts, key=lambda k: self.parts[k] - self.hidden.get(k, 0.0))


def estimate(
    job: RunConfig, stage: str, manifest: Manifest, machine: Machine, workers: int, tables: Tables
) -> Estimate:
    """The estimate of a training stage; see the module for the method.

    Args:
        manifest: only its counts are used.
    """
    training = job.trainings()[stage]
    batch = training.batch_size
    dim, length = job.model.dim, _length(job, manifest)
    tokens = batch / workers * length
    candidates = _candidates(job, stage, manifest)
    chunk = chunk_shape(math.ceil(tokens), math.ceil(candidates), machine.device)
    # A row is fetched once per worker and step; repeated ids are counted as different rows. A
    # table on some of the workers is looked up by all workers there.
    rows = min(tokens + candidates, float(manifest.items)) * workers / tables.holders
    if not job.model.item_ids:
        rows = 0.0
    ids, vectors = 8.0 * rows, 4.0 * rows * dim
    sent = vectors if training.tables.exchange == "fp32" else vectors / 2
    gradients = 4.0 * tables.dense
    flops = _flops(job, tokens, length, candidates, tables.dense)
    if chunk[1] < candidates:  # logits are computed twice: four products instead of three
        flops += tokens * 2.0 * candidates * dim / 3

    rate = _Rates(machine, workers, training.precision)
    of_rows = rate.host if ITEM_FEATURE in tables.on_host else rate.memory
    parts = {
        "input distribution": rate.exchange(ids),
        "lookup": vectors / of_rows,
        "output distribution": rate.exchange(sent),
        "dense forward": flops / rate.flops,
        "dense backward": 2 * flops / rate.flops,
        "gradient exchange": rate.exchange(sent),
        "dense all-reduce": rate.reduce(gradients),
        "optimizer": 3 * vectors / of_rows + 5 * gradients / rate.memory,
    }
    hidden = {}
    if machine.device == "cuda":
        computing = parts["dense forward"] + parts["dense backward"]
        hidden = {
            "input distribution": min(parts["input distribution"], computing),
            "dense all-reduce": min(parts["dense all-reduce"], parts["dense backward"]),
        }
    inside, outside = rate.split(ids + 2 * sent)
    around = 2 * gradients * (workers - 1) / workers
    size = row_bytes(training.tables.kind, dim) * tables.rows + 3 * gradients
    return Estimate(
        workers=workers,
        batch=batch,
        parts=parts,
        hidden=hidden,
        reading=batch * length * _STORED_BYTES / rate.storage,
        bytes_by_link={
            "inside a machine": inside + (around if rate.machines == 1 else 0.0),
            "between machines": outside + (around if rate.machines > 1 else 0.0),
        },
        memory={
            "tables": max(tables.bytes_by_worker),
            "dense": 4 * gradients,
            "activations": _activations(job, tokens, chunk),
            "vectors": 3 * vectors,
            "reserved": RESERVED * machine.device_memory * _GIB,
        },
        capacity=machine.device_memory * _GIB,
        checkpoint_bytes=size,
        checkpoint_seconds=size / rate.storage,
        histories=manifest.histories,
        tables=tables,
    )


class _Rates:
    """The rates that a run reaches, in bytes or operations per second."""

    def __init__(self, machine: Machine, workers: int, precision: str) -> None:
        self.workers = workers
        self.local = min(machine.devices, workers)
        self.machines = math.ceil(workers / machine.devices)
        rate = machine.rate_of(precision)
        reached = EFFICIENCY["flops" if rate == machine.flops else "tensor"]
        self.flops = rate * _GB * reached
        host = machine.device_rate if machine.host is None else machine.host
        self.host = host * _GB * EFFICIENCY["links"]
        self.memory = machine.device_rate * _GB * EFFICIENCY["memory"]
        self.inside = machine.inside * _GB * EFFICIENCY["links"]
        self.network = machine.network / self.local * _GB * EFFICIENCY["links"]
        self.storage = machine.storage * self.machines * _GB * EFFICIENCY["links"]

    def split(self, sent: float) -> tuple[float, float]:
        """Bytes that go to other workers of the same machine, and bytes that leave the machine, if
        a worker sends ``sent`` bytes evenly to all workers (itself included)."""
        return sent * (self.local - 1) / self.workers, sent * (
            self.workers - self.local
        ) / self.workers

    def exchange(self, sent: float) -> float:
        """Seconds of an all-to-all; both links work at once."""
        if self.workers == 1:
            return 0.0
        inside, outside = self.split(sent)
        return max(inside / self.inside, outside / self.network) + self._latency()

    def reduce(self, size: float) -> float:
        """Seconds of a ring all-reduce: each worker sends 2 · size · (workers - 1) / workers."""
        if self.workers == 1:
            return 0.0
        slowest = self.inside if self.machines == 1 else min(self.inside, self.network * self.local)
        return 2 * size * (self.workers - 1) / self.workers / slowest + self._latency()

    def _latency(self) -> float:
        return _LATENCY_S * max(math.log2(self.workers), 1.0)


def _length(job: RunConfig, manifest: Manifest) -> float:
    """Mean interactions of a history in a step, at most feed.max_length and prepare.max_length."""
    longest = min(job.feed.max_length, job.prepare.max_length or job.feed.max_length)
    return min(manifest.rows_kept / max(manifest.histories, 1), float(longest))


def _candidates(job: RunConfig, stage: str, manifest: Manifest) -> float:
    loss = catalogue_loss(job, stage)
    if loss is None:
        return 0.0
    return float(manifest.items if isinstance(loss, FullSoftmax) else loss.negatives)


def _flops(job: RunConfig, tokens: float, length: float, candidates: float, dense: int) -> float:
    """Operations of the forward pass: two per weight and token, attention over the history, the
    logits."""
    layers = _encoder(job).layer_count()
    attention = 4.0 * layers * length * job.model.dim
    return tokens * (2.0 * dense + attention + 2.0 * candidates * job.model.dim)


def _activations(job: RunConfig, tokens: float, chunk: tuple[int, int]) -> float:
    """Bytes of about 20 vectors per layer and token, and of one chunk of logits."""
    layers = _encoder(job).layer_count()
    return 4.0 * (20 * layers * tokens * job.model.dim + chunk[0] * chunk[1])


def _encoder(job: RunConfig) -> Encoder:
    assert isinstance(job.model.encoder, Encoder)
    return job.model.encoder
