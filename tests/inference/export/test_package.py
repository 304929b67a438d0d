"""Folders that serve a run without p5dist: torch.export, ONNX and FAISS against the run itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import p5dist
from p5dist.config import RunConfig, dump_job
from p5dist.data.jagged import Jagged
from p5dist.errors import ConfigError, StorageError
from p5dist.inference.export.encoder import UserEncoder, padded, traced
from p5dist.inference.export.index import Asked, build, export_index, measure, widen
from p5dist.inference.export.package import export_package
from p5dist.storage import Folder
from tests.distributed.stages import train
from tests.inference.test_scorer import scorer
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data

DOCS = Path(__file__).parents[3] / "docs" / "tutorials" / "export.md"
MODELS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "transformer": ((), ("rating",)),
    "masked": (("pretrain.objective={kind: masked}",), ("rating",)),
    "masked hstu": (
        ("pretrain.objective={kind: masked}", "model.encoder={kind: hstu}"),
        ("timestamp", "rating"),
    ),
    "hstu": (("model.encoder={kind: hstu}",), ("timestamp", "rating")),
    "rotary": (("model.encoder={positions: rotary}",), ("rating",)),
    "skip_gram": (("pretrain.objective={kind: skip_gram}",), ("rating",)),
    "mean": (("model.encoder={kind: mean, last: 3}",), ("rating",)),
    "everything": (
        (
            "model.encoder={positions: learned_from_end, time_intervals: true}",
            "model.inputs={time_gap: true, calendar: true, event: true, user_id: false}",
            "model.cosine_temperature=0.1",
        ),
        ("timestamp", "event"),
    ),
}
"""Settings, and what the model reads."""


@pytest.mark.parametrize("name", MODELS)
def test_the_traced_encoder_has_the_vectors_of_the_model(name: str, tmp_path: Path) -> None:
    settings, columns = MODELS[name]
    live, histories = scorer(tmp_path, "pretrain", *settings)
    expected = live.user_vectors(histories)
    encoder = UserEncoder(live, columns)
    program = traced(encoder).module()
    for chosen in (np.arange(len(histories)), np.asarray([3])):
        given = padded(histories.take(chosen), columns, encoder.max_length)
        with torch.no_grad():
            found = program(*given)
        assert torch.allclose(found, expected[chosen], rtol=1e-5, atol=1e-6)
    nothing = padded(histories.where(np.zeros(len(histories.item), bool)), columns, 8)
    with torch.no_grad():
        empty = program(*nothing)
    assert bool(empty.any()) == name.startswith("masked")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    job = small_job(
        tmp_path_factory.mktemp("run"), "finetune={}", "prepare.items.title=title",
        "model.inputs={rating: false}", "pretrain.steps=10",
    )  # fmt: skip
    folder = write_small_data(job)
    folder.job.write_text(dump_job(job))
    run_distributed(train, 1, job, "pretrain")
    return job


def test_the_program_in_the_docs_recommends_as_the_run_does(run: RunConfig, tmp_path: Path) -> None:
    out = Folder.open(str(tmp_path / "out"))
    made = export_package(run, None, out, form="torch", licence="apache-2.0")
    assert made["difference"] < 1e-5
    assert made["files"] == [
        "README.md", "config.json", "items.parquet", "items.safetensors", "user_encoder.pt2"
    ]  # fmt: skip
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.S)
    program = tmp_path / "serve.py"
    program.write_text("import sys\nsys.modules['p5dist'] = None\n" + code)  # it cannot be imported
    done = subprocess.run(
        [sys.executable, str(program), out.path, "i3", "i9", "unknown", "i4"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [line.split("\t") for line in done.stdout.splitlines()]
    table = p5dist.load(f"{run.storage}/small").recommend([["i3", "i9", "i4"]], k=10)
    assert [item for item, _ in found] == table["item_id"].to_pylist()
    assert [float(s) for _, s in found] == pytest.approx(table["score"].to_pylist(), abs=1e-3)
    card = Path(out.path, "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n") and "was not evaluated" in card
    config = json.loads(Path(out.path, "config.json").read_text())
    assert config["inputs"] == ["item", "length"] and config["max_length"] == 8
    with pytest.raises(StorageError, match="has files"):
        export_package(run, None, out, form="torch")


def test_onnx_gives_the_same_vectors(run: RunConfig, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    out = Folder.open(str(tmp_path / "out"))
    made = export_package(run, None, out, form="onnx")
    assert "user_encoder.onnx" in made["files"] and made["difference"] < 1e-5


def test_an_index_says_how_good_it_is(run: RunConfig, tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    out = Folder.open(str(tmp_path / "out"))
    made = export_index(run, None, out, kind="hnsw")
    assert made["recall@10"] == 1.0 and made["items"] == 30 and made["ef_search"] == 64
    assert made["ndcg@10"] == made["exact_ndcg@10"] > 0
    index = faiss.read_index(str(Path(out.path, "index.faiss")))
    vectors = load_file(Path(out.path, "items.safetensors"))["vectors"].numpy()
    query = np.append(vectors[4] + 1, 0).astype(np.float32)[None]
    _, ids = index.search(query, 5)
    known = pq.read_table(Path(out.path, "items.parquet"))["id"].to_pylist()
    order = sorted(known, key=lambda i: -float(vectors[i - 1] @ query[0, :-1]))
    assert ids[0].tolist() == order[:5]
    with pytest.raises(ConfigError, match="no stage that ranks"):
        export_index(run, "finetune/rating", Folder.open(str(tmp_path / "no")), kind="flat")


def test_a_graph_is_searched_until_its_recall_is_enough() -> None:
    """Of vectors without any structure, of which a graph finds few."""
    faiss = pytest.importorskip("faiss")
    rng = np.random.default_rng(1)
    vectors, ids = rng.normal(size=(6000, 48)).astype(np.float32), np.arange(1, 6001)
    queries = rng.normal(size=(100, 48)).astype(np.float32)
    index, _ = build(vectors, ids, "hnsw")
    asked = Asked(queries)
    before = measure(index, vectors, ids, asked, longer=True)["recall@10"]
    candidates = widen(index, vectors, ids, queries)
    written = faiss.deserialize_index(faiss.serialize_index(index))
    after = measure(written, vectors, ids, asked, longer=True)["recall@10"]
    assert before < 0.95 <= after and candidates > 64


@pytest.mark.parametrize("kind", ["flat", "int8", "hnsw", "ivfpq"])
def test_recall_is_measured_against_exact_search(kind: Any) -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, 16))
    vectors = centres[rng.integers(0, 50, 12_000)] + 0.3 * rng.normal(size=(12_000, 16))
    vectors = vectors.astype(np.float32) * rng.uniform(0.5, 2, (12_000, 1)).astype(np.float32)
    queries = centres[rng.integers(0, 50, 300)].astype(np.float32)
    index, longer = build(vectors, np.arange(1, 12_001), kind)
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :3] + 1
    seen = Jagged(np.arange(301), best[:, 0])  # so the second best is the first of the list
    if kind == "hnsw":
        assert widen(index, vectors, np.arange(1, 12_001), queries) in (64, 128, 256)
    asked = Asked(queries, np.where(np.arange(300) % 2, best[:, 2], best[:, 0]), seen)
    found = measure(index, vectors, np.arange(1, 12_001), asked, longer=longer)
    assert found["exact_ndcg@10"] == pytest.approx(0.5 / np.log2(3))
    assert found["ndcg@10"] <= found["exact_ndcg@10"] + (0.01 if kind == "int8" else 0)
    least = {"flat": 1.0, "int8": 0.9, "hnsw": 0.95, "ivfpq": 0.2}[kind]
    assert found["recall@10"] >= least
