"""Renders files for other schedulers from a job: KubeRay, Ray's cluster launcher on AWS, Slurm."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass
from typing import Literal

import jinja2

import p5dist
from p5dist.config import RunConfig, dump_job
from p5dist.submit.client import RAY
from p5dist.submit.paths import portable, refuse_secrets
from p5dist.submit.submission import STOP_SECONDS

Target = Literal["kuberay", "raycluster", "rayservice", "aws", "slurm"]

IMAGE = f"p5dist:{p5dist.__version__}"
_GRACE_S = STOP_SECONDS + 30
_CPUS = {False: 3.0, True: 7.0}
_MEMORY_GB = {False: 16, True: 64}
_INSTANCES = {False: "m7i.xlarge", True: "g6.2xlarge"}
_FILES = {
    "kuberay": "kuberay.yaml.j2", "raycluster": "raycluster.yaml.j2", "aws": "aws.yaml.j2",
    "slurm": "slurm.sh.j2", "rayservice": "rayservice.yaml.j2",
}  # fmt: skip


@dataclass(frozen=True)
class Group:
    """A group of equal machines, each with one worker of the job."""

    name: str
    min: int
    max: int
    cpus: int
    """CPUs of the worker, and one CPU for reading data."""
    memory_gb: int
    gpu: bool

    @property
    def store_gb(self) -> int:
        """Shared memory for Ray's object store."""
        return max(self.memory_gb // 4, 2)

    @property
    def instance(self) -> str:
        return _INSTANCES[self.gpu]


def groups(job: RunConfig) -> list[Group]:
    """The machines that the ``scale`` section asks for; with GPUs, also an autoscaled group (from
    0) of CPU machines for reading and preparing data."""
    scale = job.scale
    gpu = scale.device == "cuda"
    cpus = math.ceil(scale.cpus_per_worker or _CPUS[gpu]) + 1
    kind = "gpu" if gpu else "cpu"
    found = [
        Group(kind, scale.fewest_workers, scale.most_workers, cpus, _MEMORY_GB[gpu], gpu),
    ]
    if gpu:
        found.append(Group("cpu", 0, scale.most_workers, 4, _MEMORY_GB[False], False))
    return found


def render(target: Target, job: RunConfig, stages: tuple[str, ...] = (), image: str = IMAGE) -> str:
    """The text of the file.

    Args:
        stages: stages to run; empty: all.
        image: container image with p5dist.

    Raises:
        ConfigError: the job contains secrets or relative paths.
    """
    refuse_secrets(job)
    job, _ = portable(job, same_machine=False, hosts=1)
    address = None if target == "slurm" else "auto"
    job = job.model_copy(update={"scale": job.scale.model_copy(update={"address": address})})
    machines = groups(job)
    least, most = machines[0].min, machines[0].max
    values = {
        "name": job.name,
        "k8s_name": re.sub(r"[^a-z0-9]+", "-", job.name.lower()).strip("-")[:40],
        "job": dump_job(job, defaults=False).rstrip("\n"),
        "run": f"{job.storage.rstrip('/')}/{job.name}",
        "stages": "".join(f" {shlex.quote(stage)}" for stage in stages),
        "groups": machines,
        "group": machines[0],
        "total": sum(group.max for group in machines),
        "gpu": machines[0].gpu,
        "nodes": f"{least}-{most}" if least < most else str(most),
        "image": image,
        "ray": RAY,
        "grace": _GRACE_S,
        "stop_seconds": STOP_SECONDS,
    }
    if target in ("kuberay", "raycluster", "rayservice"):
        mounted = f"p5dist-{values['k8s_name']}" if target == "kuberay" else None
        values["spec"] = _fill("raycluster_spec.yaml.j2", values | {"job_map": mounted})
    return _fill(_FILES[target], values) + "\n"


def _fill(template: str, values: dict[str, object]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("p5dist.submit"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # YAML and shell, from the author of the job
    )
    return environment.get_template(template).render(values)
