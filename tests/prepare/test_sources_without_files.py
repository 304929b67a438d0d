"""Databases and topics give the histories that the same rows give as Parquet files."""

from __future__ import annotations

import json
import multiprocessing
import os
import pwd
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer

from p5dist.advance import next_period
from p5dist.config import RunConfig, parse_job
from p5dist.config.raw_files import Source
from p5dist.errors import ConfigError, DataError, MissingColumnError
from p5dist.prepare.formats import kafka
from p5dist.prepare.formats.kafka import Kafka
from p5dist.prepare.layout import FileRange, Layout, SourceFile
from p5dist.prepare.passes import Passes
from tests.prepare.test_lakehouse import Log, histories, prepared, rows

JOB = """
name: {name}
storage: {folder}/runs
prepare:
  source: {{files: {files}, format: {form}, connection: {variable}, columns: {{timestamp: timestamp}}}}
  split: {{kind: time, test: 1970-01-01T00:13:20Z}}
  vocabulary: {{of: all}}
feed: {{lanes: 2}}
evaluate: null
recommend: null
report: null
"""  # noqa: E501
VARIABLE = "P5DIST_TEST_CONNECTION"


def job_of(folder: Path, name: str, form: str, files: list[str]) -> RunConfig:
    text = JOB.format(
        folder=folder, name=name, form=form, files=json.dumps(files), variable=VARIABLE
    )
    return parse_job(text)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """Histories of the log as a Parquet file."""
    folder = tmp_path_factory.mktemp("plain")
    pq.write_table(rows(0, 1000), folder / "log.parquet")
    return prepared(folder, "plain", f"{folder}/log.parquet")[1]


def insert(database: Any, mark: str, log: pa.Table, *, create: bool) -> None:
    cursor = database.cursor()
    if create:
        cursor.execute(
            "CREATE TABLE log (user_id bigint, item_id text, timestamp bigint, day text)"
        )
    values = [tuple(row.values()) for row in log.to_pylist()]
    cursor.executemany(f"INSERT INTO log VALUES ({', '.join([mark] * 4)})", values)
    database.commit()


def test_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: Log) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as database:
        insert(database, "?", rows(0, 1000), create=True)
    monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path}/shop.db")
    queries = [f"SELECT * FROM log WHERE user_id % 2 = {n}" for n in (0, 1)]
    manifest, found = histories(job_of(tmp_path, "halves", "sql", queries))
    assert found == expected
    assert [file.url for file in manifest.inputs] == queries
    assert sum(file.bytes for file in manifest.inputs) == manifest.rows_in == 1000
    text = (tmp_path / "runs/halves/job.yaml").read_text()
    assert "shop.db" not in text and VARIABLE in text


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        ("SELECT * FROM nothing", DataError, "does not answer"),
        ("SELECT user_id, item_id FROM log", MissingColumnError, "timestamp"),
        ("SELECT 1;", DataError, "does not answer"),
    ],
)
def test_wrong_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str, error: type, message: str
) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as database:
        insert(database, "?", rows(0, 10), create=True)
    monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path}/shop.db")
    with pytest.raises(error, match=message):
        histories(job_of(tmp_path, "wrong", "sql", [query]))
    assert not (tmp_path / "runs/wrong/prepare/manifest.json").exists()


