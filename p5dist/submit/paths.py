"""Checks the paths and secrets of a job before it is sent to another machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from p5dist.config import RunConfig
from p5dist.config.registry import FORMATS
from p5dist.config.splits import GivenSplit
from p5dist.environment.redact import redact
from p5dist.errors import ConfigError
from p5dist.prepare.lakehouse import is_table

_PLACES = (
    ("storage",),
    ("prepare", "source", "files"),
    ("prepare", "items", "files"),
    ("prepare", "users", "files"),
    ("prepare", "vocabulary", "extend"),
    ("prepare", "continues"),
)
_DATASET = "dataset:"


def refuse_secrets(job: RunConfig) -> None:
    """Check that a job has no secrets: the cluster stores the job file and shows it on its
    dashboard.

    Raises:
        ConfigError: the job contains a secret.
    """
    values = job.model_dump(mode="json")
    for key, value in _leaves(values):
        if redact({key.rsplit(".", 1)[-1]: value}) != {key.rsplit(".", 1)[-1]: value}:
            raise ConfigError(
                "the job file contains a secret", where=key,
                rule="the cluster stores a submitted job and shows it on its dashboard",
                fix="remove the secret, and give the nodes the credentials by a role or by their "
                "environment",
            )  # fmt: skip


def portable(job: RunConfig, *, same_machine: bool, hosts: int) -> tuple[RunConfig, list[str]]:
    """The job with paths that are valid on the cluster, and warnings.

    Args:
        same_machine: the cluster runs on this machine: relative paths become absolute.
        hosts: number of machines of the cluster.

    Raises:
        ConfigError: a relative path, for a cluster on other machines.
    """
    values = job.model_dump(mode="json", exclude_unset=True) | {"storage": job.storage}
    local, fetched = [], False
    for path in _places(job):
        *above, last = path
        node: Any = values
        for part in above:
            node = (node or {}).get(part)
        if not node or node.get(last) is None:
            continue
        paths = node[last] if isinstance(node[last], list) else [node[last]]
        key = ".".join(path)
        found = [_absolute(p, key, same_machine=same_machine) for p in paths]
        node[last] = found if isinstance(node[last], list) else found[0]
        fetched = fetched or any(p.startswith(_DATASET) for p in found)
        local += [f"{key} {p}" for p in found if "://" not in p and not p.startswith(_DATASET)]
    warnings = []
    if hosts > 1 and local:
        warnings.append(
            f"every node must see the same folders (for example by NFS): {', '.join(local)}"
        )
    elif local and not same_machine:
        warnings.append(f"paths must exist on the cluster's machine: {', '.join(local)}")
    if hosts > 1 and fetched:
        warnings.append(
            "dataset:… is fetched into the cache of one node: set P5DIST_CACHE to a folder that "
            "all nodes share"
        )
    return RunConfig.model_validate(values), warnings


def _places(job: RunConfig) -> list[tuple[str, ...]]:
    """Keys of the job that hold paths."""
    no_files = [
        ("prepare", side, "files")
        for side in ("source", "items", "users")
        if (raw := getattr(job.prepare, side)) is not None and not FORMATS.find(raw.format).is_files
    ]
    found: list[tuple[str, ...]] = [place for place in _PLACES if place not in no_files]
    found += [("feed", "mix", name, "data") for name in job.feed.mix]
    if isinstance(job.prepare.split, GivenSplit):
        found += [("prepare", "split", part) for part in ("validation", "test")]
    for stage, training in job.trainings().items():
        if training.init_from is not None and training.init_from not in job.trainings():
            found.append((*stage.split("/"), "init_from"))
    return found


def _absolute(path: str, key: str, *, same_machine: bool) -> str:
    if "://" in path or path.startswith((_DATASET, "/")):
        return path
    if is_table(path):
        kind, _, place = path.partition(":")
        named = kind == "iceberg" and not place.endswith(".json")  # by a catalog
        return path if named else f"{kind}:{_absolute(place, key, same_machine=same_machine)}"
    if same_machine:
        return str(Path(path).expanduser().absolute())
    raise ConfigError(
        "a relative path is not valid on a cluster", where=key, value=path,
        rule="a URL, or the absolute path of a folder that every node sees",
        fix=f"{key}=s3://BUCKET/PREFIX, or {key}=/SHARED/FOLDER",
    )  # fmt: skip


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, below in value.items():
            yield from _leaves(below, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for below in value:
            yield from _leaves(below, key)
    else:
        yield key, value
