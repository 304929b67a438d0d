"""The exported file has the weights of the model; the safetensors package reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from p5dist.data.manifest import Manifest
from p5dist.errors import CheckpointError, ConfigError, StorageError
from p5dist.inference.export.weights import export
from p5dist.inference.vectors import Trained
from p5dist.storage import Folder, RunFolder
from p5dist.tasks.build import build_model
from tests.distributed.stages import train
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data


@pytest.mark.parametrize("average", ["null", "{decay: 0.5, every: 1}"])
def test_one_file_holds_the_model_that_workers_split(tmp_path: Path, average: str) -> None:
    job = small_job(
        tmp_path, "pretrain.steps=6", "pretrain.checkpoint={every: 3, keep: 2}", "finetune={}",
        f"pretrain.average={average}",
    )  # fmt: skip
    write_small_data(job)
    run_distributed(train, 3, job, "pretrain")
    folder = RunFolder.of(job.storage, job.name)
    model = build_model(job, "pretrain", Manifest.load(folder.prepare), torch.device("cpu"))
    expected = model.state_dict()
    Trained(job, folder, "pretrain").load(dict(expected))
    out = Folder.open(str(tmp_path / "model.safetensors"))
    made = export(job, "pretrain", out)

    found = load_file(out.path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    items = [name for name in found if "item" in name and found[name].shape[0] == 31]
    assert len(items) == 1, "the item table is one tensor"
    assert made["tensors"] == {name: list(value.shape) for name, value in found.items()}
    assert made["bytes"] == Path(out.path).stat().st_size
    with safe_open(out.path, framework="pt") as file:
        assert file.metadata()["step"] == "6"
        assert file.metadata()["stage"] == "pretrain"

    with pytest.raises(StorageError, match="already exists"):
        export(job, "pretrain", out)
    with pytest.raises(ConfigError, match="its training stages: pretrain"):
        export(job, "finetune/rating", Folder.open(str(tmp_path / "no")))
    other = Folder.open(str(tmp_path / "other.safetensors"))
    assert export(job, "pretrain", other, step=3)["step"] == 3
    assert not torch.equal(load_file(other.path)[items[0]], found[items[0]])
    with pytest.raises(CheckpointError, match=r"there are 3, 6"):
        export(job, "pretrain", Folder.open(str(tmp_path / "no")), step=5)
