"""A small prepared folder, written without the prepare stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from p5dist.config import RunConfig, parse_job
from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.manifest import Manifest, ShardFile
from p5dist.data.supplied import vectors_of
from p5dist.storage import Folder, RunFolder

JOB = """
name: small
storage: {storage}
seed: 3
prepare:
  source: {{files: log.tsv, columns: {{rating: rating, timestamp: timestamp}}}}
  items: {{files: items.tsv, id: item_id, attributes: {{genre: {{kind: multi}}}}}}
feed: {{lanes: 6, max_length: 8}}
model:
  dim: 16
  encoder: {{layers: 1, heads: 2, dropout: 0.2}}
  item_attributes: [genre]
  inputs: {{rating: true}}
pretrain:
  steps: 20
  batch_size: 12
  log_every: 1
  schedule: {{warmup_steps: 4}}
  checkpoint: {{every: 5, keep: 10}}
  validation: null
ranking: {{item_to_item: 0, returns: false}}
finetune:
  rating:
    task: {{kind: rating, base: mean, user_dim: 8}}
    steps: 10
    batch_size: 12
    log_every: 1
    validation: null
"""


VECTORS = (
    "prepare.items.format=parquet", "prepare.items.attributes.look={kind: vector}",
    "prepare.users={files: users, format: parquet, id: u, attributes: {look: {kind: vector}}}",
    "model.item_vectors=[look]",
    "model.user_vectors=[look]", "model.inputs={rating: true, user_attributes: true}",
)  # fmt: skip
"""Settings with which the model reads the vectors that :func:`write_small_data` writes."""


def small_job(storage: Path, *overrides: str) -> RunConfig:
    """A job whose prepared data :func:`write_small_data` writes."""
    return parse_job(JOB.format(storage=storage), list(overrides))


def write_small_data(
    job: RunConfig,
    *,
    users: int = 50,
    items: int = 30,
    shards: int = 3,
    group_rows: int = 4,
    events: int = 2,
) -> RunFolder:
    """Histories of 1 to 20 random interactions; the last is test, the one before validation.

    Args:
        events: of the two events of the data, as many occur.
    """
    folder = RunFolder.of(job.storage, job.name)
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 21, users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    total = int(offsets[-1])
    everyone = Histories(
        user=np.arange(1, users + 1),
        row=np.arange(users),
        offsets=offsets,
        item=rng.integers(1, items + 1, total),
        timestamp=np.arange(total) * c.SECOND,
        event=np.zeros(total, dtype=np.int8),
        rating=rng.integers(1, 6, total).astype(np.float32),
        split=np.zeros(total, dtype=np.int8),
    )
    everyone = replace(everyone, event=rng.integers(1, events + 1, total).astype(np.int8))
    left = np.repeat(lengths, lengths) - everyone.position()
    long = np.repeat(lengths, lengths) >= 3
    everyone.split[long & (left == 1)] = c.TEST
    everyone.split[long & (left == 2)] = c.VALIDATION
    files = _write_shards(folder.prepare, everyone, shards, group_rows)
    counts = np.bincount(everyone.item[everyone.split == c.TRAIN], minlength=items + 1)[1:]
    _write_vocabulary(folder.prepare, "item", counts)
    _write_vocabulary(folder.prepare, "user", lengths)
    _write_vocabulary(folder.prepare, "item.genre", np.ones(3, dtype=np.int64))
    genres = pa.array([[1 + i % 3] if i % 4 else [] for i in range(items)], pa.list_(pa.int32()))
    named = pa.table([[1, 2, 3], ["genre 1", "genre 2", "genre 3"], [0] * 3], schema=c.VOCABULARY)
    (folder.prepare / "vocabulary/item.genre.parquet").write_table(named)
    titles = pa.array([f"title {i + 1}" for i in range(items)])
    (folder.prepare / "attributes/item.parquet").write_table(
        pa.table({c.ID: np.arange(1, items + 1), c.TITLE: titles, "genre": genres})
    )
    widths = {side: write_vectors(folder.prepare, side, n) for side, n in
              (("item", items), ("user", users))}  # fmt: skip
    Manifest(
        fingerprint="small",
        shards=files,
        rows_in=total,
        rows_kept=total,
        rows_rejected={},
        rows_by_split={
            name: int((everyone.split == code).sum()) for name, code in c.SPLIT_CODES.items()
        },
        users=users,
        users_by_split={
            name: len(np.unique(everyone.owner()[everyone.split == code]))
            for name, code in c.SPLIT_CODES.items()
        },
        items=items,
        item_attributes={"genre": 3},
        item_vectors={"look": widths["item"]},
        user_vectors={"look": widths["user"]},
        events={"view": 1.0, "buy": 1.0},
        longest_history=20,
        rating_mean=3.0,
        rating_range=(1.0, 5.0),
        split="leave one out",
    ).save(folder.prepare)
    return folder


def _write_shards(
    prepare: Folder, everyone: Histories, shards: int, group_rows: int
) -> tuple[ShardFile, ...]:
    files, first = [], 0
    for number, rows in enumerate(np.array_split(np.arange(len(everyone)), shards)):
        place = prepare / f"shards/part-{number:05d}.parquet"
        table = everyone.take(rows).to_table().select(c.HISTORY.names).cast(c.HISTORY)
        table = table.append_column(c.CONTINUES, pa.repeat(False, len(table)))
        place.write_table(table, row_group_size=group_rows)
        size = place.size()
        assert size is not None
        metadata = pq.read_metadata(place.path)
        groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        files.append(
            ShardFile(
                path=f"shards/part-{number:05d}.parquet", bytes=size, first_row=first, groups=groups
            )
        )
        first += len(rows)
    return tuple(files)


def write_vectors(prepare: Folder, side: str, ids: int) -> int:
    """Random vectors of length 1 under the name ``look``; every fifth id has none. The width."""
    rows = np.random.default_rng(len(side) + ids).normal(size=(ids + 1, 5))
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    rows[::5] = 0
    matrix = vectors_of(prepare, side, "look", ids, 5)
    for block in range(matrix.blocks):
        matrix.write(block, rows[slice(*matrix.range_of(block))].astype(np.float32))
    return 5


def _write_vocabulary(prepare: Folder, side: str, counts: np.ndarray) -> None:
    ids = np.arange(1, len(counts) + 1)
    names = [f"{side[0]}{i}" for i in ids]
    table = pa.table([ids, names, counts.astype(np.int64)], schema=c.VOCABULARY)
    (prepare / f"vocabulary/{side}.parquet").write_table(table)
