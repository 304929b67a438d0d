"""The recommend stage on a small prepared folder, against a plain sort."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from p5dist.config import RunConfig
from p5dist.config.output import Ranking
from p5dist.data import columns as c
from p5dist.data.catalogue import Catalogue
from p5dist.errors import ConfigError
from p5dist.inference import recommend as stage
from p5dist.ranking.item_to_item import ItemToItem
from p5dist.storage import RunFolder
from tests.fake_scorer import FakeScorer, item_matrix, load_fake
from tests.ranking.histories_of import histories
from tests.ranking.plain import whole
from tests.small_data import small_job, write_small_data

ITEMS, K = 24, 12  # some users have seen more than half of the catalogue

pytestmark = pytest.mark.usefixtures("ray_session")


def rows_of(folder: RunFolder) -> list[dict[str, Any]]:
    shards = sorted(Path(folder.prepare.path, "shards").glob("*.parquet"))
    return [row for shard in shards for row in pq.read_table(shard).to_pylist()]


def histories_of(folder: RunFolder) -> dict[int, list[int]]:
    return {row[c.USER]: row[c.ITEM] for row in rows_of(folder)}


def splits_of(folder: RunFolder) -> list[list[tuple[int, int]]]:
    """(item, split) of every history."""
    return [list(zip(row[c.ITEM], row[c.SPLIT], strict=True)) for row in rows_of(folder)]


def expected_rows(
    folder: RunFolder, titles: bool, mask: bool, share: float = 0
) -> list[tuple[Any, ...]]:
    """
    Args:
        share: of item-to-item counts.
    """
    matrix = item_matrix(ITEMS)
    rows = []
    train = [[i for i, s in pairs if s == c.TRAIN] for pairs in splits_of(folder)]
    counts = ItemToItem.fit([histories(train)], Catalogue(ITEMS))
    for user, history in histories_of(folder).items():
        scores = matrix @ matrix[np.array(history) - 1].sum(0)
        if share:
            counted = whole(counts.scores(histories([history])))
            learned = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
            remembered = counted[0] / counted.sum()
            scores = np.log((1 - share) * learned + share * remembered)
        ids = [i for i in range(1, ITEMS + 1) if not (mask and i in history)]
        best = sorted(ids, key=lambda i: -scores[i - 1])[:K]
        rows += [
            (f"u{user}", rank, f"i{i}", f"title {i}" if titles else None, scores[i - 1])
            for rank, i in enumerate(best, 1)
        ]
    return rows


def check_rows(folder: RunFolder, expected: list[tuple[Any, ...]]) -> None:
    parts = [(folder.recommend / name).path for name in folder.recommend.children()[:-1]]
    table = ds.dataset(parts).to_table()
    assert table.schema.equals(c.RECOMMENDATION)
    found = [tuple(row.values()) for row in table.to_pylist()]
    assert [row[:-1] for row in found] == [row[:-1] for row in expected]
    assert [row[-1] for row in found] == pytest.approx([row[-1] for row in expected], abs=1e-4)


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[RunConfig, RunFolder]:
    job = small_job(
        tmp_path, f"recommend.k={K}", "recommend.batch_size=6", "feed.unit_rows=20",
        "prepare.items.title=title",
    )  # fmt: skip
    return job, write_small_data(job, items=ITEMS)


def test_lists_for_all_users(prepared: tuple[RunConfig, RunFolder]) -> None:
    job, folder = prepared
    stale = folder.recommend.make() / "part-99999.parquet"
    stale.write_text("of a run that was interrupted")
    result = stage.run(job, folder, load=load_fake)
    assert folder.recommend.children()[:2] == ["part-00000.parquet", "part-00001.parquet"]
    assert folder.recommend.children()[-1] == "result.json" and not stale.exists()
    expected = expected_rows(folder, titles=True, mask=True)
    assert len(expected) < 50 * K  # some lists are short
    check_rows(folder, expected)
    assert (folder.recommend / "result.json").read_json() == result
    assert (result["users"], result["rows"], result["k"]) == (50, len(expected), K)
    assert result["ranking_from"] == "pretrain"
    assert result["job_fingerprint"] == job.fingerprint("recommend")


def test_counts_share_the_ranking(prepared: tuple[RunConfig, RunFolder]) -> None:
    job, folder = prepared
    mixed = job.model_copy(update={"ranking": Ranking(item_to_item=0.6)})
    result = stage.run(mixed, folder, load=load_fake)
    assert result["ranking_item_to_item"] == 0.6
    expected = expected_rows(folder, titles=True, mask=True, share=0.6)
    check_rows(folder, expected)
    plain = expected_rows(folder, titles=True, mask=True)
    assert [row[2] for row in expected] != [row[2] for row in plain]


def test_a_portion_without_titles_and_masks(prepared: tuple[RunConfig, RunFolder]) -> None:
    """In this process: what an actor does with its portion."""
    from p5dist.data.manifest import Manifest
    from p5dist.data.reader import ShardReader

    job, folder = prepared
    folder.recommend.make()
    plain = small_job(
        Path(job.storage), f"recommend.k={K}", "recommend.mask_seen=false", "prepare.items=null",
        "model.item_attributes=[]",
    )  # fmt: skip
    manifest = Manifest.load(folder.prepare)
    reader = ShardReader(folder.prepare, manifest)
    (portion,) = reader.portions(50)
    writer = stage.ListWriterFactory(plain, folder, manifest, "pretrain", load_fake)()
    written = writer(portion, reader.users(portion))
    assert (written["users"][0].as_py(), written["rows"][0].as_py()) == (50, 50 * K)
    (folder.recommend / "result.json").write_text("")
    check_rows(folder, expected_rows(folder, titles=False, mask=False))


def test_nothing_to_recommend_with(tmp_path: Path) -> None:
    job = small_job(tmp_path, "pretrain=null", "finetune.rating.init_from=null")
    with pytest.raises(ConfigError, match="no model to recommend with"):
        stage.run(job, write_small_data(job), load=lambda *_: FakeScorer(Catalogue(ITEMS)))
