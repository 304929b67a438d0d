"""Item vectors as an index of FAISS: approximate search, with the recall, the NDCG and the latency
it has against exact search."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from p5dist.config import RunConfig
from p5dist.config.output import Evaluate
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints, Jagged
from p5dist.data.reader import ShardReader
from p5dist.environment.extras import need
from p5dist.inference.export.package import Ranked, check_empty, write_items
from p5dist.ranking.metrics import rank_values
from p5dist.ranking.targets import Rule, Targets
from p5dist.storage import Folder

Kind = Literal["flat", "int8", "hnsw", "ivfpq"]
INDEX, ABOUT = "index.faiss", "index.json"
_QUERIES, _K = 1000, 10
_RECALL, _SEARCHED = 0.95, (64, 128, 256, 512, 1024, 2048)
"""``efSearch`` of HNSW: the first with this recall, else the last."""
_Rows = npt.NDArray[np.float32]


def export_index(job: RunConfig, stage: str | None, out: Folder, *, kind: Kind) -> dict[str, Any]:
    """Write ``index.faiss``, ``items.parquet``, ``items.safetensors`` and ``index.json``.

    The index finds the largest inner products. HNSW walks along neighbours by distance, for which
    inner products are no measure; so it holds vectors with one more number, which gives all of them
    the same length and makes the nearest the one with the largest product (Bachrach et al. 2014):
    a query gets 0 as that number.

    Args:
        kind: flat (exact), int8 (exact search over numbers of 8 bits), hnsw (Malkov and Yashunin
            2020), ivfpq (Jégou et al. 2011).

    Returns:
        The content of ``index.json``: sizes, how a query is made, ``recall@10`` and milliseconds
        a query against exact search, on one thread, for users of the run; if there are test
        interactions, also ``ndcg@10`` of the index and of exact search for them.

    Raises:
        ConfigError: FAISS is not installed; the stage does not rank.
        StorageError: the folder has files.
    """
    check_empty(out)
    faiss = _faiss()
    ranked = Ranked.of(job, stage)
    vectors = ranked.scorer.item_vectors().cpu().numpy()
    ids = np.flatnonzero(ranked.items.has_vector)
    index, longer = build(np.ascontiguousarray(vectors[ids]), ids + 1, kind)
    asked = _asked(ranked)
    exact = np.ascontiguousarray(vectors[ids])
    search = {}
    if kind == "hnsw":
        search = {"ef_search": widen(index, exact, ids + 1, asked.queries)}
    found = {
        "folder": str(out), "kind": kind, "items": len(ids), "dim": vectors.shape[1],
        "query": "user vector" + (", then 0" if longer else ""), "ids": "id of items.parquet",
        **search, **measure(index, exact, ids + 1, asked, longer=longer),
    }  # fmt: skip
    out.make()
    (out / INDEX).write_bytes(faiss.serialize_index(index).tobytes())
    write_items(ranked, out)
    (out / ABOUT).write_text(json.dumps(found, indent=2) + "\n")
    return found


def build(vectors: _Rows, ids: npt.NDArray[np.int64], kind: str) -> tuple[Any, bool]:
    """An index of ``vectors`` [n, dim] under ``ids``, and whether it holds one more number."""
    faiss = _faiss()
    count, dim = vectors.shape
    longer = kind == "hnsw"
    if kind == "flat":
        index = faiss.IndexFlatIP(dim)
    elif kind == "int8":
        index = faiss.IndexScalarQuantizer(
            dim, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
        index.train(vectors)
    elif kind == "hnsw":
        square = np.square(vectors).sum(1)
        rest = np.sqrt(np.maximum(square.max() - square, 0.0)).astype(np.float32)
        vectors = np.ascontiguousarray(np.hstack([vectors, rest[:, None]]))
        index = faiss.IndexHNSWFlat(dim + 1, 32)
        index.hnsw.efConstruction, index.hnsw.efSearch = 200, _SEARCHED[0]
    else:
        lists = max(min(int(4 * count**0.5), count // 40), 1)
        parts = next(p for p in (dim // 4, dim // 2, dim) if p and dim % p == 0)
        index = faiss.IndexIVFPQ(
            faiss.IndexFlatIP(dim), dim, lists, parts, 8 if count >= 10_000 else 4,
            faiss.METRIC_INNER_PRODUCT,
        )  # fmt: skip
        index.train(vectors)
        index.nprobe = max(lists // 20, 1)
    whole = faiss.IndexIDMap2(index)
    whole.add_with_ids(vectors, ids)
    return whole, longer


def widen(index: Any, vectors: _Rows, ids: npt.NDArray[np.int64], queries: _Rows) -> int:
    """Let an HNSW index look at more candidates until its recall@10 is 0.95.

    Args:
        index: of :func:`build`.
        vectors: [n, dim] all items.
        queries: [N, dim]

    Returns:
        The candidates (``efSearch``), which the index keeps.
    """
    faiss = _faiss()
    exact, k = _exact(vectors, ids), min(_K, len(ids))
    expected = exact.search(queries, k)[1]
    given = np.ascontiguousarray(np.pad(queries, ((0, 0), (0, 1))))
    graph = faiss.downcast_index(index.index).hnsw
    for graph.efSearch in _SEARCHED:
        if _recall(index.search(given, k)[1], expected) >= _RECALL:
            break
    return int(graph.efSearch)


@dataclass(frozen=True)
class Asked:
    """N users of whom an index is asked."""

    queries: _Rows
    """[N, dim] user vectors"""
    target: Ints | None = None
    """[N] a test interaction of each user; None: the run has none"""
    seen: Jagged | None = None
    """[N] items that are not listed; None: all are"""


def measure(
    index: Any, vectors: _Rows, ids: npt.NDArray[np.int64], asked: Asked, *, longer: bool
) -> dict[str, float]:
    """``recall@10`` and milliseconds a query, one by one on one thread, of the index and of exact
    search, and ``ndcg@10`` of both if there are targets."""
    faiss = _faiss()
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    exact, k, queries = _exact(vectors, ids), min(_K, len(ids)), asked.queries
    given = np.ascontiguousarray(np.pad(queries, ((0, 0), (0, int(longer)))))
    expected, exact_ms = _search(exact, queries[:200], k)
    found, ms = _search(index, given[:200], k)
    more = [index.search(given[200:], k)[1], exact.search(queries[200:], k)[1]]
    faiss.omp_set_num_threads(threads)
    result = {
        "recall@10": _recall(np.vstack([found, more[0]]), np.vstack([expected, more[1]])),
        "ms_a_query": ms,
        "exact_ms_a_query": exact_ms,
        "queries": len(queries),
    }
    if asked.target is not None:
        result["ndcg@10"] = _ndcg(index, given, asked)
        result["exact_ndcg@10"] = _ndcg(exact, queries, asked)
    return result


def _exact(vectors: _Rows, ids: npt.NDArray[np.int64]) -> Any:
    """An index that looks at every vector."""
    faiss = _faiss()
    exact = faiss.IndexIDMap2(faiss.IndexFlatIP(vectors.shape[1]))
    exact.add_with_ids(vectors, ids)
    return exact


def _recall(found: Ints, expected: Ints) -> float:
    """The share of the expected items [N, k] that were found [N, k]."""
    hits = (len(set(a) & set(b)) for a, b in zip(found.tolist(), expected.tolist(), strict=True))
    return sum(hits) / expected.size


def _ndcg(index: Any, queries: _Rows, asked: Asked) -> float:
    """NDCG@10 of the targets, without the items that are not listed."""
    assert asked.target is not None
    ranks = np.full(len(queries), _K + 1)
    for i, query in enumerate(queries):
        hidden = (
            set()
            if asked.seen is None
            else set(asked.seen.values[slice(*asked.seen.offsets[i : i + 2])].tolist())
        )
        found = index.search(query[None], _K + len(hidden))[1][0].tolist()
        listed = [item for item in found if item not in hidden][:_K]
        if asked.target[i] in listed:
            ranks[i] = 1 + listed.index(asked.target[i])
    return float(rank_values(ranks, (_K,))[f"ndcg@{_K}"].mean())


def _search(index: Any, queries: _Rows, k: int) -> tuple[npt.NDArray[np.int64], float]:
    began = time.perf_counter()
    found = [index.search(query[None], k)[1] for query in queries]
    return np.vstack(found), 1000 * (time.perf_counter() - began) / len(queries)


def _asked(ranked: Ranked) -> Asked:
    """The first users of the prepared data that have test interactions; of a run without any, the
    first users with interactions."""
    job, manifest = ranked.job, ranked.manifest
    reader = ShardReader(ranked.folder.prepare, manifest, job.history_columns())
    config = job.evaluate or Evaluate()
    rule = Rule.of(job, manifest, config, "test", "evaluate")
    tested = bool(manifest.rows_by_split["test"])
    parts: list[tuple[Histories, Ints, Jagged]] = []
    for portion in reader.portions(_QUERIES):
        users = reader.users(portion)
        if tested:
            for batch in Targets.find(users, rule).batches(_QUERIES):
                _, first = np.unique(batch.owner, return_index=True)
                parts.append((batch.histories, batch.item[first], batch.seen))
        else:
            whole = users.histories.take(np.flatnonzero(users.histories.lengths > 0))
            parts.append((whole, whole.item[:0], Jagged(whole.offsets, whole.item)))
        if sum(len(part) for part, _, _ in parts) >= _QUERIES:
            break
    together = Histories.concat([part for part, _, _ in parts])
    number = min(_QUERIES, len(together))
    queries: _Rows = ranked.scorer.user_vectors(together.between(0, number)).cpu().numpy()
    if not tested:
        return Asked(queries)
    target = np.concatenate([item for _, item, _ in parts])[:number]
    seen = Jagged.concat([own for _, _, own in parts])
    return Asked(queries, target, seen if config.mask_seen else None)


def _faiss() -> Any:
    return need("faiss", "faiss", "--format faiss")
