"""What a dry run says about the lists, and mistakes that are found before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from p5dist import pipeline
from p5dist.cli.main import app
from p5dist.config import dump_job
from p5dist.errors import DataError
from tests.inference.lists.made import prepared
from tests.small_data import small_job


def said(tmp_path: Path, *overrides: str) -> list[str]:
    job, _ = prepared(tmp_path)
    (tmp_path / "job.yaml").write_text(dump_job(job, defaults=False))
    words = ["run", str(tmp_path / "job.yaml"), "recommend", "--dry-run", *overrides]
    found = CliRunner().invoke(app, words, catch_exceptions=False)
    assert found.exit_code == 0
    return found.output.splitlines()


def test_a_dry_run_says_for_whom_and_from_which_items(tmp_path: Path) -> None:
    assert said(tmp_path) == [
        f"{'recommend':<24}to do", "  for all 50 users of the log", "  from 24 of 24 items",
        "  lists of 5",
    ]  # fmt: skip
    (tmp_path / "users.txt").write_text("u1\nu2\nnobody\n")
    (tmp_path / "stock.csv").write_text("item_id\ni1\ni2\ngone\n")
    assert said(
        tmp_path, f"recommend.users={tmp_path}/users.txt", f"recommend.stock={tmp_path}/stock.csv",
        "recommend.mask_seen=false", "recommend.diversity=0.2", "recommend.popularity_penalty=0.5",
    )[1:] == [
        "  for 2 users of the log (of those named, 1 unknown)",
        "  from 2 of 24 items (stock: 1 unknown)",
        "  lists of 5, seen items too; popularity penalty 0.5; diversity 0.2 among 50 items",
    ]  # fmt: skip
    (tmp_path / "new.csv").write_text("user_id,item_id,rating\n" + "x,i1,5\n" * 3)
    (people,) = said(
        tmp_path,
        f"recommend.histories={{files: {tmp_path}/new.csv, columns: {{rating: rating}}}}",
    )[1:2]
    assert people.startswith("  for new people with about ")


@pytest.mark.parametrize(
    "setting", ["users=nowhere.txt", "histories={files: nowhere.csv, columns: {rating: rating}}"]
)
def test_a_missing_file_is_found_before_anything_runs(tmp_path: Path, setting: str) -> None:
    job = small_job(tmp_path, f"recommend.{setting}", f"prepare.source.files={tmp_path}/no.csv")
    with pytest.raises(DataError, match=rf"(?s)no such file.*recommend\.{setting[:5]}"):
        pipeline.run(job, [])


def test_a_mistaken_value_is_found_before_the_first_training(tmp_path: Path) -> None:
    job, folder = prepared(tmp_path, "recommend.where={genre: [genre 4]}")
    folder.job.write_text(dump_job(job))
    with pytest.raises(DataError, match=r"recommend\.where\.genre"):
        pipeline.run(job, [])
    assert not folder.training("pretrain").exists()
