"""Which values count as secrets."""

from __future__ import annotations

import pytest

from p5dist.environment.redact import HIDDEN, is_secret_key, redact, redact_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:secret@bucket/a", "s3://•••@bucket/a"),
        ("s3://key:se/cr@t@bucket/a", "s3://•••@bucket/a"),
        ("https://ghp_abc@host/a and ftp://u:p@h", "https://•••@host/a and ftp://•••@h"),
        ("https://h/a?x=1&X-Amz-Signature=abc&y=2", "https://h/a?x=1&X-Amz-Signature=•••&y=2"),
        ("AWS_SECRET_ACCESS_KEY=abc in the environment",
         "AWS_SECRET_ACCESS_KEY=••• in the environment"),
        ("id AKIAABCDEFGHIJKLMNOP", "id •••"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("write to someone@example.org", "write to someone@example.org"),
        ("lr=0.1", "lr=0.1"),
    ],
)  # fmt: skip
def test_text(text: str, shown: str) -> None:
    assert redact_text(text) == shown


@pytest.mark.parametrize(
    "key", ["password", "DB_PASSWORD", "apiToken", "api_key", "aws_access_key_id", "client-secret"]
)
def test_secret_keys(key: str) -> None:
    assert is_secret_key(key)


@pytest.mark.parametrize("key", ["tokens_per_second", "key", "storage", "user_id", "author"])
def test_ordinary_keys(key: str) -> None:
    assert not is_secret_key(key)


def test_values_below_a_secret_key() -> None:
    values = {"secrets": {"a": 1, "b": [2, None]}, "name": "x", "lr": 0.1, "on": True}
    hidden = {"a": HIDDEN, "b": [HIDDEN, None]}
    assert redact(values) == {"secrets": hidden, "name": "x", "lr": 0.1, "on": True}