def test_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ConfigError, match="not set"):
        histories(job_of(tmp_path, "none", "sql", ["SELECT 1"]))
    monkeypatch.setenv(VARIABLE, "mysql://u:secret@host/x")
    with pytest.raises(ConfigError, match="no driver") as told:
        histories(job_of(tmp_path, "none", "sql", ["SELECT 1"]))
    assert "secret" not in str(told.value)
    with pytest.raises(ConfigError, match="connection is needed"):
        parse_job("name: x\nprepare: {source: {files: q, format: sql}}\npretrain: {steps: 1}")
    with pytest.raises(ConfigError, match="connection is not for"):
        parse_job("name: x\nprepare: {source: {files: q, connection: A}}\npretrain: {steps: 1}")


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server of its own."""
    program = shutil.which("postgres")
    if program is None:
        pytest.skip("PostgreSQL is not installed")
    bin_, folder = Path(program).resolve().parent, Path(tempfile.mkdtemp(prefix="postgres-"))
    user: dict[str, Any] = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("there is no user postgres")
        shutil.chown(folder, "postgres")
        user = {"user": "postgres"}
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **user}
    made = [str(bin_ / "initdb"), "-D", str(folder / "data"), "-A", "trust", "-U", "shop"]
    subprocess.run(made, check=True, cwd="/", **quiet)
    words = ["-D", str(folder / "data"), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)]
    server = subprocess.Popen([str(bin_ / "postgres"), *words], cwd="/", **quiet)
    url = f"postgresql://shop@127.0.0.1:{port}/postgres"
    try:
        yield url
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def test_postgresql(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    postgres: str,
    expected: Log,
) -> None:
    from adbc_driver_postgresql import dbapi

    for _ in range(100):
        try:
            database = dbapi.connect(postgres)
            break
        except dbapi.Error:
            time.sleep(0.2)
    with database:
        insert(database, "$1", rows(0, 0), create=True)
        with database.cursor() as cursor:
            cursor.adbc_ingest("log", rows(0, 1000), mode="append")
        database.commit()
    monkeypatch.setenv(VARIABLE, postgres)
    query = "SELECT user_id, item_id, timestamp FROM log WHERE user_id > 0"
    _, found = histories(job_of(tmp_path, "postgres", "sql", [query]))
    assert found == expected


class Topic:
    """A topic of a Kafka cluster inside of this process, which librdkafka has for tests: it speaks
    the protocol over TCP."""

    def __init__(self, partitions: int) -> None:
        self.name, self.partitions = "events", partitions
        self.producer = Producer({"test.mock.num.brokers": 1})
        brokers = self.producer.list_topics(timeout=10).brokers.values()
        self.servers = ",".join(f"{b.host}:{b.port}" for b in brokers)

    def send(self, log: pa.Table) -> None:
        for row in log.to_pylist():
            self.write(json.dumps(row, indent=1), row["user_id"])
        self.producer.flush()

    def write(self, value: str | None, user: int) -> None:
        self.producer.produce(self.name, value=value, partition=user % self.partitions)
        self.producer.poll(0)


def test_kafka(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: Log) -> None:
    topic = Topic(2)
    topic.send(rows(0, 1000))
    topic.write("no json", 1)
    topic.write(None, 1)
    topic.producer.flush()
    monkeypatch.setenv(VARIABLE, json.dumps({"bootstrap.servers": topic.servers}))
    job = job_of(tmp_path, "topic", "kafka", ["events"])
    manifest, found = histories(job)
    assert found == expected
    assert manifest.rows_in == 1002 and manifest.rows_rejected == {"malformed": 2}
    places = [file.url for file in manifest.inputs if file.bytes]
    odd = sum(1 for user in rows(0, 1000)["user_id"].to_pylist() if user % 2)
    assert places == [f"kafka:events/0/0-{1000 - odd}", f"kafka:events/1/0-{odd + 2}"]
    assert next_period(job) is None
    topic.send(rows(1000, 1200))
    period = next_period(job)
    assert period is not None
    assert histories(period.job)[0].rows_in == 200


def test_kafka_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p5dist.prepare.formats.kafka._ANSWER_S", 1.0)
    monkeypatch.setenv(VARIABLE, json.dumps({"bootstrap.servers": "127.0.0.1:1"}))
    with pytest.raises(DataError, match="Kafka does not answer"):
        histories(job_of(tmp_path, "down", "kafka", ["events"]))
    monkeypatch.setenv(VARIABLE, "host:9092")
    with pytest.raises(ConfigError, match="not settings of a Kafka client"):
        histories(job_of(tmp_path, "down", "kafka", ["events"]))


def serve_topic(servers: Any, log: pa.Table) -> None:
    topic = Topic(2)
    topic.send(log)
    servers.send(topic.servers)
    servers.recv()


class Broker:
    """A topic in a process of its own, which a test can kill."""

    def __init__(self, log: pa.Table) -> None:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        self.process = context.Process(target=serve_topic, args=(there, log), daemon=True)
        self.process.start()
        self.pipe = here
        small = {"queued.max.messages.kbytes": 10, "fetch.message.max.bytes": 2000}
        self.settings = json.dumps({"bootstrap.servers": here.recv(), **small})

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def part_of(form: Kafka, end: int) -> FileRange:
    return FileRange(SourceFile(f"kafka:events/0/0-{end}", end, ("user_id", "item_id")), 0, end)


def test_a_broker_that_stops_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker(rows(0, 50_000))  # more than the client asks for at once
    monkeypatch.setattr(kafka, "_SILENCE_S", 2.0)
    monkeypatch.setattr(kafka, "_AT_ONCE", 10)
    monkeypatch.setenv(VARIABLE, broker.settings)
    source = {"files": "events", "format": "kafka", "connection": VARIABLE}
    form = Kafka(Layout.of_log(Source.model_validate(source)))
    tables = form.read(part_of(form, 24_000))
    assert len(next(tables)[0]) == 10
    broker.kill()
    with pytest.raises(DataError, match="no message for 2 s"):
        list(tables)


def test_a_topic_that_is_shorter_than_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    topic = Topic(2)
    topic.send(rows(0, 100))
    monkeypatch.setenv(VARIABLE, json.dumps({"bootstrap.servers": topic.servers}))
    source = {"files": "events", "format": "kafka", "connection": VARIABLE}
    form = Kafka(Layout.of_log(Source.model_validate(source)))
    with pytest.raises(DataError, match="not there any more"):
        list(form.read(part_of(form, 900)))


@pytest.mark.slow
def test_prepare_with_a_broker_that_stops_has_written_nothing_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: Log
) -> None:
    first = Broker(rows(0, 1000))
    monkeypatch.setenv(VARIABLE, first.settings)
    job = job_of(tmp_path, "stopped", "kafka", ["events"])
    real = Passes.read

    def read(self: Passes) -> Any:
        first.kill()
        return real(self)

    with monkeypatch.context() as killing:
        killing.setattr(Passes, "read", read)
        with pytest.raises(DataError, match="no message for 60 s"):
            histories(job)
    assert not (tmp_path / "runs/stopped/prepare/manifest.json").exists()
    second = Broker(rows(0, 1000))
    monkeypatch.setenv(VARIABLE, second.settings)
    manifest, found = histories(job)
    assert found == expected and manifest.rows_in == 1000
    second.kill()


def test_messages_that_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = Topic(1)
    topic.send(rows(0, 20))
    monkeypatch.setenv(VARIABLE, json.dumps({"bootstrap.servers": topic.servers}))
    with pytest.raises(DataError, match="not there any more"):
        histories(job_of(tmp_path, "gone", "kafka", ["kafka:events/0/0-500"]))
