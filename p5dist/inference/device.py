"""The device that scores."""

from __future__ import annotations

import torch

from p5dist.config.scale import Scale
from p5dist.errors import ResourceError


def scoring_device(scale: Scale) -> torch.device:
    """The GPU that this process sees, unless ``scale.device`` is cpu; else the CPU.

    Raises:
        ResourceError: ``scale.device`` is cuda and there is no GPU.
    """
    if scale.device != "cpu" and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if scale.device == "cuda":
        raise ResourceError(
            "no GPU to score with", where="scale.device", value="cuda",
            rule="PyTorch sees a GPU in the scoring process",
            fix="run where there is one, or set scale.device to auto or cpu",
        )  # fmt: skip
    return torch.device("cpu")
