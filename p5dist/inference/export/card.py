"""The model card of an export, as model hubs expect it: front matter, then text."""

from __future__ import annotations

from typing import Any

import yaml

from p5dist import __version__
from p5dist.config import RunConfig
from p5dist.data.manifest import Manifest
from p5dist.storage import RunFolder


def model_card(
    job: RunConfig,
    folder: RunFolder,
    manifest: Manifest,
    stage: str,
    step: int,
    licence: str | None,
) -> str:
    """What the model is, what it was trained on, and what was measured.

    Args:
        licence: identifier such as ``apache-2.0``; left out: ``unknown``.
    """
    front = {
        "license": licence or "unknown", "library_name": "p5dist", "tags": ["recommender-system"],
        "model_name": job.name,
    }  # fmt: skip
    training = job.trainings()[stage]
    evaluated = folder.evaluate / "result.json"
    result = evaluated.read_json() if evaluated.exists() else None
    lines = [
        f"# {job.name}", "",
        f"Recommends items from the history of a user: stage `{stage}` after {step:,} steps "
        f"({training.learned.kind}, {job.model.encoder.kind} encoder, dim {job.model.dim}), "
        f"made with p5dist {__version__}.", "",
        "## Data", "",
        f"{manifest.rows_kept:,} interactions of {manifest.users:,} users with "
        f"{manifest.items:,} items; {sum(manifest.rows_rejected.values()):,} rows were rejected. "
        f"Split: {manifest.split or 'none'}.", "",
        "## Measured", "", *_metrics(result),
        "## Limits", "",
        "- A user is one of whom nothing but the history is known: rows of users and user "
        "attributes are not exported.",
        "- Items that training has never seen have a vector only if the model reads attributes.",
    ]  # fmt: skip
    share, returns = (((result or {}).get("protocol") or {}).get(f"ranking_{name}")
                      for name in ("item_to_item", "returns"))  # fmt: skip
    if share or returns:
        counts = f"item-to-item counts (share {share:g})" if share else "counts of returns"
        lines.append(
            f"- The run mixes the model with {counts}; the export is the model alone, and the "
            "figures above are those of the mixture."
        )
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n" + "\n".join(lines) + "\n"


def _metrics(result: dict[str, Any] | None) -> list[str]:
    if result is None:
        return ["The run was not evaluated.", ""]
    protocol = result.get("protocol", {})
    said = ", ".join(
        f"{name} {protocol[name]}" for name in ("split", "targets", "mask_seen") if name in protocol
    )
    rows = [f"| {name} | {metric['value']:.4f} |" for name, metric in result["metrics"].items()]
    return [
        f"Exact ranking over all items ({said}).", "", "| metric | value |", "|---|---|", *rows, "",
    ]  # fmt: skip
