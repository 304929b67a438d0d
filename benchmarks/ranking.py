"""Speed and memory of exact ranking.

::

    python benchmarks/ranking.py [--parts products,evaluate,recommend] [--runs 5]
                                 [--rectools-python PATH]

products    users a second and core: p5dist's lists (seen items left out), and its lists with the
            ranks of targets, against a bare blocked product with top k in PyTorch and against the
            rankers of RecTools, on the same vectors; all one after the other in every run, on one
            core.
evaluate    evaluate with all baselines over a synthetic log, as a command: seconds, peak memory.
recommend   recommend for all users of a synthetic log with a model that is hardly trained, as a
            command: seconds and peak memory against the floor of the product on the same cores.
cluster     the same lists on three nodes on this machine, of which one is killed on the way.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from measure import measure
from outcome import RESULTS, circumstances, heading, write
from workload import P5DIST, on_cores, p5dist, short, synthetic_job, write_job

from p5dist.data.catalogue import Catalogue
from p5dist.data.jagged import Jagged, offsets_of
from p5dist.data.matrix import BLOCK
from p5dist.ranking.products import HeldItems, rank_products
from p5dist.ranking.rough import HEAD, with_exact_head
from p5dist.ranking.tiles import Query
from p5dist.ranking.topk import Lists

K, DIM, SEEN = 20, 64, 20
NONE = np.zeros(0, dtype=np.int64)
_QUICK = {
    "RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3", "RAY_AUTH_MODE": "disabled",
}  # fmt: skip
"""So that a lost node is noticed in seconds."""


def main() -> None:
    """Run the parts, then write the results."""
    a = _arguments()
    found: dict[str, Any] = {}
    for part in a.parts.split(","):
        found |= PARTS[part](a)
        print(json.dumps(found, indent=1), file=sys.stderr)
    result = {
        "question": "exact ranking: speed against a bare product, memory",
        "settings": {"parts": a.parts, "k": K, "dim": DIM, "seen": SEEN},
        "better": {},
        **found,
        **circumstances("ranking.py", ("p5dist", "ray", "torch", "scipy", "numpy")),
    }  # fmt: skip
    write(f"ranking-{a.name}", result, _markdown(result), a.out, draw=lambda *_: False)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="products,evaluate")
    parser.add_argument("--name", default="1e5", help="in the names of the result's files")
    parser.add_argument("--users", type=float, default=1e5, help="of the log")
    parser.add_argument("--items", type=float, default=2e4)
    parser.add_argument("--interactions", type=float, default=5e6)
    parser.add_argument("--product-users", type=int, default=4096)
    parser.add_argument("--product-items", default="20000,200000")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rectools-python", help="an interpreter that has rectools[torch]")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "p5dist-bench")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def _products(a: argparse.Namespace) -> dict[str, Any]:
    """Users a second and core by way of ranking, for each size of the catalogue."""
    torch.set_num_threads(1)
    found = {}
    with on_cores(1):
        for items in map(int, a.product_items.split(",")):
            runs = [_product_run(a, items) for _ in range(a.runs)]
            rates = {way: [run[way] for run in runs] for way in runs[0]}
            others = ("bare", *(way for way in rates if way.startswith("rectools")))
            ratios = {
                f"{ours} / {other}": statistics.median(
                    x / y for x, y in zip(rates[ours], rates[other], strict=True)
                )
                for ours in ("lists", "lists and ranks", "lists, bfloat16")
                for other in others
            }
            found[str(items)] = {
                "users_per_second": rates, "ratio": ratios,
                "listed_otherwise_bfloat16": _listed_otherwise(a, items),
            }  # fmt: skip
    return {"products": found}


def _product_run(a: argparse.Namespace, items: int) -> dict[str, float]:
    """Users a second of every way, once."""
    users, held, seen = _vectors(a, items)
    vectors = held.vectors
    owner = np.arange(len(users))
    target = np.random.default_rng(2).integers(1, items + 1, len(users))
    lists = Query(users, NONE, NONE, seen)
    ranks = Query(users, owner, target, seen)
    ways: dict[str, Callable[[], object]] = {
        "bare": lambda: _bare(users, vectors),
        "lists": lambda: rank_products([lists], held, K, targets=False),
        "lists and ranks": lambda: rank_products([ranks], held, K),
        "lists, bfloat16": lambda: _rough(lists, held),
    }
    found = {name: len(users) / _seconds(way) for name, way in ways.items()}
    return found | _rectools(a, users, vectors, seen)


def _rough(query: Query, items: HeldItems) -> Lists:
    """Lists from products of rounded vectors, with exact scores of the candidates."""
    ((rough,),) = rank_products([query], items, HEAD * K, targets=False, precision=torch.bfloat16)
    vectors = items.vectors
    return with_exact_head(query, rough, lambda ids: vectors[torch.from_numpy(ids - 1)], K, None)[1]


def _listed_otherwise(a: argparse.Namespace, items: int) -> float:
    """The share of the items of exact lists that the lists by bfloat16 do not have."""
    users, held, seen = _vectors(a, items)
    query = Query(users, NONE, NONE, seen)
    (((_, exact),),) = rank_products([query], held, K, targets=False)
    rough = _rough(query, held)
    there = (exact.ids[:, :, None] == rough.ids[:, None, :]).any(2)
    return float(1 - there.mean())


def _vectors(a: argparse.Namespace, items: int) -> tuple[torch.Tensor, HeldItems, Jagged]:
    generator = torch.Generator().manual_seed(1)
    users = torch.randn(a.product_users, DIM, generator=generator)
    vectors = torch.randn(items, DIM, generator=generator)
    rng = np.random.default_rng(1)
    lengths = np.full(len(users), SEEN)
    seen = Jagged(offsets_of(lengths), rng.integers(1, items + 1, lengths.sum()))
    return users, HeldItems(vectors, Catalogue(items)), seen


def _bare(users: torch.Tensor, vectors: torch.Tensor) -> None:
    """Top k of a blocked product: no mask, no order of ties, no ranks. 256 users at a time were the
    fastest of 32 … 4,096."""
    for begin in range(0, len(users), 256):
        part = users[begin : begin + 256]
        values, ids = torch.empty(len(part), 0), torch.empty(len(part), 0, dtype=torch.int64)
        for first in range(0, len(vectors), BLOCK):
            found, index = torch.topk(part @ vectors[first : first + BLOCK].T, K)
            values, ids = torch.cat([values, found], 1), torch.cat([ids, index + first], 1)
            if values.shape[1] > K:
                values, order = torch.topk(values, K)
                ids = ids.gather(1, order)


def _seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def _rectools(
    a: argparse.Namespace, users: torch.Tensor, vectors: torch.Tensor, seen: Jagged
) -> dict[str, float]:
    if a.rectools_python is None:
        return {}
    a.data.mkdir(parents=True, exist_ok=True)
    place = a.data / "ranking.npz"
    arrays = {"users": users.numpy(), "items": vectors.numpy(),
              "offsets": seen.offsets, "seen": seen.values}  # fmt: skip
    np.savez(place, **arrays)
    script = Path(__file__).with_name("ranking_rectools.py")
    done = subprocess.run(
        [a.rectools_python, str(script), str(place), str(K)],
        capture_output=True, text=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
             "MKL_NUM_THREADS": "1"},
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {name: len(users) / seconds for name, seconds in found.items()}


def _evaluate(a: argparse.Namespace) -> dict[str, Any]:
    """evaluate over a prepared log after a short training."""
    path, place = _trained(a)
    runs = []
    for _ in range(min(a.runs, 3)):
        shutil.rmtree(place / "runs/bench/prepare/fitted", ignore_errors=True)
        shutil.rmtree(place / "runs/bench/pretrain/vectors", ignore_errors=True)
        (place / "runs/bench/pretrain/mixture.json").unlink(missing_ok=True)
        words = ["run", str(path), "evaluate", "--fresh"]
        measured = measure([*P5DIST, *words], a.data / "w")
        runs.append({"seconds": measured.seconds, "memory_bytes": measured.memory_bytes})
        print("evaluate", runs[-1], file=sys.stderr)
    result = json.loads((place / "runs/bench/evaluate/result.json").read_text())
    protocol = result["protocol"]
    return {"evaluate": {
        "users": protocol["users"], "items": protocol["catalogue"],
        "baselines": sorted(result["baselines"]), "runs": runs,
    }}  # fmt: skip


def _recommend(a: argparse.Namespace) -> dict[str, Any]:
    """recommend for all users of a prepared log; the floor is the bare product and top k."""
    path, place = _trained(a)
    measured = measure([*P5DIST, "run", str(path), "recommend", "--fresh"], a.data / "w")
    result = json.loads((place / "runs/bench/recommend/result.json").read_text())
    users, items = result["users"], int(a.items)
    sample = min(users, 1024)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(items, DIM, generator=generator)
    seconds = _seconds(lambda: _bare(torch.randn(sample, DIM, generator=generator), vectors))
    floor = seconds * users / sample / (os.cpu_count() or 1)
    return {"recommend": {
        "users": users, "items": items, "seconds": measured.seconds,
        "memory_bytes": measured.memory_bytes, "floor_seconds": floor,
        "rows": result["rows"], "digest": _digest(place),
        "process": result["memory"],
    }}  # fmt: skip


def _cluster(a: argparse.Namespace) -> dict[str, Any]:
    """recommend on a head and three nodes of one CPU; one is killed when a third of the lists are
    there."""
    from ray.cluster_utils import Cluster

    path, place = _trained(a)
    lists = place / "runs/bench/recommend"
    before = _digest(place) if lists.exists() else None
    portions = len(list(lists.glob("part-*.parquet")))
    shutil.rmtree(lists, ignore_errors=True)
    for name, value in _QUICK.items():
        os.environ[name] = value
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    words = ["recommend", str(path), f"scale.address='{cluster.address}'", "scale.actors=3"]
    began = time.perf_counter()
    process = subprocess.Popen([*P5DIST, *words], stdout=sys.stderr)
    killed_at = None
    while process.poll() is None:
        done = len(list(lists.glob("part-*.parquet"))) if lists.exists() else 0
        if killed_at is None and done >= max(portions // 3, 1):
            cluster.remove_node(nodes[0], allow_graceful=False)
            killed_at = done
        time.sleep(1)
    cluster.shutdown()
    after = _digest(place)
    return {"cluster": {
        "seconds": time.perf_counter() - began, "parts": portions, "killed_at": killed_at,
        "digest": after, "same_lists": None if before is None else before == after,
    }}  # fmt: skip


def _digest(place: Path) -> str:
    """Of all lists."""
    found = hashlib.sha256()
    for file in sorted((place / "runs/bench/recommend").glob("part-*.parquet")):
        table = pq.read_table(file)
        for column in table.columns:
            for buffer in column.combine_chunks().buffers():
                found.update(buffer or b"")
    return found.hexdigest()[:16]


def _trained(a: argparse.Namespace) -> tuple[Path, Path]:
    """A job and its folder; log, prepared data and a short training are made if missing."""
    numbers = (int(a.interactions), int(a.users), int(a.items))
    place: Path = a.data / f"ranking-{'-'.join(map(short, numbers))}"
    job = synthetic_job(
        str(place / "log"), str(place / "runs"),
        feed={"max_length": 50}, model={"dim": DIM},
        pretrain={"steps": 20, "batch_size": 512,
                  "objective": {"loss": {"kind": "sampled_softmax", "negatives": 1024}}},
        evaluate={}, recommend={"k": K}, scale={"workers": a.workers},
    )  # fmt: skip
    place.mkdir(parents=True, exist_ok=True)
    path = write_job(place / "job.json", job)
    if not (place / "runs/bench/pretrain").exists():
        interactions, users, items = map(str, numbers)
        p5dist("synth", str(place / "log"), "--interactions", interactions, "--users", users,
               "--items", items)  # fmt: skip
        p5dist("run", str(path), "prepare", "pretrain")
    return path, place


PARTS = {
    "products": _products, "evaluate": _evaluate, "recommend": _recommend, "cluster": _cluster,
}  # fmt: skip


def _markdown(result: dict[str, Any]) -> str:
    text = heading("Exact ranking", result)
    for items, found in result.get("products", {}).items():
        text += f"Ranking alone, {int(items):,} items of {DIM} dimensions, k = {K}, one core:\n\n"
        text += "| way | users a second, median | runs |\n|---|---|---|\n"
        for way, rates in found["users_per_second"].items():
            shown = ", ".join(f"{rate:,.0f}" for rate in rates)
            text += f"| {way} | {statistics.median(rates):,.0f} | {shown} |\n"
        text += "\n| ratio, median of the runs | |\n|---|---|\n"
        text += "".join(f"| {name} | {ratio:.2f} |\n" for name, ratio in found["ratio"].items())
        text += (
            f"\nOf the items of exact lists {found['listed_otherwise_bfloat16']:.4%} are not in "
            "the lists by bfloat16.\n\n"
        )
    if "evaluate" in result:
        found = result["evaluate"]
        text += (
            f"evaluate of {found['users']:,} users among {found['items']:,} items with the "
            f"{', '.join(found['baselines'])}, the whole command:\n\n"
            "| seconds | peak memory GB |\n|---|---|\n"
        )
        for run in found["runs"]:
            text += f"| {run['seconds']:.1f} | {run['memory_bytes'] / 1e9:.2f} |\n"
        text += "\n"
    if "recommend" in result:
        found = result["recommend"]
        text += (
            f"recommend of {K} items to {found['users']:,} users among {found['items']:,} items, "
            f"the whole command: {found['seconds']:,.0f} s, peak memory "
            f"{found['memory_bytes'] / 1e9:.2f} GB; the bare product with top k on the same cores "
            f"would take {found['floor_seconds']:,.0f} s. A scoring process had "
            f"{found['process']['measured'] / 1e9:.2f} GB of its own (planned "
            f"{sum(found['process']['planned'].values()) / 1e9:.2f}).\n\n"
        )
    if "cluster" in result:
        found = result["cluster"]
        same = {True: "the same lists", False: "other lists", None: "lists"}[found["same_lists"]]
        text += (
            f"On three nodes of one CPU, of which one was killed when {found['killed_at']} of "
            f"{found['parts']} parts were there: {same} after {found['seconds']:,.0f} s.\n"
        )
    return text


if __name__ == "__main__":
    main()
