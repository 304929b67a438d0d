"""How fast are lookup and fused update of the embedding tables, relative to memory bandwidth?

::

    python benchmarks/embedding.py [--rows 2e6] [--dim 64] [--batch 4096] [--pooling 20]

Tables as p5dist builds and shards them, for one worker: ``rows`` looks up batch · pooling distinct
items, in rising order as in the feed; ``bags`` looks up the means of batch bags of pooling values.
Both through TorchRec, and by the FBGEMM kernel alone. In the same run a STREAM triad measures the
memory bandwidth of as many threads.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
)
from outcome import RESULTS, circumstances, heading, write
from rates import triad
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from p5dist.config.train import TableOptimizer
from p5dist.data.batch import ITEM_FEATURE, USER_FEATURE
from p5dist.models.tables import ItemTables, UserTables
from p5dist.train.sharding import init_tables, shard, table_names

SETS = 8  # of ids, taken in turn, so that the caches hold no rows of the previous step
KINDS = {
    "rows": "distinct rows, through TorchRec", "rows kernel": "distinct rows, FBGEMM alone",
    "bags": "bags, through TorchRec", "bags kernel": "bags, FBGEMM alone",
}  # fmt: skip


def main() -> None:
    """Measure, then write the results."""
    arguments = _arguments()
    logging.getLogger("torchrec").setLevel(logging.ERROR)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/m", rank=0, world_size=1)
        works = _works(int(arguments.rows), arguments.dim, arguments.batch, arguments.pooling)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in ("triad", *KINDS)}
        for number in range(arguments.runs):
            bandwidth = triad()
            runs["triad"].append({"rate": bandwidth})
            for name, work in works.items():
                runs[name].append(_run(work, arguments.steps, bandwidth))
            shares = ", ".join(f"{k} {runs[k][-1]['update_share']:.0%}" for k in works)
            print(
                f"run {number + 1}: {bandwidth / 1e9:.1f} GB/s; update: {shares}", file=sys.stderr
            )
        dist.destroy_process_group()
    result = {
        "question": "embedding: lookup and fused update beside the memory's bandwidth",
        "settings": {name: getattr(arguments, name)
                     for name in ("rows", "dim", "batch", "pooling", "threads", "steps")},
        "better": {"rate": "higher", "lookup_rate": "higher", "update_rate": "higher"},
        "median": {name: {key: statistics.median(run[key] for run in found) for key in found[0]}
                   for name, found in runs.items()},
        "runs": runs,
        **circumstances("embedding.py", ("p5dist", "torch", "torchrec", "fbgemm-gpu-cpu")),
    }  # fmt: skip
    write("embedding", result, _markdown(result), arguments.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, default=2e6)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--pooling", type=int, default=20, help="values of a bag")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=40, help="of a run")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


class Work:
    """A table, the ids to look up, and the bytes that lookup and update must move."""

    def __init__(
        self,
        look_up: Callable[[Any], Tensor],
        sets: list[Any],
        *,
        ids: int,
        distinct: float,
        outputs: int,
        dim: int,
    ) -> None:
        self.look_up, self.sets = look_up, sets
        self.lookup_bytes = lookup_bytes(ids, outputs, dim)
        self.update_bytes = update_bytes(ids, distinct, outputs, dim)
        self.gradient = torch.rand(outputs, dim) * 1e-3


def lookup_bytes(ids: int, outputs: int, dim: int) -> int:
    """Bytes of a lookup: ids and their rows are read, vectors are written."""
    return 8 * ids + 4 * dim * (ids + outputs)


def update_bytes(ids: int, distinct: float, outputs: int, dim: int) -> float:
    """Bytes of an update: ids and gradients are read, each distinct row and its momentum are read
    and written."""
    return 8 * ids + 4 * dim * outputs + distinct * 2 * 4 * (dim + 1)


def _works(rows: int, dim: int, batch: int, pooling: int) -> dict[str, Work]:
    ids = batch * pooling
    distinct = [torch.randperm(rows)[:ids].add(1).sort().values for _ in range(SETS)]
    drawn = [torch.randint(1, rows + 1, (ids,)) for _ in range(SETS)]
    bag_lengths = torch.tensor([pooling] * batch + [0])
    each = {
        "rows": (
            ItemTables(rows, {}, dim, torch.device("meta")),
            [_jagged(ITEM_FEATURE, values, torch.tensor([ids])) for values in distinct],
            {"ids": ids, "distinct": float(ids), "outputs": ids},
        ),
        "bags": (
            UserTables(rows, {}, dim, torch.device("meta")),
            [_jagged(USER_FEATURE, values, bag_lengths) for values in drawn],
            {
                "ids": ids, "outputs": batch,
                "distinct": sum(len(values.unique()) for values in drawn) / SETS,
            },
        ),
    }  # fmt: skip
    found: dict[str, Work] = {}
    for name, (module, sets, counts) in each.items():
        model, kernel = _sharded(module, batch)
        arguments = [(values, None) if name == "rows" else (values,) for values in sets]
        found[name] = Work(lambda words, model=model: model(*words), arguments, dim=dim, **counts)
        offsets = torch.arange(0, ids + 1, ids // counts["outputs"])
        alone = [(values.values(), offsets) for values in sets]
        found[f"{name} kernel"] = Work(
            lambda words, kernel=kernel: kernel(*words), alone, dim=dim, **counts
        )
    return found


def _sharded(module: nn.Module, batch: int) -> tuple[nn.Module, nn.Module]:
    """The sharded model as in training, and its FBGEMM operator."""
    model = shard(module, TableOptimizer(), batch_size=batch, device=torch.device("cpu"))
    names = table_names(model.plan)
    tensors = {name: value for name, value in model.state_dict().items() if name in names}
    init_tables(tensors, seed=1, std=0.02)
    (sharded,) = (m for m in model.modules() if hasattr(m, "_lookups"))
    (lookup,) = sharded._lookups  # a plain list: modules() does not find what is in it
    (kernel,) = (
        m for m in lookup.modules() if isinstance(m, SplitTableBatchedEmbeddingBagsCodegen)
    )
    return model, kernel


def _jagged(key: str, values: Tensor, lengths: Tensor) -> KeyedJaggedTensor:
    return KeyedJaggedTensor([key], values, lengths=lengths.int(), stride=len(lengths))


def _run(work: Work, steps: int, bandwidth: float) -> dict[str, float]:
    """Bytes per second of lookup and update over ``steps`` steps, and their share of the
    bandwidth."""
    lookup = update = 0.0
    for step in range(-2, steps):  # the first two warm up
        began = time.perf_counter()
        vectors = work.look_up(work.sets[step % len(work.sets)])
        between = time.perf_counter()
        vectors.backward(work.gradient)
        if step >= 0:
            lookup += between - began
            update += time.perf_counter() - between
    found = {
        "lookup_rate": work.lookup_bytes * steps / lookup,
        "update_rate": work.update_bytes * steps / update,
    }
    return found | {key.replace("rate", "share"): rate / bandwidth for key, rate in found.items()}


def _markdown(result: dict[str, Any]) -> str:
    median, settings = result["median"], result["settings"]
    table = ""
    for name, text in KINDS.items():
        m = median[name]
        table += (
            f"| {text} | {m['lookup_rate'] / 1e9:.2f} | {m['lookup_share']:.0%} "
            f"| {m['update_rate'] / 1e9:.2f} | {m['update_share']:.0%} |\n"
        )
    return (
        heading("Embedding: lookup and fused update", result)
        + f"{settings['rows']:,.0f} rows of {settings['dim']} float32, a step looks up "
        f"{settings['batch']:,} · {settings['pooling']} ids; row-wise Adagrad in the backward "
        f"pass; {settings['threads']} thread(s), median of {len(result['runs']['triad'])} runs. "
        "Bytes are those that must move: ids and rows read, vectors written; gradients read, every "
        "distinct row and its momentum read and written. Share: of the triad's "
        f"{median['triad']['rate'] / 1e9:.1f} GB/s.\n\n"
        "| what | lookup GB/s | share | update GB/s | share |\n|---|---|---|---|---|\n" + table
    )


if __name__ == "__main__":
    main()
