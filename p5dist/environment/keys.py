"""Secret keys: they come from environment variables, and nothing logs or saves them."""

from __future__ import annotations

import os

from p5dist.errors import ConfigError

_SHORTEST = 16


def key_of(variable: str, where: str, of: str) -> bytes:
    """The key.

    Args:
        variable: environment variable that has it.
        where: key path of the job file, for messages.
        of: what the key is for, for messages.

    Raises:
        ConfigError: it is not set, or short enough to be guessed.
    """
    key = os.environ.get(variable, "").encode()
    if len(key) < _SHORTEST:
        raise ConfigError(
            f"the key of {of} is " + ("too short" if key else "not set"), where=where,
            value=f"environment variable {variable}",
            rule=f"at least {_SHORTEST} bytes, the same on every machine and in every run",
            fix=f"for example export {variable}=$(openssl rand -hex 32), and keep it in a vault",
        )  # fmt: skip
    return key
