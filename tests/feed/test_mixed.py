"""Several data sets in one stage: each keeps the guarantees of a single data set."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from p5dist.config import RunConfig
from p5dist.data import columns as c
from p5dist.data.manifest import Manifest
from p5dist.errors import CheckpointError, ConfigError, ShardError
from p5dist.feed.mix import Mix, open_mix, rows_by_weight
from p5dist.observe.audit import audit
from p5dist.storage import RunFolder
from tests.distributed.stages import train
from tests.feed.streams import batches
from tests.observe import test_audit
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data

OWN, BOOKS, FILMS = 50, 37, 120
ROWS = {"": range(50), "books": range(50, 87), "films": range(87, 207)}


def mixed_job(folder: Path, *overrides: str) -> RunConfig:
    """30 items in the job's own data and in films, their first 20 in books; batches of 24 histories
    from 6 lanes: 2 rows a lane of its own, 1 of books, 1 of films."""
    for name, users, items in (("books", BOOKS, 20), ("films", FILMS, 30)):
        write_small_data(small_job(folder, f"name={name}"), users=users, items=items)
    job = small_job(
        folder, "pretrain.batch_size=24", "finetune={}",
        f"feed.mix={{films: {{data: {folder}/films}}, books: {{data: {folder}/books, weight: 1}}}}",
        "feed.weight=2", *overrides,
    )  # fmt: skip
    write_small_data(job, users=OWN, items=30)
    return job


def mix_of(job: RunConfig) -> Mix:
    folder = RunFolder.of(job.storage, job.name)
    return open_mix(job, "pretrain", folder, Manifest.load(folder.prepare))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return mixed_job(tmp_path_factory.mktemp("mixed"))


def test_every_data_set_has_its_own_epochs_with_every_row_once(job: RunConfig) -> None:
    mix = mix_of(job)
    assert [one.name for one in mix.sets] == ["", "books", "films"]
    assert mix.shares == {"": 0.5, "books": 0.25, "films": 0.25}
    found = batches(mix.readers(job, job.pretrain), 2, 0, 60)
    for one in mix.sets:
        for epoch in range(2):
            steps = range(one.order.steps_before(epoch), one.order.steps_before(epoch + 1))
            seen = Counter(row for step in steps for row in found[step] if row in ROWS[one.name])
            assert seen == dict.fromkeys(ROWS[one.name], 1)


def test_a_full_step_has_the_rows_of_each_that_its_weight_asks_for(job: RunConfig) -> None:
    first = batches(mix_of(job).readers(job, job.pretrain), 1, 0, 1)[0]
    assert {name: sum(row in rows for row in first) for name, rows in ROWS.items()} == {
        "": 12, "books": 6, "films": 6,
    }  # fmt: skip


def test_batches_do_not_depend_on_workers_units_or_restarts(job: RunConfig) -> None:
    readers = mix_of(job).readers(job, job.pretrain)
    one = batches(readers, 1, 0, 40)
    for workers, unit_rows, start in ((2, 7, 0), (3, 1000, 13), (6, 1, 29)):
        assert batches(readers, workers, start, 40, unit_rows) == one[start:]
    assert batches(readers, 2, 0, 40, read_units=None) == one


def test_a_data_set_alone_is_what_it_is_without_a_mix(job: RunConfig) -> None:
    alone = small_job(Path(job.storage))
    own = batches(mix_of(alone).readers(alone, alone.pretrain), 1, 0, 30)
    found = batches(mix_of(job).readers(job, job.pretrain), 1, 0, 30)
    assert [{row: x for row, x in batch.items() if row < OWN} for batch in found] == own
    assert mix_of(alone).fingerprint == Manifest.load(mix_of(alone).own.run.prepare).fingerprint


def test_users_of_other_data_sets_have_no_id(job: RunConfig) -> None:
    own, books, films = mix_of(job).readers(job, job.pretrain)
    assert (own.strangers, books.strangers, films.strangers) == (False, True, True)


def test_finetuning_takes_its_own_data_only(job: RunConfig, tmp_path: Path) -> None:
    both = mixed_job(tmp_path, "finetune={rating: {task: {kind: rating}, epochs: 1}}",
                     "finetune.rating.batch_size=12")  # fmt: skip
    folder = RunFolder.of(both.storage, both.name)
    mix = open_mix(both, "finetune/rating", folder, Manifest.load(folder.prepare))
    assert len(mix.sets) == 1


def test_item_counts_are_those_of_an_epoch_of_its_own_data(job: RunConfig) -> None:
    mix = mix_of(job)
    own, books, films = (one.item_counts() for one in mix.sets)
    # While 50 histories of its own are taken two at a time, 25 of books and of films are.
    expected = own + np.ceil(films * 25 / FILMS)
    expected[:20] += np.ceil(books * 25 / BOOKS)
    assert mix.item_counts().tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("total", "weights", "rows"),
    [
        (4, (2, 1, 1), [2, 1, 1]),
        (4, (1,), [4]),
        (7, (1, 1), [4, 3]),
        (5, (0.5, 0.3, 0.2), [3, 1, 1]),
        (4, (98, 1, 1), [2, 1, 1]),
        (10, (0.35, 0.35, 0.3), [4, 3, 3]),
        (3, (1, 5, 1), [1, 1, 1]),
    ],
)
def test_rows_by_weight(total: int, weights: tuple[float, ...], rows: list[int]) -> None:
    assert rows_by_weight(total, weights) == rows


def test_items_must_be_those_of_this_job(tmp_path: Path) -> None:
    job = mixed_job(tmp_path)
    mix_of(job).check(job)
    place = tmp_path / "books/prepare/vocabulary/item.parquet"
    table = pq.read_table(place)
    names = table[c.EXTERNAL_ID].to_pylist()
    names[6] = "another"
    pq.write_table(table.set_column(1, c.EXTERNAL_ID, [names]), place)
    with pytest.raises(ConfigError, match="item id 7 is 'another' there and 'i7' here"):
        mix_of(job).check(job)


def test_a_longer_vocabulary_is_refused(tmp_path: Path) -> None:
    job = mixed_job(tmp_path)
    write_small_data(small_job(tmp_path, "name=books"), users=BOOKS, items=31)
    with pytest.raises(ConfigError, match=r"item id 31 is 'i31' there and None here[\s\S]*extend"):
        mix_of(job).check(job)


def test_hashed_items_are_the_same_if_there_are_as_many(tmp_path: Path) -> None:
    job = mixed_job(tmp_path, "prepare.vocabulary.hashed=30")
    place = tmp_path / "films/prepare/vocabulary/item.parquet"
    table = pq.read_table(place)
    pq.write_table(table.set_column(1, c.EXTERNAL_ID, [["x"] * 30]), place)
    for name, size in (("films", 30), ("books", 30)):
        other = small_job(tmp_path, f"name={name}", f"prepare.vocabulary.hashed={size}")
        (RunFolder.of(other.storage, name).job).write_text(other.model_dump_json())
    mix_of(job).check(job)
    other = small_job(tmp_path, "name=films", "prepare.vocabulary.hashed=29")
    RunFolder.of(other.storage, "films").job.write_text(other.model_dump_json())
    with pytest.raises(ConfigError, match="do not have the same items"):
        mix_of(job).check(job)


def test_events_must_have_the_same_codes(tmp_path: Path) -> None:
    job = mixed_job(tmp_path, "prepare.source.columns.event=event", "model.inputs.event=true")
    mix_of(job).check(job)
    prepare = RunFolder.of(str(tmp_path), "films").prepare
    manifest = Manifest.load(prepare)
    manifest.model_copy(update={"events": {"buy": 1.0, "view": 1.0}}).save(prepare)
    with pytest.raises(ConfigError, match="number their events differently"):
        mix_of(job).check(job)


def test_data_that_is_not_there_is_named(tmp_path: Path) -> None:
    job = mixed_job(tmp_path)
    (tmp_path / "films/prepare/manifest.json").unlink()
    with pytest.raises(ShardError, match="films/prepare"):
        mix_of(job)


def test_a_missing_shard_of_another_data_set_is_found_at_the_start(tmp_path: Path) -> None:
    job = mixed_job(tmp_path)
    mix_of(job).check(job)
    next((tmp_path / "films/prepare/shards").iterdir()).unlink()
    with pytest.raises(ShardError, match=r"a shard is missing[\s\S]*films/prepare"):
        mix_of(job).check(job)


def test_a_batch_must_have_room_for_each(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"at least 3 data sets · feed\.lanes 6"):
        mixed_job(tmp_path, "pretrain.batch_size=12")


def test_the_same_curve_on_other_workers_and_after_deaths_and_the_ledger_proves_it(
    tmp_path: Path,
) -> None:
    job = mixed_job(tmp_path / "one")
    (one,) = run_distributed(train, 1, job, "pretrain")
    other = mixed_job(tmp_path / "two")
    run_distributed(test_audit.train, 2, other, "1000", None, 13)
    resumed = run_distributed(train, 3, other.model_copy(), "pretrain")[0]
    assert [step for step, _ in resumed] == list(range(11, 21))
    assert [x for _, x in resumed] == pytest.approx([x for _, x in one[10:]], rel=1e-5)

    audited = mixed_job(tmp_path / "three")
    run_distributed(test_audit.train, 2, audited, "1000", None, 13)
    run_distributed(test_audit.train, 3, audited, "1001", None, None)
    found = audit(audited, "pretrain")
    assert found.exact
    assert found.data == ["books", "films"]
    assert found.trained == sum(len(b) for b in batches(mix_of(job).readers(job, job.pretrain),
                                                        1, 0, 20))  # fmt: skip
    ledger = next((tmp_path / "three/small/pretrain/ledger").glob("1001-*-00002-*"))
    ledger.unlink()
    found = audit(audited, "pretrain")
    assert not found.exact
    assert {name for x in found.lost for name, rows in ROWS.items() if x["row"] in rows} != {""}


def test_another_mix_is_another_order(tmp_path: Path) -> None:
    job = mixed_job(tmp_path, "pretrain.steps=5")
    run_distributed(train, 1, job, "pretrain")
    films = RunFolder.of(str(tmp_path), "films").prepare
    Manifest.load(films).model_copy(update={"fingerprint": "changed"}).save(films)
    with pytest.raises(Exception, match="data has changed") as raised:
        run_distributed(train, 1, job, "pretrain")
    assert CheckpointError.__name__ in f"{raised.type}{raised.value!r}"
