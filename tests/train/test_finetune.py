"""Parameters that fine-tuning trains, parameters that it does not change, and initial weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from p5dist.data import columns as c
from p5dist.data.manifest import Manifest
from p5dist.errors import ConfigError
from p5dist.inference.scorer import load_scorer
from p5dist.inference.vectors import Trained
from p5dist.storage import RunFolder
from p5dist.tasks.build import build_model
from tests.distributed.stages import local_state, train, whole
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data
from tests.train.finetuning import before_and_after, dense_rates

STAGE = "finetune/rating"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    job = small_job(folder)
    write_small_data(job)
    run_distributed(train, 1, job, "pretrain")
    return folder


def finetuned(
    pretrained: Path, tmp_path: Path, workers: int, *overrides: str
) -> tuple[dict[str, Tensor], dict[str, Tensor], list[float]]:
    """Whole state before and after, and the losses."""
    start = f"finetune.rating.init_from={pretrained / 'small/pretrain'}"
    job = small_job(
        tmp_path, start, "finetune.rating.batch_size=48", "finetune.rating.steps=16",
        "finetune.rating.dense.lr=1.0e-2", "finetune.rating.schedule.warmup_steps=2", *overrides,
    )  # fmt: skip
    write_small_data(job)
    ranks = run_distributed(before_and_after, workers, job, STAGE)
    lines = ranks[0][2]
    return whole([r[0] for r in ranks]), whole([r[1] for r in ranks]), [m["loss"] for m in lines]


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("workers", [1, 2])
def test_head_only_leaves_the_backbone_bit_for_bit(
    pretrained: Path, tmp_path: Path, workers: int
) -> None:
    before, after, losses = finetuned(pretrained, tmp_path, workers, "finetune.rating.train=head")
    moved = changed(before, after)
    assert any(name.startswith("model.head.users.") for name in moved)
    assert any(name.startswith("model.head.product.") for name in moved)
    assert not [name for name in moved if "backbone" in name], "weights or optimizer state"
    assert not [n for n in before if n.startswith("dense.backbone.")], "state of what is frozen"
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_frozen_tables_leave_rows_and_momenta_bit_for_bit(pretrained: Path, tmp_path: Path) -> None:
    before, after, _ = finetuned(pretrained, tmp_path, 1, "finetune.rating.frozen_tables=true")
    moved = changed(before, after)
    tables = [name for name in before if "backbone.items" in name]
    assert len(tables) >= 4  # rows and momentum of the ids and of the attribute
    assert not set(tables) & moved
    assert any(name.startswith("model.backbone.encoder.") for name in moved)
    assert any(name.startswith("fused.head.users.") for name in moved)


def test_adapters_change_nothing_else_of_the_encoder(pretrained: Path, tmp_path: Path) -> None:
    before, after, losses = finetuned(
        pretrained, tmp_path, 2, "finetune.rating.train=adapters",
        "finetune.rating.adapters={rank: 2, alpha: 4}",
    )  # fmt: skip
    moved = {n for n in changed(before, after) if n.startswith("model.backbone.")}
    learned = {name for name in moved if "lora" in name}
    assert {name for name in before if "lora" in name and name.startswith("model.")} == learned
    assert len(learned) >= 8
    assert moved - learned == {n for n in before if n.startswith("model.backbone.items.")}
    assert all(not before[name].any() for name in learned if name.endswith("lora_b"))
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_a_checkpoint_with_adapters_is_read_by_the_scorer(pretrained: Path, tmp_path: Path) -> None:
    start = f"finetune.rating.init_from={pretrained / 'small/pretrain'}"
    job = small_job(tmp_path, start, "finetune.rating.train=adapters")
    folder = write_small_data(job)
    run_distributed(train, 1, job, STAGE)
    scorer = load_scorer(job, folder, STAGE)
    parts = dict(scorer.model.backbone.named_parameters())
    assert any(p.abs().sum() > 0 for name, p in parts.items() if name.endswith("lora_b"))


def test_rates_by_part(pretrained: Path, tmp_path: Path) -> None:
    job = small_job(
        tmp_path, "finetune.rating.lr_scale={tables: 0.5, encoder: 0.1, head: 2}",
        "finetune.rating.init_from=null", "finetune.rating.schedule.kind=constant",
    )  # fmt: skip
    write_small_data(job)
    dense, tables = run_distributed(dense_rates, 1, job, STAGE)[0]
    for name, rate in dense.items():
        assert rate == pytest.approx(1e-3 * (0.1 if name.startswith("backbone.") else 2)), name
    assert any(name.startswith("head.") for name in dense) and len(dense) > 10
    assert tables == pytest.approx([0.05 * 0.5] * len(tables))


def test_a_stage_starts_from_another_stage_of_the_run(pretrained: Path, tmp_path: Path) -> None:
    second = (
        "finetune.again={task: {kind: rating, base: mean, user_dim: 8}, steps: 2, batch_size: 12, "
        "init_from: finetune/rating}"
    )
    start = f"finetune.rating.init_from={pretrained / 'small/pretrain'}"
    job = small_job(tmp_path, start, second)
    folder = write_small_data(job)
    run_distributed(train, 1, job, STAGE)
    first = whole(run_distributed(local_state, 1, job, STAGE))
    begun = whole(run_distributed(local_state, 2, job, "finetune/again"))
    for name in begun:
        if name.startswith("model."):  # the same task: its own part is carried over too
            assert torch.equal(begun[name], first[name]), name
    report = (folder.training("finetune/again") / "init.json").read_json()
    assert not report["missing"] and not report["unexpected"] and not report["resized"]
    assert job.fingerprint("finetune/again") != small_job(
        tmp_path, f"{start}x", second
    ).fingerprint("finetune/again")


def renamed(folder: RunFolder, names: dict[str, list[str]]) -> None:
    """Give the prepared data other external ids."""
    for file, external in names.items():
        ids = np.arange(1, len(external) + 1)
        table = pa.table([ids, external, np.ones(len(ids), np.int64)], schema=c.VOCABULARY)
        (folder.prepare / f"vocabulary/{file}.parquet").write_table(table)


def write_attributes(folder: RunFolder, genres: list[list[int]]) -> None:
    """Give the items of the prepared data these genres."""
    ids = np.arange(1, len(genres) + 1)
    titles = [f"t{i}" for i in ids]
    values = pa.array(genres, pa.list_(pa.int32()))
    table = pa.table({c.ID: ids, c.TITLE: titles, "genre": values})
    (folder.prepare / "attributes/item.parquet").write_table(table)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_new_vocabulary_carries_rows_over_by_external_id(tmp_path: Path, workers: int) -> None:
    old = small_job(tmp_path / "old")
    before = write_small_data(old)
    genres = ["drama", "comedy", "war"]
    renamed(before, {"item.genre": genres})
    run_distributed(train, 1, old, "pretrain")
    trained = whole(run_distributed(local_state, 1, old, "pretrain"))

    new = small_job(
        tmp_path / "new", f"finetune.rating.init_from={tmp_path / 'old/small/pretrain'}"
    )
    folder = write_small_data(new, items=40)
    # Items 1…40 are the old items 30, 29, …, 1 and ten new ones; a new genre is the first.
    names = [f"i{i}" for i in range(30, 0, -1)] + [f"new {i}" for i in range(10)]
    renamed(folder, {"item": names, "item.genre": ["new", *genres]})
    manifest = Manifest.load(folder.prepare)
    manifest.model_copy(update={"item_attributes": {"genre": 4}}).save(folder.prepare)
    # Genre of items 1…40: new item 31 has drama (value 2), 32 has the new one, 33 none.
    of = [[2 + i % 3] if i % 4 else [] for i in range(30)] + [[2], [1], []] + [[3]] * 7
    write_attributes(folder, of)

    begun = whole(run_distributed(local_state, workers, new, STAGE))
    ids, was = (
        state["model.backbone.items.ids.embeddings.item.weight"] for state in (begun, trained)
    )
    for i in range(1, 31):
        assert torch.equal(ids[i], was[31 - i]), i
    drama = torch.stack([ids[i] for i in range(1, 31) if of[i - 1] == [2]]).mean(0)
    everything = was[1:].mean(0)
    assert torch.allclose(ids[31], drama, atol=1e-6)
    assert torch.allclose(ids[32], everything, atol=1e-6)
    assert torch.allclose(ids[33], everything, atol=1e-6)
    assert not ids[0].any()
    values, were = (
        state["model.backbone.items.bags.embedding_bags.item_genre.weight"]
        for state in (begun, trained)
    )
    assert torch.equal(values[2:], were[1:])
    assert torch.allclose(values[1], were[1:].mean(0), atol=1e-6)
    encoder = [n for n in begun if n.startswith("model.backbone.encoder")]
    assert encoder and all(torch.equal(begun[n], trained[n]) for n in encoder)
    report = (folder.training(STAGE) / "init.json").read_json()
    assert report["resized"]["model.backbone.items.ids.embeddings.item.weight"] == {
        "before": 30, "now": 40, "carried": 30, "new": 10,
    }  # fmt: skip


def test_rows_of_items_that_this_log_lacks_are_carried_over(tmp_path: Path) -> None:
    """Most items of the first run are missing in the log of the second; their trained rows are part
    of their vectors, also two stages later."""
    old = small_job(tmp_path / "old", "pretrain.tables.lr=0.5")
    before = write_small_data(old)
    run_distributed(train, 1, old, "pretrain")
    second = "{task: {kind: next_item}, steps: 1, batch_size: 12, init_from: finetune/rating}"
    new = small_job(
        tmp_path / "new", f"finetune.rating.init_from={tmp_path / 'old/small/pretrain'}",
        f"finetune.again={second}", "finetune.rating.steps=1",
        "finetune.fresh={task: {kind: next_item}, steps: 1, batch_size: 12, init_from: null}",
    )  # fmt: skip
    folder = write_small_data(new)
    # The log of the new run knows items 1…30, but counts nothing of items 4…30; item 31 is new.
    names = [f"i{i}" for i in range(1, 31)] + ["new"]
    counts = np.asarray([5] * 3 + [0] * 28)
    columns = [np.arange(1, 32), names, counts]
    (folder.prepare / "vocabulary/item.parquet").write_table(pa.table(columns, schema=c.VOCABULARY))
    write_attributes(folder, [[1 + i % 3] if i % 4 else [] for i in range(30)] + [[2]])
    manifest = Manifest.load(folder.prepare)
    manifest.model_copy(update={"items": 31}).save(folder.prepare)

    for stage in ("finetune/rating", "finetune/again", "finetune/fresh"):
        run_distributed(train, 1, new, stage)
    seen = (before.prepare / "vocabulary/item.parquet").read_table()[c.COUNT].to_numpy() > 0
    assert seen.all()
    for stage in ("finetune/rating", "finetune/again"):
        vectors = load_scorer(new, folder, stage).item_vectors()
        assert len(torch.unique(vectors[:30], dim=0)) == 30, stage
        assert not torch.unique(vectors, dim=0)[-1].isnan().any()
    scorer = load_scorer(new, folder, "finetune/again")
    model = build_model(new, "finetune/again", Manifest.load(folder.prepare), torch.device("cpu"))
    weights = model.state_dict()
    Trained(new, folder, "finetune/again").load(dict(weights))
    rows = weights["backbone.items.ids.embeddings.item.weight"]
    genres = weights["backbone.items.bags.embedding_bags.item_genre.weight"]
    vectors = scorer.item_vectors()
    assert torch.allclose(vectors[9], rows[10] + genres[1]), "item 10 has genre 1"
    assert torch.allclose(vectors[30], genres[2]), "the new item has its genre only"
    # A stage that starts from random rows knows the attributes of these items only.
    fresh = load_scorer(new, folder, "finetune/fresh").item_vectors()
    assert len(torch.unique(fresh[3:], dim=0)) == 4


@pytest.mark.parametrize("workers", [1, 2])
def test_tables_split_by_column_are_carried_over(tmp_path: Path, workers: int) -> None:
    """From column-wise tables, to column-wise tables, and to other vocabularies."""
    columns = ["scale.sharding={item: column_wise, item_genre: column_wise}"]
    sgd = [f"{stage}.tables={{kind: sgd, lr: 0.1}}" for stage in ("pretrain", "finetune.rating")]
    old = small_job(tmp_path / "old", *columns, *sgd)
    renamed(write_small_data(old), {"item.genre": ["drama", "comedy", "war"]})
    run_distributed(train, 2, old, "pretrain")
    trained = whole(run_distributed(local_state, 1, old, "pretrain"))
    start = f"finetune.rating.init_from={tmp_path / 'old/small/pretrain'}"
    new = small_job(tmp_path / "new", start, *sgd, *(columns if workers == 2 else []))
    folder = write_small_data(new)
    names = [f"i{i}" for i in range(30, 1, -1)] + ["new"]
    renamed(folder, {"item": names, "item.genre": ["war", "drama", "comedy"]})
    genres: list[list[int]] = [[1 + i % 3] for i in range(29)] + [[2]]
    write_attributes(folder, genres)
    begun = whole(run_distributed(local_state, workers, new, STAGE))
    ids, was = (
        state["model.backbone.items.ids.embeddings.item.weight"] for state in (begun, trained)
    )
    for i in range(1, 30):
        assert torch.equal(ids[i], was[31 - i]), i
    drama = torch.stack([ids[i] for i in range(1, 30) if genres[i - 1] == [2]]).mean(0)
    assert torch.allclose(ids[30], drama, atol=1e-6)
    values, were = (
        state["model.backbone.items.bags.embedding_bags.item_genre.weight"]
        for state in (begun, trained)
    )
    assert torch.equal(values[1:], were[[3, 1, 2]])


def test_head_only_needs_a_head() -> None:
    with pytest.raises(ConfigError, match="no parameters of its own"):
        small_job(Path(), "finetune.rating={task: {kind: next_item}, train: head, steps: 1}")


@pytest.mark.parametrize("start", ["finetune/rating", "nothing"])
def test_a_start_that_is_no_stage_before(start: str) -> None:
    with pytest.raises(
        ConfigError, match=r"neither an earlier stage of this job \(it has: pretrain\)"
    ):
        small_job(Path(), f"finetune.rating.init_from={start}")
