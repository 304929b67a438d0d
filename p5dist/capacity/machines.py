"""Machine types by name."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from p5dist.errors import ConfigError


class Machine(BaseModel):
    """Rates in 10⁹ bytes (or operations) a second and direction; memory in GiB."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: Literal["cuda", "cpu"]
    devices: int
    """Workers that a machine holds, one a device."""
    device_memory: float
    device_rate: float
    """Between a device and its memory."""
    flops: float
    """float32 operations of a device."""
    inside: float
    """Between two devices of the machine, for each device."""
    network: float
    """To other machines, for the whole machine."""
    memory: float
    storage: float
    """To object storage, for the whole machine."""


@cache
def machines() -> dict[str, Machine]:
    """All that are known."""
    text = resources.files("p5dist.capacity").joinpath("machines.yaml").read_text()
    return {name: Machine.model_validate(values) for name, values in yaml.safe_load(text).items()}


def machine(name: str) -> Machine:
    """The machine called ``name``.

    Raises:
        ConfigError: there is none.
    """
    known = machines()
    if name not in known:
        raise ConfigError(
            "no such machine", where="--machine", value=name, rule=f"one of: {', '.join(known)}",
            fix="choose the nearest, or add it to p5dist/capacity/machines.yaml",
        )  # fmt: skip
    return known[name]
