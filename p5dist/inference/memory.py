"""The memory of a scoring process: computed before it starts, and measured."""

from __future__ import annotations

from pathlib import Path

from p5dist.config import RunConfig
from p5dist.data.manifest import Manifest
from p5dist.data.matrix import BLOCK
from p5dist.inference.scoring import HISTORIES
from p5dist.ranking.item_to_item import TERMS
from p5dist.ranking.products import TILE

_PROCESS = 450 << 20
"""Interpreter and libraries."""
_INTERACTION = 40
"""Bytes of an interaction in histories, targets and seen items."""
_ACTIVATIONS = 12
"""Vectors per interaction that an encoder holds at once."""
_TERM = 10
"""Bytes of a term of item-to-item scores."""
_ID = 24
"""Bytes of an external item id with its place in an array."""
_PER_ITEM = 24
"""Bytes per item of a ranking by popularity: count, order, place."""


def of_scoring_process(job: RunConfig, manifest: Manifest) -> dict[str, int]:
    """Bytes of a process of evaluate or recommend, by use; pages of files that it maps (item
    vectors that are not held, weights of item-to-item counts) are not among them, since the
    operating system takes them back when memory is short."""
    batch = max(
        (section.batch_size for section in (job.evaluate, job.recommend) if section is not None),
        default=0,
    )
    length = min(manifest.rows_kept / max(manifest.histories, 1), float(job.feed.max_length))
    vectors = vectors_bytes(job, manifest)
    half = int(job.ranking.memory * (1 << 30)) // 2
    columns = min(manifest.items, BLOCK)
    mixed = bool(job.ranking.item_to_item or job.ranking.returns)
    counts = mixed or job.evaluate is not None
    popularity = 0 if job.evaluate is None else 2
    return {
        "process": _PROCESS,
        "item vectors": vectors if vectors <= half else 4 * BLOCK * job.model.dim,
        "waiting users": half if vectors > half else 0,
        "scores": TILE["cpu"] * columns * (9 if mixed else 5),
        "encoder": int(4 * _ACTIVATIONS * batch * length * job.model.dim),
        "counts": _TERM * TERMS if counts else 0,
        "popularity": popularity * _PER_ITEM * manifest.items,
        "item ids": 0 if job.recommend is None else _ID * manifest.items,
        "histories": int(HISTORIES * manifest.rows_kept / max(manifest.users, 1) * _INTERACTION),
    }


def vectors_bytes(job: RunConfig, manifest: Manifest) -> int:
    """Bytes of all item vectors."""
    return 4 * (manifest.items + 1) * job.model.dim


def now() -> int:
    """Bytes of this process that are no pages of files; 0 where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    line = next((line for line in status.splitlines() if line.startswith("RssAnon")), ": 0 kB")
    return int(line.split()[1]) << 10
