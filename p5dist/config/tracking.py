"""The ``tracking`` section: where metrics are logged in addition to the run folder. Its settings do
not change the results of a run."""

from __future__ import annotations

from p5dist.config.base import Section


class Tracking(Section):
    """An experiment tracker."""

    mlflow: str | None = None
    """Tracking URI of MLflow (http://…, sqlite:///…), which needs p5dist's extra mlflow; left
    empty: no tracking."""
    experiment: str = "p5dist"
    """Name of the experiment in MLflow."""
