"""After ``p5dist forget``, no file of a run has anything of the people, and all else stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from p5dist import pipeline
from p5dist.checkpoint.checkpoints import Checkpoints
from p5dist.checkpoint.pieces import Piece
from p5dist.config import RunConfig, parse_job
from p5dist.data.manifest import Manifest
from p5dist.errors import ShardError
from p5dist.forgetting import forget as forgetting
from p5dist.forgetting import prepared
from p5dist.inference.loading import load
from p5dist.observe.stages import progress
from p5dist.storage import RunFolder

JOB = """
name: shop
storage: {folder}/runs
prepare:
  source:
    files: {folder}/log.csv
    columns: {{timestamp: timestamp, rating: rating, context: {{device: {{}}}}}}
  users:
    files: {folder}/users.csv
    id: user_id
    attributes: {{city: {{}}, note: {{kind: text}}}}
  clean: {{keep_rejected: true}}
  split: {{kind: leave_one_out}}
  vocabulary: {{of: all}}
feed: {{lanes: 4}}
model: {{dim: 8, encoder: {{layers: 1, heads: 1}}, user_attributes: [city]}}
pretrain: {{steps: 4, batch_size: 16, validation: null}}
finetune: {{stars: {{task: {{kind: rating}}, steps: 4, batch_size: 16, validation: null}}}}
ranking: {{item_to_item: 0.5, returns: false}}
recommend: {{users: {folder}/named.txt}}
scale: {{workers: 1}}
"""
USERS = [f"person-{n}@example.org" for n in range(40)]
GONE = [USERS[3], USERS[17]]
OWN = ["Annstown", "likes tea", "Ann's phone"]
"""Values that nobody else has."""


def write(folder: Path, users: list[str] = USERS) -> RunConfig:
    lines = ["user_id,item_id,timestamp,rating,device"]
    for n, user in enumerate(USERS):
        if user not in users:
            continue
        device = "Ann's phone" if n == 3 else f"device {n % 3}"
        items = 4 + n % 5
        for i in range(items):
            lines.append(f"{user},i{(n * 3 + i) % 15},{1000 * n + i},{1 + (n + i) % 5},{device}")
        lines += [lines[-1], f"{user},i1,never,3,{device}"]  # a duplicate, and a bad time
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    about = ["user_id,city,note"]
    for n, user in enumerate(USERS):
        if user in users:
            about.append(f"{user},Annstown,likes tea" if n == 3 else f"{user},city {n % 4},none")
    (folder / "users.csv").write_text("\n".join(about) + "\n")
    (folder / "named.txt").write_text("\n".join([*USERS, "somebody@example.org"]) + "\n")
    (folder / "gone.txt").write_text("\n".join([*GONE, "somebody@example.org"]) + "\n")
    return parse_job(JOB.format(folder=folder))


def everything(root: Path) -> dict[str, str]:
    """The text of every file; of Parquet the values."""
    found = {}
    for file in sorted(root.rglob("*")):
        if file.is_file():
            data = file.read_bytes()
            if file.suffix == ".parquet":
                data = repr(pq.read_table(file).to_pydict()).encode() + data
            found[str(file.relative_to(root))] = data.decode(errors="replace")
    return found


def having(root: Path, words: list[str]) -> list[str]:
    return [name for name, text in everything(root).items() if any(w in text for w in words)]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path, dict[str, Any]]:
    """A whole run, as it was and after two people left it: the job, its folder, what was said."""
    folder = tmp_path_factory.mktemp("shop")
    job = write(folder)
    pipeline.run(job, [])
    profile = folder / "runs/shop/prepare/profile.json"
    about = json.loads(profile.read_text())
    about["warnings"] += [f"user '{GONE[0]}' has 40% of all interactions", "of nobody"]
    profile.write_text(json.dumps(about))
    audit = folder / "runs/shop/evaluate/result.json"
    result = json.loads(audit.read_text())
    result["audit"][0]["examples"] = [f"user {GONE[1]}, item i1, 1970", f"user {USERS[5]}, item i2"]
    audit.write_text(json.dumps(result))
    before = having(folder / "runs", [*GONE, "somebody@example.org", *OWN])
    said = forgetting.forget(job, str(folder / "gone.txt"))
    return job, folder, {"said": said, "before": before}


def test_no_file_has_a_trace(ran: tuple[RunConfig, Path, dict[str, Any]]) -> None:
    _, folder, found = ran
    for name in (
        "prepare/vocabulary/user.parquet", "prepare/vocabulary/user.city.parquet",
        "prepare/vocabulary/context.device.parquet", "prepare/attributes/user.parquet",
        "prepare/profile.json", "evaluate/result.json", "recommend/result.json",
    ):  # fmt: skip
        assert f"shop/{name}" in found["before"], "planted, or the test proves nothing"
    assert any(name.startswith("shop/prepare/rejected/") for name in found["before"])
    assert having(folder / "runs", [*GONE, "somebody@example.org", *OWN]) == []
    others = [user for user in USERS if user not in GONE]
    text = everything(folder / "runs/shop")
    for name in ("prepare/vocabulary/user.parquet", "recommend/part-00000.parquet"):
        assert all(user in text[name] for user in others), "the others are still there"
    assert "of nobody" in text["prepare/profile.json"]
    assert f"user {USERS[5]}, item i2" in text["evaluate/result.json"]


def test_what_was_said_and_recorded(ran: tuple[RunConfig, Path, dict[str, Any]]) -> None:
    _, folder, found = ran
    about = found["said"]["runs"]["shop"]
    # Person 3 has 4 + 3 interactions, person 17 has 4 + 2; a target and a list each; a row of the
    # user table with its optimizer's, of two people.
    wanted = {"users": 2, "interactions": 13, "targets": 2, "lists": 2, "user_rows": 4}
    assert {name: about[name] for name in wanted} == wanted
    (record,) = json.loads((folder / "runs/shop/forgotten.json").read_text())
    assert record["named"] == 3 and record["interactions"] == 13
    assert [one["stage"] for one in record["models"]] == ["pretrain", "finetune/stars"]
    lines = forgetting.in_words(found["said"])
    assert any("pretrain: has trained on them from step" in line for line in lines)


def test_rows_of_users_in_checkpoints_are_zero(
    ran: tuple[RunConfig, Path, dict[str, Any]],
) -> None:
    _, folder, _ = ran
    run = RunFolder.of(str(folder / "runs"), "shop")
    users = (run.prepare / "vocabulary/user.parquet").read_table()["external_id"].to_pylist()
    gone = [n + 1 for n, name in enumerate(users) if name is None]
    assert len(gone) == 2
    checkpoint = Checkpoints(run.training("finetune/stars") / "checkpoints").require()
    name, shape = next(
        (entry.name, entry.shape)
        for _, entry in checkpoint.entries()
        if entry.name.startswith("model.") and ".embedding_bags.user.weight" in entry.name
    )
    values = torch.full(shape, float("nan"))
    checkpoint.load({name: [Piece(name, shape, (0, 0), values)]})
    zero = (values == 0).all(dim=1).nonzero().flatten().tolist()
    assert set(gone) <= set(zero) and len(zero) < len(users) / 2


def test_the_run_goes_on(ran: tuple[RunConfig, Path, dict[str, Any]]) -> None:
    job, folder, _ = ran
    states = {step.stage: step.state for step in progress(job, RunFolder.of_job(job), [])}
    assert states.pop("report") == "to do"
    assert set(states.values()) == {"complete"}, "neither data nor models are made again"
    others = [user for user in USERS if user not in GONE]
    (folder / "named.txt").write_text("\n".join(others) + "\n")
    more = parse_job(JOB.format(folder=folder), ["recommend.k=3", "evaluate.k=[5]"])
    pipeline.run(more, [])
    assert having(folder / "runs", [*GONE, *OWN]) == []
    lists = pq.read_table(folder / "runs/shop/recommend/part-00000.parquet")
    assert set(lists["user_id"].to_pylist()) == set(others)
    loaded = load(str(folder / "runs/shop"))
    assert len(loaded.recommend([["i1", "i2"]], k=2)) == 2


def test_the_manifest_is_that_of_a_log_without_them(tmp_path: Path) -> None:
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    job = write(tmp_path / "with")
    others = [user for user in USERS if user not in GONE]
    pipeline.run(job, ["prepare"])
    before = Manifest.load(RunFolder.of_job(job).prepare)
    forgetting.forget(job, str(tmp_path / "with/gone.txt"))
    less = write(tmp_path / "without", others)
    pipeline.run(less, ["prepare"])
    found, wanted = (Manifest.load(RunFolder.of_job(one).prepare) for one in (job, less))
    assert found.targets == wanted.targets
    assert found.rows_by_split == wanted.rows_by_split
    assert found.users_by_split == wanted.users_by_split
    assert found.rows_kept == wanted.rows_kept == before.rows_kept - 13
    assert found.rows_in == found.rows_kept + sum(found.rows_rejected.values())
    assert found.rows_rejected["forgotten"] == 13 and found.forgotten == 2
    assert not before.emptied and found.emptied
    assert [shard.groups for shard in found.shards] == [shard.groups for shard in before.shards]

    def counts(one: RunConfig) -> dict[str, int]:
        table = (RunFolder.of_job(one).prepare / "vocabulary/item.parquet").read_table()
        return dict(zip(*(table[n].to_pylist() for n in ("external_id", "count")), strict=True))

    assert counts(job) == counts(less)


def test_a_killed_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = write(tmp_path)
    pipeline.run(job, ["prepare"])
    folder = RunFolder.of_job(job)
    real, moved = prepared.finish, []

    def killed(prepare: Any) -> None:
        manifest = Manifest.read(prepare, unfinished=True)
        if manifest.pending and not moved:
            name = manifest.pending[0]
            prepare.fs.move(f"{prepare.path}/{name}.new", f"{prepare.path}/{name}")
            moved.append(name)
            raise KeyboardInterrupt
        real(prepare)

    monkeypatch.setattr(prepared, "finish", killed)
    monkeypatch.setattr(forgetting, "finish", killed)
    with pytest.raises(KeyboardInterrupt):
        forgetting.forget(job, str(tmp_path / "gone.txt"))
    assert moved
    with pytest.raises(ShardError, match="are being removed"):
        Manifest.read(folder.prepare)
    forgetting.forget(job, str(tmp_path / "gone.txt"))
    manifest = Manifest.load(folder.prepare)
    assert manifest.rows_rejected["forgotten"] == 13, "counted once"
    assert having(tmp_path / "runs", [*GONE, *OWN]) == []


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    job = write(tmp_path)
    pipeline.run(job, ["prepare"])
    before = everything(tmp_path / "runs")
    said = forgetting.forget(job, str(tmp_path / "gone.txt"), dry_run=True)
    assert said["runs"]["shop"]["users"] == 2
    assert everything(tmp_path / "runs") == before
