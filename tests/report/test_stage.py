"""The page of a whole run folder, as a reader and a browser see it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from p5dist.config import RunConfig, dump_job
from p5dist.config.output import Report
from p5dist.data.manifest import Manifest
from p5dist.report.stage import run
from p5dist.report.users import shown_users
from p5dist.storage import RunFolder
from tests.report import small_run
from tests.report.parsed import Page


def page_of(job: RunConfig) -> tuple[str, Page]:
    folder = RunFolder.of(job.storage, job.name)
    run(job, folder)
    html = folder.report.read_bytes().decode()
    return html, Page(html)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    job = small_run.small_job(tmp_path_factory.mktemp("run"))
    small_run.write_all(job, RunFolder.of(job.storage, job.name))
    return job


@pytest.fixture(scope="module")
def whole(job: RunConfig) -> tuple[str, Page]:
    return page_of(job)


def test_result_names_the_page(job: RunConfig) -> None:
    folder = RunFolder.of(job.storage, job.name)
    result = run(job, folder)
    assert result["page"] == folder.report.path
    assert result["bytes"] == folder.report.size()
    assert result["missing"] == []
    assert result["data_fingerprint"] == "data0123"


def test_every_row_of_the_log(whole: tuple[str, Page]) -> None:
    _, page = whole
    assert page.row("rows in") == ["13", ""]
    assert page.row("kept") == ["10", "76.92 %"]
    assert page.row("rejected: duplicate") == ["1", "7.69 %"]
    assert page.row("rejected: bad rating") == ["2", "15.38 %"]
    assert page.row("validation") == ["3", "30.00 %"]
    assert "25 % of the interactions share their time" in page.text


def test_stages_with_time_and_counts(whole: tuple[str, Page]) -> None:
    _, page = whole
    stages = {row[0]: row[1:] for row in page.rows if len(row) == 4}
    assert stages["prepare"][0] == "13 rows in, 10 kept, 3 rejected; 3 users, 5 items"
    assert stages["pretrain"] == [
        "step 40, epoch 2, loss 8.000 → 2.000, 250 histories/s", "1 min 15 s",
        "2026-11-24 04:45 UTC",
    ]  # fmt: skip
    assert stages["evaluate"][:2] == ["targets of 3 users ranked among 5 items", "3.0 s"]
    assert "2 min 35 s in all" in page.text  # 75 + 75 + 3 + 2 s


def test_metrics_beside_baselines(whole: tuple[str, Page]) -> None:
    _, page = whole
    interval = "0.2500 \N{EN DASH} 0.3750"
    assert page.row("NDCG@10") == ["0.3125", interval, "0.1000", "0.2500", "+25.0 %"]
    assert page.row("RMSE ↓")[0] == "0.9000"
    assert page.row("RMSE ↓")[2:] == ["1.1000", "1.0000", "+10.0 %"]
    nothing = "\N{EN DASH}"
    assert page.row("Coverage@10") == ["0.6000", nothing, nothing, nothing, nothing]
    for line in ("split test", "catalogue 5", "mask seen yes", "ties lower id first", "seed 1"):
        assert line in page.items


def test_every_task_says_its_metrics_itself(tmp_path: Path) -> None:
    job = small_run.small_job(tmp_path)
    folder = RunFolder.of(job.storage, job.name)
    small_run.write_all(job, folder)
    place = folder.evaluate / "result.json"
    place.write_json({**place.read_json(), **small_run.two_tasks()})
    _, page = page_of(job)
    tables = [a["data-metrics"] for _, a in page.tags if "data-metrics" in a]
    assert tables == ["Ranking", "Wait: finetune/both/short", "Wait: finetune/both/long"]
    nothing = "\N{EN DASH}"
    rows = [row[1:] for row in page.rows if row[0] == "Minutes off ↓"]
    assert rows == [
        ["2.0000", "1.5000 \N{EN DASH} 2.5000", "4.0000", "+50.0 %"],
        ["9.0000", nothing, "6.0000", "\N{MINUS SIGN}50.0 %"],
    ]
    assert [row[4] for row in page.rows if row[0] == "Share late"] == [nothing, nothing]
    shown = [a["data-headline"] for _, a in page.tags if "data-headline" in a]
    assert shown == ["NDCG@10", "HR@10", "Minutes off", "Minutes off"]
    assert "Minutes off (lower is better) · Wait: finetune/both/long" in page.text
    assert (
        "12 test interactions: 3 targets, 4 without an earlier interaction to predict from, "
        "5 of users that evaluate.users does not choose; 1 targets repeat an item of their user "
        "and count as misses (mask_seen)." in page.text
    )


def test_checks_of_the_protocol(tmp_path: Path) -> None:
    job = small_run.small_job(tmp_path)
    folder = RunFolder.of(job.storage, job.name)
    small_run.write_all(job, folder)
    place = folder.evaluate / "result.json"
    leak = {"name": "targets that training has too", "status": "found", "number": 2, "of": 1200,
            "explanation": "the model has seen it", "examples": ["user <b>, item x"]}  # fmt: skip
    untimed = {"name": "ties", "status": "not checked", "number": None, "of": None,
               "explanation": "the log has no times", "examples": []}  # fmt: skip
    place.write_json({**place.read_json(), "audit": [leak, untimed]})
    _, page = page_of(job)
    assert page.row("targets that training has too") == [
        "found", "2", "1,200", "the model has seen it · user <b>, item x",
    ]  # fmt: skip
    assert page.row("ties") == ["not checked", "–", "–", "the log has no times"]


def test_a_run_on_the_data_of_another(tmp_path: Path) -> None:
    other = small_run.small_job(tmp_path, name="other")
    small_run.write_prepared(other, RunFolder.of_job(other))
    job = small_run.small_job(tmp_path, data_of="other")
    folder = RunFolder.of_job(job)
    small_run.write_evaluated(job, folder)
    result = run(job, folder)
    page = Page(folder.report.read_bytes().decode())
    assert page.row("rows in")[0] == "13" and not (folder.root / "prepare").exists()
    assert "prepare" not in result["missing"] and result["data_fingerprint"] == "data0123"


def evaluated(tmp_path: Path, **changes: Any) -> tuple[str, Page]:
    """The page of a run with these keys in evaluate/result.json."""
    job = small_run.small_job(tmp_path)
    folder = RunFolder.of(job.storage, job.name)
    small_run.write_all(job, folder)
    place = folder.evaluate / "result.json"
    place.write_json({**place.read_json(), **small_run.of_lists(), **changes})
    return page_of(job)


def test_metrics_of_lists(tmp_path: Path) -> None:
    _, page = evaluated(tmp_path)
    nothing = "\N{EN DASH}"
    assert page.row("Recall@10")[0] == "0.5000"
    assert page.row("Gini@10") == ["0.7500", nothing, "0.9000", nothing]
    assert page.row("Popularity@10") == ["1,234.6", nothing, "4,321.0", nothing]
    tables = [a["data-metrics"] for _, a in page.tags if "data-metrics" in a]
    assert tables == ["Ranking", "Lists"]
    headlines = [a["data-headline"] for _, a in page.tags if "data-headline" in a]
    assert headlines == ["NDCG@10"]


def test_recall_is_hidden_if_every_list_has_one_target(tmp_path: Path) -> None:
    protocol = small_run.of_lists()["protocol"] | {"targets": 3}
    _, page = evaluated(tmp_path, protocol=protocol)
    assert not any(row and row[0] == "Recall@10" for row in page.rows)
    assert page.row("Gini@10")


def test_segments(tmp_path: Path) -> None:
    html, page = evaluated(tmp_path)
    shown = [a["data-segments"] for _, a in page.tags if "data-segments" in a]
    assert shown == ["history length", "genre"], "a family of one segment says nothing"
    assert page.row("1–4") == ["", "0.4000", "0.2000", "2"]
    assert page.row("50+") == ["", "0.1000", "0.2000", "1"]
    assert "<b></td>" not in html and page.row("<b>")
    words = [a.get("aria-label") for _, a in page.tags if a.get("class") == "track"]
    assert words[:2] == [
        "0.4000, interval 0.3000 to 0.5000, best baseline item to item 0.2000",
        "0.1000, best baseline item to item 0.2000",
    ]
    styles = [a["style"] for _, a in page.tags if a.get("class") in ("fill", "whisker", "tick")]
    # Of 0.5, the end of the longest interval.
    assert styles[:3] == ["width: 80.0%", "left: 60.0%; width: 40.0%", "left: 40.0%"]
    assert styles[3:5] == ["width: 20.0%", "left: 40.0%"]


def test_head_and_tail(tmp_path: Path) -> None:
    _, page = evaluated(tmp_path)
    assert page.row("share of") == ["", "head", "middle", "tail"]
    assert page.row("items") == ["", "10.0 %", "30.0 %", "60.0 %"]
    assert page.row("training interactions") == ["", "20.0 %", "60.0 %", "20.0 %"]
    assert page.row("lists: this run") == ["", "50.0 %", "30.0 %", "20.0 %"]
    assert page.row("lists: item to item") == ["", "50.0 %", "30.0 %", "20.0 %"]
    assert page.row("popularity") == ["all training interactions"]


def test_headline(whole: tuple[str, Page]) -> None:
    _, page = whole
    shown = [a["data-headline"] for _, a in page.tags if "data-headline" in a]
    assert shown == ["NDCG@10", "HR@10", "RMSE"]
    assert "25.0 % better than the best baseline" in page.text


def test_time_split_and_plan(whole: tuple[str, Page]) -> None:
    _, page = whole
    assert [r for r in page.rows if r[0] == "forward"] == [["forward", "30 ms", "75.0 %"]] * 2
    assert [r for r in page.rows if r[0] == "item"] == [["item", "row wise", "6", "64", "0, 1"]] * 2
    assert page.items.count("restarts 2") == 2


def test_pictures(whole: tuple[str, Page]) -> None:
    _, page = whole
    labels = [a["aria-label"] for tag, a in page.tags if tag == "svg"]
    assert labels == [
        "History lengths", "Popularity of items", "Interactions over time", "Ratings",
        "Loss of pretrain", "Loss of finetune/rating",
    ]  # fmt: skip


def test_users_with_history_and_list(whole: tuple[str, Page]) -> None:
    _, page = whole
    # ann's history is items 1, 2, 3, rated 2, 3, 4, a day apart; 3 is held out.
    assert page.items.count("Alien rated 2 1970-01-01") == 1
    assert page.items.count("Babe held out, ranked 4 rated 4, predicted 3.5 1970-01-03") == 1
    assert page.items.count("1 Babe held out 1.000") == 1  # in ann's list
    assert page.items.count("1 Babe 1.000") == 1  # in bob's list: not his held-out item
    assert page.items.count("1 i5 1.000") == 1  # no title: the id of the log
    for user, length in (("ann", 3), ("bob", 4), ("cem", 3)):
        assert f"User {user} · {length} interactions" in page.text


def test_hostile_titles_are_text(whole: tuple[str, Page]) -> None:
    html, page = whole
    assert "<script" not in html
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert "<script>alert('x')</script>" in page.text


def test_needs_no_network(whole: tuple[str, Page]) -> None:
    html, page = whole
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe", "object"), tag
        for name in ("src", "href", "xlink:href", "srcset", "data"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    assert "@import" not in html
    assert all(target.startswith("#") for target in _between(html, "url(", ")"))


def test_links_lead_somewhere(whole: tuple[str, Page]) -> None:
    _, page = whole
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        target = attributes.get("href") or attributes.get("xlink:href")
        assert target is None or target.removeprefix("#") in ids, (tag, target)


def test_same_folder_same_bytes_without_torch_or_ray(
    job: RunConfig, whole: tuple[str, Page]
) -> None:
    html, _ = whole
    code = (
        "import sys; from p5dist.config import load_job; from p5dist.storage import RunFolder;"
        "from p5dist.report.stage import run;"
        "job = load_job(sys.argv[1]); run(job, RunFolder.of(job.storage, job.name));"
        "print([m for m in ('torch', 'ray') if m in sys.modules])"
    )
    folder = RunFolder.of(job.storage, job.name)
    done = subprocess.run(
        [sys.executable, "-c", code, folder.job.path],
        env={**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    assert folder.report.read_bytes().decode() == html


def test_users_come_from_the_seed(job: RunConfig) -> None:
    folder = RunFolder.of(job.storage, job.name)
    manifest = Manifest.load(folder.prepare)

    def shown(seed: int, users: int) -> list[str]:
        changed = job.model_copy(update={"seed": seed, "report": Report(users=users)})
        return [shown.user for shown in shown_users(changed, folder, manifest)]

    assert shown(1, users=0) == []
    assert shown(1, users=2) == shown(1, users=2)
    assert {shown(seed, users=1)[0] for seed in range(20)} == {"ann", "bob", "cem"}
    assert shown(1, users=100) == ["ann", "bob", "cem"]


def test_only_prepare(tmp_path: Path) -> None:
    job = small_run.small_job(tmp_path)
    folder = RunFolder.of(job.storage, job.name)
    small_run.write_prepared(job, folder)
    assert run(job, folder)["missing"] == ["pretrain", "finetune/rating", "evaluate", "recommend"]
    page = Page(folder.report.read_bytes().decode())
    assert page.row("kept") == ["10", "76.92 %"]
    assert page.row("pretrain")[0] == "not run yet"
    assert "No training stage has logged a step yet." in page.text
    assert "Not evaluated yet." in page.text
    assert page.text.count("No recommendations for this user yet.") == 3


def test_training_under_way(tmp_path: Path) -> None:
    job = small_run.small_job(tmp_path)
    folder = RunFolder.of(job.storage, job.name)
    small_run.write_prepared(job, folder)
    small_run.write_trained(job, folder, "pretrain")
    (folder.training("pretrain") / "result.json").remove()
    assert run(job, folder)["missing"][0] == "pretrain"
    page = Page(folder.report.read_bytes().decode())
    assert page.row("pretrain")[0].endswith("250 histories/s, not finished")
    assert "Not finished yet" in page.text


def test_nothing_done_yet(tmp_path: Path) -> None:
    job = small_run.small_job(tmp_path)
    _, page = page_of(job)
    assert "No data to show: no prepared data here." in page.text
    assert "No users to show." in page.text


def test_damaged_data_is_said_not_shown(tmp_path: Path) -> None:
    job = small_run.small_job(tmp_path)
    folder = RunFolder.of(job.storage, job.name)
    small_run.write_all(job, folder)
    shard = Path(folder.prepare.path) / "shards/part-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    _, page = page_of(job)
    assert page.row("prepare")[0] == "a shard is truncated or was changed"
    assert page.row("NDCG@10")[0] == "0.3125"


def test_what_has_no_marker_is_not_read(tmp_path: Path) -> None:
    job = small_run.small_job(tmp_path)
    folder = RunFolder.of(job.storage, job.name)
    small_run.write_all(job, folder)
    (folder.recommend / "result.json").remove()
    (folder.evaluate / "result.json").remove()
    _, page = page_of(job)
    assert page.text.count("No recommendations for this user yet.") == 3
    assert page.items.count("Babe held out rated 4 1970-01-03") == 1


def test_log_without_times_ratings_titles(tmp_path: Path) -> None:
    source = {"files": "log.csv"}
    job = small_run.small_job(tmp_path, prepare={"source": source}, finetune={})
    folder = RunFolder.of(job.storage, job.name)
    small_run.write_prepared(job, folder)
    (folder.prepare / "attributes").remove()
    bare = {**small_run.profile(), "per_day": {"day": [], "count": []},
            "ratings": {"value": [], "count": []}, "warnings": []}  # fmt: skip
    (folder.prepare / "profile.json").write_json(bare)
    _, page = page_of(job)
    labels = [a["aria-label"] for tag, a in page.tags if tag == "svg"]
    assert labels == ["History lengths", "Popularity of items"]
    assert page.items.count("i1 rated 2") == 1  # ann
    assert page.items.count("i1 held out rated 2") == 1  # bob
    assert "1970" not in page.text


def test_secrets_are_hidden(tmp_path: Path) -> None:
    job = small_run.small_job(tmp_path)
    folder = RunFolder.of(job.storage, job.name)
    small_run.write_all(job, folder)
    values = yaml.safe_load(dump_job(job))
    values["storage"] = "s3://robot:hunter2@bucket/runs"
    values["extra"] = {"aws_secret_access_key": "hunter3", "endpoint": "https://x/?token=hunter4"}
    folder.job.write_text(yaml.safe_dump(values))
    warned = {**small_run.profile(), "warnings": ["read from s3://robot:hunter5@bucket/log"]}
    (folder.prepare / "profile.json").write_json(warned)
    html, page = page_of(job)
    assert "hunter" not in html and "robot" not in html
    assert "storage: s3://•••@bucket/runs" in page.text
    assert "aws_secret_access_key: •••" in page.text
    assert "read from s3://•••@bucket/log" in page.text


def _between(text: str, left: str, right: str) -> list[str]:
    return [part.split(right)[0] for part in text.split(left)[1:]]
