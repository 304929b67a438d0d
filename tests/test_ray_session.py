"""A Ray cluster that does not answer, or does not start."""

from __future__ import annotations

import pytest
import ray

from p5dist.config.scale import Scale
from p5dist.errors import ResourceError
from p5dist.ray_session import connect
from tests.s3 import free_port


@pytest.mark.parametrize(
    ("address", "failure"),
    [
        ("127.0.0.1:{port}", None),
        ("ray://127.0.0.1:{port}", None),
        ("auto", TimeoutError("timed out after 5 s\nat a place in Ray")),
        (None, RuntimeError("\nThe current node timed out during startup.\nmore")),
    ],
    ids=["nobody", "nobody, by client", "a time-out", "none starts here"],
)
def test_it_is_one_error(
    address: str | None, failure: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    if address is not None:
        address = address.format(port=free_port())
    if failure is not None:

        def init(**_: object) -> None:
            raise failure

        monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ResourceError) as caught:
        connect(Scale(address=address))
    message = str(caught.value)
    assert len(message.splitlines()) <= 4, message
    if address is not None:
        assert address in message
    else:
        assert "timed out during startup" in message
