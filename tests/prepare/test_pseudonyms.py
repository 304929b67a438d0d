"""Ids of users as pseudonyms: the same histories, and no file of the run has an id of the log."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from p5dist import pipeline
from p5dist.config import RunConfig, parse_job
from p5dist.errors import ConfigError
from tests.prepare.test_lakehouse import histories

KEY, VARIABLE = "a key of at least sixteen bytes", "P5DIST_TEST_KEY"
JOB = """
name: {name}
storage: {folder}/runs
prepare:
  source: {{files: "{folder}/log{end}", format: {form}, columns: {{timestamp: timestamp}}}}
  users: {{files: "{folder}/users.csv", id: user_id, attributes: {{city: {{}}}}}}
  clean: {{keep_rejected: true}}
  split: {{kind: leave_one_out}}
pretrain: {{steps: 1, batch_size: 64}}
evaluate: null
recommend: null
report: null
"""
USERS = [f"person-{n}@example.org" for n in range(30)]


def pseudonym(user: str) -> str:
    return hmac.new(KEY.encode(), user.encode(), hashlib.sha256).hexdigest()[:32]


def write(folder: Path) -> None:
    rows = [(USERS[(7 * n) % 30], f"i{n % 11}", n) for n in range(300)]
    rows += [("", "i1", 5), (USERS[3], "", 6), rows[0], ("NULL", "i2", 7)]
    table = pa.table(dict(zip(("user_id", "item_id", "timestamp"), zip(*rows, strict=True),
                              strict=True)))  # fmt: skip
    pq.write_table(table, folder / "log.parquet")
    lines = [",".join(map(str, row)) for row in rows]
    (folder / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n")
    cities = [f"{user},city{n % 4}" for n, user in enumerate(USERS)]
    (folder / "users.csv").write_text("\n".join(["user_id,city", *cities]) + "\n")


def job_of(folder: Path, name: str, form: str, *, secret: bool) -> RunConfig:
    keys = [f"prepare.privacy.pseudonyms={VARIABLE}"]
    text = JOB.format(folder=folder, name=name, form=form, end=f".{form}")
    return parse_job(text, keys if secret else [])


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_the_same_histories_under_other_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    write(tmp_path)
    plain, log = histories(job_of(tmp_path, "plain", form, secret=False))
    named, found = histories(job_of(tmp_path, "named", form, secret=True))
    assert found == {pseudonym(user): own for user, own in log.items()}
    assert named.rows_rejected == plain.rows_rejected
    assert named.rows_rejected["null_user"] == 2
    assert named.user_attributes == {"city": 4}
    folder = tmp_path / "runs/named/prepare"
    users = pq.read_table(folder / "vocabulary/user.parquet")["external_id"].to_pylist()
    cities = pq.read_table(folder / "attributes/user.parquet")["city"].to_pylist()
    names = pq.read_table(folder / "vocabulary/user.city.parquet")["external_id"].to_pylist()
    of_user = {user: names[own[0] - 1] for user, own in zip(users, cities, strict=True)}
    assert of_user == {pseudonym(user): f"city{n % 4}" for n, user in enumerate(USERS)}


def test_no_file_has_an_id_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    write(tmp_path)
    pipeline.run(job_of(tmp_path, "named", "csv", secret=True), ["prepare"])
    read = 0
    for file in (tmp_path / "runs").rglob("*"):
        if not file.is_file():
            continue
        text = file.read_bytes()
        if file.suffix == ".parquet":
            text = repr(pq.read_table(file).to_pydict()).encode()
            read += 1
        assert not any(user.encode() in text for user in USERS), file
        assert KEY.encode() not in text, file
    assert read > 8, "shards, vocabularies, attributes and rejected rows"


def test_a_key_that_is_not_there_or_can_be_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ConfigError, match="not set"):
        pipeline.run(job_of(tmp_path, "named", "csv", secret=True), ["prepare"])
    monkeypatch.setenv(VARIABLE, "short")
    with pytest.raises(ConfigError, match="too short"):
        pipeline.run(job_of(tmp_path, "named", "csv", secret=True), ["prepare"])
