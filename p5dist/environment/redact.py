"""Removes secrets from everything that is shown or written: credentials in URLs, and values under
keys such as ``password``."""

from __future__ import annotations

import itertools
import re
from typing import Any

HIDDEN = "•••"

_SECRET_WORDS = {
    "apikey", "auth", "authorization", "bearer", "credential", "credentials", "passphrase",
    "passwd", "password", "pwd", "sas", "secret", "secrets", "sig", "signature", "token",
}  # fmt: skip
_KEY_OF = {"access", "account", "api", "auth", "encryption", "private", "secret", "shared"}

# scheme://user:password@, even if the password has a slash or an @; scheme://token@
_USERINFO = re.compile(r"\b([a-z][a-z0-9+.-]*://)(?:[^\s/@:]*:\S*@|[^\s/@]+@)", re.IGNORECASE)
_ASSIGNMENT = re.compile(r"([A-Za-z][\w.-]*)(\s?=\s?)([^\s&;,]+)")
_ACCESS_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")


def is_secret_key(key: str) -> bool:
    """Whether a setting of this name holds a secret: ``aws_secret_access_key``, ``apiToken``, …

    Whole words decide: ``tokens_per_second`` is no secret.
    """
    words = re.findall(r"[a-z]+", re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", key).lower())
    pairs = itertools.pairwise(words)
    return bool(_SECRET_WORDS.intersection(words)) or any(
        second == "key" and first in _KEY_OF for first, second in pairs
    )


def redact_text(text: str) -> str:
    """``text`` without user and password of URLs, ``secret=value`` pairs and access key ids."""
    text = _USERINFO.sub(rf"\1{HIDDEN}@", text)
    text = _ASSIGNMENT.sub(_assignment, text)
    return _ACCESS_KEY_ID.sub(HIDDEN, text)


def redact(value: Any, secret: bool = False) -> Any:
    """A copy of a parsed YAML or JSON value; everything below a secret key is hidden."""
    if isinstance(value, dict):
        return {k: redact(v, secret or is_secret_key(str(k))) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(v, secret) for v in value]
    if secret and value is not None:
        return HIDDEN
    return redact_text(value) if isinstance(value, str) else value


def _assignment(match: re.Match[str]) -> str:
    key, sign, _ = match.groups()
    return f"{key}{sign}{HIDDEN}" if is_secret_key(key) else match.group()
