"""The work of p5dist's prepare stage in DuckDB (see prepare_peers.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prepare_steps import CORE, GROUP_ROWS, LEVEL, Steps


def duckdb(log: str, out: Path, memory_gb: float) -> dict[str, Any]:
    """Variants tried on 20 M rows, 2 cores (seconds of the step, at similar load); the fastest is
    used:

    - duplicates by GROUP BY of all columns with min(row) 4–10; window LAG over the sorted table,
      which only looks at rows of one user and second, 0.3
    - the core by copying the log without rare rows 1.2 per round; by subtracting the rows of rare
      users and items from the counts 0.2 per round
    - list(x ORDER BY p) of three columns 10–16; one list of structs, sorted, 3.6; one list of
      128-bit numbers with the position above, sorted, 2–3
    - in all: 8.0; with a persistent database 9.8, with the order of insertion preserved 8.0, with
      twice as many threads as cores 7.7, which is within the noise
    """
    import duckdb as db

    steps = Steps()
    con = db.connect()
    con.execute(f"SET memory_limit = '{memory_gb}GB'")
    con.execute(f"SET temp_directory = '{out / 'tmp'}'")
    con.execute("SET preserve_insertion_order = false")  # positions are explicit below

    def number(query: str) -> int:
        row = con.execute(query).fetchone()
        assert row is not None
        return int(row[0])

    # Sorted, so that the row id is the position. Ids that do not fit 32 bits are errors.
    con.execute(
        f"""CREATE TABLE log AS SELECT user_id::UINTEGER u, item_id::UINTEGER i,
        timestamp::UINTEGER t FROM read_parquet('{log}', file_row_number = true)
        ORDER BY u, t, (file_index::BIGINT << 32) | file_row_number"""
    )
    rows = number("SELECT count(*) FROM log")
    steps.end("read_sort")
    con.execute(
        """CREATE TABLE tied AS SELECT DISTINCT u, t FROM (
        SELECT u, t, lag(u) OVER () = u AND lag(t) OVER () = t AS same FROM log) WHERE same"""
    )
    con.execute(
        """DELETE FROM log WHERE rowid IN (SELECT p FROM (
        SELECT log.rowid p, row_number() OVER (PARTITION BY u, t, i ORDER BY log.rowid) n
        FROM log JOIN tied USING (u, t)) WHERE n > 1)"""
    )
    duplicates = rows - number("SELECT count(*) FROM log")
    steps.end("duplicates")
    iterations = _duckdb_core(con, number)
    steps.end("core")
    con.execute(
        """CREATE TABLE held AS SELECT u, max(rowid, 2) p
        FROM log ANTI JOIN dead_u USING (u) ANTI JOIN dead_i USING (i) GROUP BY u"""
    )
    con.execute(  # every user has at least CORE rows, so that both are there
        """CREATE TABLE kept AS SELECT log.u, i, t, log.rowid p,
        (CASE log.rowid WHEN held.p[1] THEN 2 WHEN held.p[2] THEN 1 ELSE 0 END)::UTINYINT s
        FROM log JOIN held ON log.u = held.u ANTI JOIN dead_i USING (i)"""
    )
    con.execute("DROP TABLE log")
    con.execute(
        """CREATE TABLE item AS SELECT row_number() OVER (ORDER BY n DESC, i) id, i external_id,
        n "count" FROM (SELECT i, count(*) n FROM kept WHERE s = 0 GROUP BY i)"""
    )
    con.execute(
        """CREATE TABLE person AS SELECT row_number() OVER (ORDER BY u) id, u external_id,
        n "count" FROM (SELECT u, count(*) n FROM kept WHERE s = 0 GROUP BY u)"""
    )
    options = f"FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL {LEVEL}"
    for table, name in (("item", "item"), ("person", "user")):
        con.execute(f"COPY (FROM {table} ORDER BY id) TO '{out / name}.parquet' ({options})")
    steps.end("split_vocabulary")
    con.execute(
        f"""COPY (SELECT id AS "user",
            list_transform(l, lambda x: ((x >> 34) & 4294967295)::BIGINT) item,
            list_transform(l, lambda x: ((x >> 2) & 4294967295)::BIGINT) timestamp,
            list_transform(l, lambda x: (x & 3)::TINYINT) split
        FROM (SELECT u, list_sort(list(
                (p::HUGEINT << 66) | (item.id::HUGEINT << 34) | (t::HUGEINT << 2) | s)) l
            FROM kept JOIN item ON kept.i = item.external_id GROUP BY u)
        JOIN person ON u = person.external_id)
        TO '{out / "histories.parquet"}' ({options}, ROW_GROUP_SIZE {GROUP_ROWS})"""
    )
    kept = number("SELECT count(*) FROM kept JOIN item ON kept.i = item.external_id")
    steps.end("histories")
    return {
        "rows_in": rows, "duplicates": duplicates, "rows_kept": kept,
        "users": number("SELECT count(*) FROM person"),
        "items": number("SELECT count(*) FROM item"),
        "iterations": iterations, "seconds": steps.seconds, "version": db.__version__,
    }  # fmt: skip


def _duckdb_core(con: Any, number: Callable[[str], int]) -> int:
    """Makes the tables dead_u and dead_i. A round subtracts the rows of newly rare users (items)
    from the counts of items (users); counts of dead users and items do not matter."""
    for side in "ui":
        con.execute(f"CREATE TABLE n_{side} AS SELECT {side}, count(*) n FROM log GROUP BY {side}")
        con.execute(f"CREATE TABLE dead_{side} ({side} UINTEGER)")
    rounds = 0
    while True:
        rare = 0
        for side, other in ("ui", "iu"):
            con.execute(
                f"""CREATE OR REPLACE TEMP TABLE rare AS SELECT {side} FROM n_{side}
                ANTI JOIN dead_{side} USING ({side}) WHERE n < {CORE}"""
            )
            found = number("SELECT count(*) FROM rare")
            if not found:
                continue
            rare += found
            con.execute(f"INSERT INTO dead_{side} FROM rare")
            con.execute(
                f"""UPDATE n_{other} SET n = n_{other}.n - gone.n FROM (
                SELECT {other}, count(*) n FROM log SEMI JOIN rare USING ({side}) GROUP BY {other}
                ) gone WHERE gone.{other} = n_{other}.{other}"""
            )
        if not rare:
            return rounds
        rounds += 1
