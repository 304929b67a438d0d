"""p5dist: unified pre-training for recommender systems on Ray, TorchRec and Ray Train.

::

    import p5dist

    p5dist.run("job.yaml")                              # from the raw log to the report
    run = p5dist.load("runs/shop")                      # a finished run
    run.recommend([["a", "b"], ["c"]], k=10)            # external ids → a table

Names are imported when they are used: ``import p5dist`` loads neither PyTorch nor Ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from p5dist.config.job import Job
    from p5dist.errors import P5Error
    from p5dist.inference.loading import load
    from p5dist.inference.run import Run, Vectors
    from p5dist.pipeline import run_job as run

__all__ = ["Job", "P5Error", "Run", "Vectors", "__version__", "load", "run"]

_PLACES = {
    "Job": "p5dist.config.job:Job",
    "P5Error": "p5dist.errors:P5Error",
    "Run": "p5dist.inference.run:Run",
    "Vectors": "p5dist.inference.run:Vectors",
    "load": "p5dist.inference.loading:load",
    "run": "p5dist.pipeline:run_job",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'p5dist' has no attribute '{name}'")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
