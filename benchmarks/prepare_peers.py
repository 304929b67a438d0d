"""The work of p5dist's prepare stage in DuckDB and in polars: ``prepare_peers.py TOOL IN OUT``.

The same steps on the same Parquet files (user_id, item_id, timestamp): drop exact duplicates (the
first row stays), 5-core of users and items, leave-one-out split, item ids by falling count of
training interactions (ties by external id), held-out interactions of other items dropped, one row
per user with the lists item, timestamp and split by time (ties in the order of the log), zstd
Parquet:

    OUT/histories.parquet                       user, item, timestamp, split
    OUT/item.parquet, OUT/user.parquet          id, external_id, count

Prints one JSON line: counts, and the seconds of each step. ``floor`` reads the log, sorts it by
user and writes it, which any tool has to do.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from prepare_duckdb import duckdb
from prepare_steps import CORE, GROUP_ROWS, LEVEL, Steps


def polars(log: str, out: Path, memory_gb: float) -> dict[str, Any]:
    """Variants tried on 20 M rows, 2 cores (seconds of the step, at similar load); the fastest is
    used unless noted:

    - unique() in memory 5.5–6.7, streaming and in order 6.1; shift over the sorted table 0.01
    - sort by user and time as two columns 8.8, streaming 15.7; by one packed number, stable, 2.0,
      streaming 2.9; user, time, position and item packed into one word of 128 bits, and the words
      sorted, 1.7 (30 % less than 2.0's way at 100 M rows)
    - group_by of the unsorted table with lists sorted by time 1.4; of the table marked as sorted
      0.05
    - item ids by a join, streaming or not, 6 at 100 M rows, by replace_strict 57; by a table with
      one entry per number up to the largest id 1.5, not used since it needs dense ids

    polars has no limit on memory, so that ``memory_gb`` is not used.
    """
    import polars as pl

    steps = Steps()
    key = pl.col("user_id").cast(pl.UInt32).cast(pl.UInt64) * 2**32 + pl.col("timestamp").cast(
        pl.UInt32
    )
    word = (key.cast(pl.Int128) * 2**32 + pl.col("p")) * 2**31 + pl.col("item_id").cast(pl.Int32)
    words = pl.scan_parquet(log).with_row_index("p").select(w=word).collect(engine="streaming")
    frame = pl.DataFrame({"w": words["w"].sort()}).select(
        k=(pl.col("w") // 2**63).cast(pl.UInt64), i=(pl.col("w") % 2**31).cast(pl.UInt32)
    )
    del words
    rows = len(frame)
    steps.end("read_sort")
    same = pl.col("k") == pl.col("k").shift()
    tied = frame.lazy().filter(same).select(pl.col("k").unique()).collect()
    if len(tied):
        repeated = (
            frame.lazy()
            .with_row_index("p")
            .join(tied.lazy(), on="k", how="semi")
            .filter(~pl.struct("k", "i").is_first_distinct())
            .collect()["p"]
        )
        keep = pl.repeat(True, rows, eager=True).scatter(repeated, False)
        frame = frame.filter(keep)
    duplicates = rows - len(frame)
    frame = frame.select(
        u=(pl.col("k") // 2**32).cast(pl.UInt32).set_sorted(),
        t=(pl.col("k") % 2**32).cast(pl.UInt32),
        i="i",
    )
    steps.end("duplicates")
    frame, iterations = _polars_core(frame)
    steps.end("core")
    user = pl.col("u")  # every user has at least CORE rows
    last, last_two = (user.ne_missing(user.shift(-n)) for n in (1, 2))
    split = pl.when(last).then(2).when(last_two).then(1).otherwise(0)
    frame = frame.with_columns(s=split.cast(pl.Int8))

    def vocabulary(side: str, order: list[str]) -> Any:
        count = frame.lazy().filter(pl.col("s") == 0).group_by(side).len().collect()
        ordered = count.sort(order, descending=[name == "len" for name in order])
        return ordered.with_row_index("id", offset=1).select(
            id=pl.col("id").cast(pl.Int64),
            external_id=pl.col(side),
            count=pl.col("len").cast(pl.Int64),
        )

    item, person = vocabulary("i", ["len", "i"]), vocabulary("u", ["u"])
    options: dict[str, Any] = {"compression": "zstd", "compression_level": LEVEL}
    item.write_parquet(out / "item.parquet", **options)
    person.write_parquet(out / "user.parquet", **options)
    steps.end("split_vocabulary")
    mapped = (
        frame.lazy()
        .join(item.lazy(), left_on="i", right_on="external_id", maintain_order="left")
        .select(
            pl.col("u").set_sorted(), item="id", timestamp=pl.col("t").cast(pl.Int64), split="s"
        )
        .collect(engine="streaming")
    )
    kept = len(mapped)
    lists = mapped.group_by("u", maintain_order=True).agg("item", "timestamp", "split")
    histories = lists.with_columns(u=person["id"]).rename({"u": "user"})
    histories.write_parquet(out / "histories.parquet", row_group_size=GROUP_ROWS, **options)
    steps.end("histories")
    return {
        "rows_in": rows, "duplicates": duplicates, "rows_kept": kept, "users": len(person),
        "items": len(item), "iterations": iterations, "seconds": steps.seconds,
        "version": pl.__version__,
    }  # fmt: skip


def _polars_core(frame: Any) -> tuple[Any, int]:
    """The rows of the core, in order, and the number of rounds; as :func:`_duckdb_core`."""
    import polars as pl

    counts, dead = {}, {}
    for side in "ui":
        counts[side] = frame.lazy().group_by(side).len("n").collect(engine="streaming")
        dead[side] = counts[side].select(side).clear()
    rounds = 0
    while True:
        found = 0
        for side, other in ("ui", "iu"):
            rare = (
                counts[side].filter(pl.col("n") < CORE).join(dead[side], on=side, how="anti")
            ).select(side)
            if not len(rare):
                continue
            found += len(rare)
            dead[side] = pl.concat([dead[side], rare])
            gone = frame.lazy().join(rare.lazy(), on=side, how="semi").group_by(other).len("gone")
            counts[other] = (
                counts[other]
                .lazy()
                .join(gone, on=other, how="left")
                .select(other, n=pl.col("n").cast(pl.Int64) - pl.col("gone").fill_null(0))
                .collect(engine="streaming")
            )
        if not found:
            break
        rounds += 1
    kept = frame.lazy()
    for side in "ui":
        kept = kept.join(dead[side].lazy(), on=side, how="anti", maintain_order="left")
    return kept.collect(engine="streaming"), rounds


def floor(log: str, out: Path, memory_gb: float) -> dict[str, Any]:
    """Read, sort by user, write once; polars, since its sort was the fastest."""
    import polars as pl

    steps = Steps()
    frame = pl.scan_parquet(log).collect(engine="streaming")
    steps.end("read")
    frame = frame.sort("user_id")
    steps.end("sort")
    frame.write_parquet(out / "sorted.parquet", compression="zstd", compression_level=LEVEL)
    steps.end("write")
    return {"rows_in": len(frame), "seconds": steps.seconds, "version": pl.__version__}


TOOLS = {"duckdb": duckdb, "polars": polars, "floor": floor}


def main() -> None:
    """Run one tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("log", help="folder with part-*.parquet")
    parser.add_argument("out", type=Path)
    parser.add_argument("--memory-limit", type=float, default=12.0, help="GB; DuckDB only")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    tool = TOOLS[arguments.tool]
    log = f"{arguments.log.rstrip('/')}/part-*.parquet"
    result = tool(log, arguments.out, arguments.memory_limit)
    print(json.dumps({"tool": arguments.tool, **result}))


if __name__ == "__main__":
    main()
