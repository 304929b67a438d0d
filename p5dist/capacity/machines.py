"""Machine types by name."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from p5dist.errors import ConfigError


class Machine(BaseModel):
    """Rates in 10⁹ bytes (or operations) per second and direction; memory in GiB."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: Literal["cuda", "cpu"]
    devices: int
    """Devices of the machine; one worker per device."""
    device_memory: float
    device_rate: float
    """Rate between a device and its memory."""
    flops: float
    """Rate of float32 operations of a device."""
    flops_tf32: float | None = None
    flops_bf16: float | None = None
    """Rates of products with factors in TF32 and bfloat16; left out: that of float32."""
    inside: float
    """Rate between two devices of the machine, for each device."""
    network: float
    """Rate to other machines, for the whole machine."""
    memory: float
    host: float | None = None
    """Rate between a GPU and the memory of its host; left out: device_rate."""
    storage: float
    """Rate to object storage, for the whole machine."""

    def rate_of(self, precision: str) -> float:
        """Rate of products of this ``precision`` of training."""
        rates = {"tf32": self.flops_tf32, "bf16": self.flops_bf16}
        return rates.get(precision) or self.flops


@cache
def machines() -> dict[str, Machine]:
    """All known machine types by name."""
    text = resources.files("p5dist.capacity").joinpath("machines.yaml").read_text()
    return {name: Machine.model_validate(values) for name, values in yaml.safe_load(text).items()}


def machine(name: str) -> Machine:
    """The machine called ``name``.

    Raises:
        ConfigError: no machine has this name.
    """
    known = machines()
    if name not in known:
        raise ConfigError(
            "no such machine", where="--machine", value=name, rule=f"one of: {', '.join(known)}",
            fix="choose the most similar one, or add the machine to p5dist/capacity/machines.yaml",
        )  # fmt: skip
    return known[name]
