"""Errors of S3 name operation, bucket, key, answer and what to check."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow.parquet as pq
import pytest

from p5dist.errors import StorageError
from p5dist.storage import Folder
from p5dist.storage.s3.filesystem import S3
from tests.s3 import KEY_ID, SECRET, Store, free_port


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Changes of the environment that the next connection sees."""
    S3.clear_instance_cache()
    yield monkeypatch
    S3.clear_instance_cache()


OPERATIONS: dict[str, tuple[Callable[[Folder], object], str]] = {
    "exists": (Folder.exists, "s3:GetObject"),
    "size": (Folder.size, "s3:GetObject"),
    "children": (Folder.children, "s3:ListBucket"),
    "read": (Folder.read_bytes, "s3:GetObject"),
    "write": (lambda f: f.write_bytes(b"1"), "s3:PutObject"),
    "write in parts": (lambda f: f.write_bytes(bytes(17 << 20)), "s3:PutObject"),
    "remove": (Folder.remove, "s3:GetObject"),
    "open": (lambda f: f.fs.open_input_file(f.path), "s3:GetObject"),
    "parquet": (lambda f: pq.ParquetFile(f.path, filesystem=f.fs), "s3:GetObject"),
    "table": (Folder.read_table, "s3:GetObject"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_denied(s3: Store, operation: str) -> None:
    act, permission = OPERATIONS[operation]
    folder = Folder.open(f"{s3.url}/a/b")
    s3.proxy.inject("deny", times=None)
    with pytest.raises(StorageError, match="denies access") as caught:
        act(folder)
    error = caught.value
    assert (error.where or "").rstrip("/") == str(folder)
    assert "403" in (error.value or "")
    assert permission in (error.fix or "") and "AWS_ACCESS_KEY_ID" in (error.fix or "")
    assert KEY_ID not in str(error) and SECRET not in str(error)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_such_bucket(s3: Store, operation: str) -> None:
    folder = Folder.open(f"{s3.url}x/a/b")
    with pytest.raises(StorageError, match="no such bucket") as caught:
        OPERATIONS[operation][0](folder)
    assert (caught.value.where or "").rstrip("/") == str(folder)
    assert "AWS_DEFAULT_REGION" in (caught.value.fix or "")


def test_no_such_bucket_asked_for_itself(s3: Store) -> None:
    with pytest.raises(StorageError, match="no such bucket"):
        Folder.open(f"{s3.url}x").exists()


def test_nobody_at_the_endpoint(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    environment.setenv("AWS_MAX_ATTEMPTS", "2")
    with pytest.raises(StorageError, match="cannot be reached") as caught:
        Folder.open("s3://b/a").exists()
    assert caught.value.where == "s3://b/a" and "AWS_ENDPOINT_URL" in (caught.value.fix or "")
    assert "head_object, 2 attempts" in caught.value.what


def test_an_endpoint_that_is_no_url(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(StorageError) as caught:
        Folder.open("s3://b/a").exists()
    assert "localhost:9000" in (caught.value.value or "")
    assert "http://" in (caught.value.fix or "")


def test_no_credentials(s3: Store, environment: pytest.MonkeyPatch) -> None:
    environment.delenv("AWS_ACCESS_KEY_ID")
    environment.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match="no credentials") as caught:
        Folder.open(f"{s3.url}/a").read_bytes()
    assert "AWS_PROFILE" in (caught.value.fix or "")


def test_a_bucket_name_that_cannot_be(s3: Store) -> None:
    with pytest.raises(StorageError) as caught:
        Folder.open("s3://no such bucket!/a").read_bytes()
    assert "Invalid bucket name" in (caught.value.value or "")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("RequestTimeTooSkewed", "clock"),
        ("ExpiredToken", "expired"),
        ("SignatureDoesNotMatch", "denies access"),
        ("PermanentRedirect", "another region"),
        ("Unheard", "refuses"),
    ],
)
def test_other_answers(s3: Store, code: str, says: str) -> None:
    body = f"<Error><Code>{code}</Code><Message>So.</Message></Error>".encode()
    # More than once: botocore itself follows a redirection to another region.
    s3.proxy.inject("answer", method="PUT", status=400, body=body, times=None)
    with pytest.raises(StorageError, match=says) as caught:
        Folder.open(f"{s3.url}/a").write_text("1")
    assert caught.value.value == f"HTTP 400 {code}: So."


def test_an_object_that_changes_while_it_is_read(s3: Store) -> None:
    file = Folder.open(f"{s3.url}/a")
    file.write_bytes(b"1" * 3_000_000)
    with file.fs.open_input_file(file.path) as stream:
        assert stream.read(10) == b"1" * 10
        file.write_bytes(b"2" * 3_000_000)
        with pytest.raises(StorageError, match="changed while it was read"):
            stream.read()


def test_a_missing_object_is_named_with_its_bucket(s3: Store) -> None:
    file = Folder.open(f"{s3.url}/a/b")
    for read in (file.read_bytes, lambda: file.fs.open_input_stream(file.path), file.read_table):
        with pytest.raises(FileNotFoundError, match=f"{s3.bucket}/a/b"):
            read()
