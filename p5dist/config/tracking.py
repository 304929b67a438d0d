"""The ``tracking`` section: where numbers go beside the run folder. Nothing here changes a run."""

from __future__ import annotations

from p5dist.config.base import Section


class Tracking(Section):
    """An experiment tracker."""

    mlflow: str | None = None
    """Tracking URI of MLflow (http://…, sqlite:///…), which needs p5dist's extra mlflow; left
    empty: none."""
    experiment: str = "p5dist"
