"""Every registered encoder, objective and task runs on a device: no operation mixes devices, and
none waits for values, neither forward nor backward."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.devices.placing import checks, planted, results
from tests.processes import run_distributed

NAMES = [name for name, _ in checks(Path())]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    (one,) = run_distributed(results, 1, tmp_path_factory.mktemp("kinds"))
    return dict(one)


@pytest.mark.parametrize("name", NAMES)
def test_it_stays_on_the_device_and_never_waits(name: str, found: dict[str, str]) -> None:
    assert not found[name], found[name]


def test_a_mistake_is_found(tmp_path: Path) -> None:
    (found,) = run_distributed(planted, 1, tmp_path)
    assert "DeviceMismatch" in found["mixed"] and "DeviceMismatch" in found["index"]
    assert "DataDependent" in found["waits"] and "DynamicOutputShape" in found["size"]
