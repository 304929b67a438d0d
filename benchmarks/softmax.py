"""The full softmax of p5dist against PyTorch's linear_cross_entropy.

::

    python benchmarks/softmax.py [--predictions 5000] [--items 2e4] [--dim 64] [--runs 5]

Loss and both gradients from the same states and item vectors, one after the other in every run, on
a GPU if there is one; PyTorch's with and without its chunks. Equal losses are checked.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from outcome import RESULTS, circumstances, heading, write
from torch import Tensor

from p5dist.models.losses import LOG_SUM_EXP, _over

_WARM_UP = 2


def main() -> None:
    """Measure, then write the results."""
    arguments = _arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    predictions, items = arguments.predictions, int(arguments.items)
    states = torch.randn(predictions, arguments.dim, device=device, requires_grad=True)
    vectors = torch.randn(items, arguments.dim, device=device, requires_grad=True)
    target = torch.randint(0, items, (predictions,), device=device)
    works = _works(states, vectors, target)
    values = {name: float(work()) for name, work in works.items()}
    assert max(values.values()) - min(values.values()) < 1e-4 * max(values.values()), values
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in works}
    for number in range(arguments.runs + _WARM_UP):
        for name, work in works.items():
            states.grad = vectors.grad = None
            began = time.perf_counter()
            work().backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number >= _WARM_UP:
                runs[name].append({"seconds": time.perf_counter() - began})
    median = {name: statistics.median(r["seconds"] for r in found) for name, found in runs.items()}
    result = {
        "question": "full softmax: p5dist against linear_cross_entropy",
        "settings": {"predictions": predictions, "items": items, "dim": arguments.dim,
                     "threads": arguments.threads, "device": device.type},
        "better": {"seconds": "lower"},
        "median": median, "runs": runs,
        **circumstances("softmax.py", ("p5dist", "torch")),
    }  # fmt: skip
    write("softmax", result, _markdown(result), arguments.out)


def _works(states: Tensor, vectors: Tensor, target: Tensor) -> dict[str, Callable[[], Tensor]]:
    weight = states.new_ones(len(states))

    def own() -> Tensor:
        sums = _over(LOG_SUM_EXP, states, vectors, None, weight, None, None, states.dtype)
        return sums - (states * F.embedding(target, vectors)).sum()

    def library(options: Any) -> Callable[[], Tensor]:
        return lambda: F.linear_cross_entropy(
            states, vectors, target, reduction="sum", options=options
        )

    found = {"p5dist": own, "linear_cross_entropy": library(None)}
    kind = getattr(torch.nn, "LinearCrossEntropyOptions", None) or getattr(
        F, "LinearCrossEntropyOptions", None
    )
    if kind is not None:
        found["linear_cross_entropy, chunked"] = library(kind())
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predictions", type=int, default=5000)
    parser.add_argument("--items", type=float, default=2e4)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def _markdown(result: dict[str, Any]) -> str:
    settings = result["settings"]
    lines = "".join(f"| {name} | {s:.3f} |\n" for name, s in result["median"].items())
    return (
        heading("Full softmax", result)
        + f"{settings['predictions']:,} predictions, {settings['items']:,} items, dim "
        f"{settings['dim']}, {settings['threads']} thread(s), {settings['device']}: loss and "
        f"gradients, medians.\n\n| | seconds |\n|---|---|\n{lines}"
    )


if __name__ == "__main__":
    sys.exit(main())
