"""How many requests a second does ``p5dist serve`` answer, and how fast?

::

    python benchmarks/serve.py RUN [--seconds 20] [--soak 600] [--connections 1,4,16,64]

bare      lists a second of the model alone: batches of 64 histories by the Python API, in a process
          of its own with one thread
highest   requests a second with as many connections as give most, each with one history
half      50 and 99 % latency at half of that rate, requests sent at random times
soak      the same for ``--soak`` seconds: failures, and memory at the end against the beginning

The client runs on the same cores as the service.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import uvloop
from outcome import RESULTS, circumstances, heading, write
from workload import P5DIST

K = 10
_BARE = """
import sys, time, json, torch
import p5dist
torch.set_num_threads(1)
run, given = p5dist.load(sys.argv[1]), json.loads(sys.argv[2])
more = [None] * 3
def ask(): run.recommend([h["items"] for h in given], k=10, **{
    n: [h[n] for h in given] for n in ("times", "ratings") if n in given[0]})
ask()
began, done = time.perf_counter(), 0
while time.perf_counter() - began < 10:
    ask(); done += len(given)
print(done / (time.perf_counter() - began))
"""


def main() -> None:
    """Measure, then write the results."""
    a = _arguments()
    histories = _histories(a.run, 500)
    bare = float(
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _BARE, a.run, json.dumps(histories[:64])],
            capture_output=True, text=True, check=True,
        ).stdout
    )  # fmt: skip
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    words = ["serve", a.run, "--port", str(port), "--replicas", str(a.replicas)]
    process = subprocess.Popen([*P5DIST, *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and "is served at" in process.stdout.readline()
    found: dict[str, Any] = {"bare lists/s": bare, "closed": {}}
    bodies = [json.dumps({"histories": [h], "k": K}).encode() for h in histories]
    for connections in map(int, a.connections.split(",")):
        found["closed"][connections] = uvloop.run(_closed(port, bodies, connections, a.seconds))
        print(connections, found["closed"][connections], file=sys.stderr)
    highest = max(x["requests/s"] for x in found["closed"].values())
    found["highest requests/s"], found["highest / bare"] = highest, highest / bare
    found["half"] = uvloop.run(_open(port, bodies, highest / 2, a.seconds))
    if a.soak:
        before = _memory(process.pid)
        found["soak"] = uvloop.run(_open(port, bodies, highest / 2, a.soak))
        found["soak"]["memory GB"] = [before / 1e9, _memory(process.pid) / 1e9]
    process.send_signal(signal.SIGTERM)
    process.wait()
    result = {
        "question": "p5dist serve: rate and latency",
        "settings": {"run": Path(a.run).name, "k": K, "replicas": a.replicas,
                     "seconds": a.seconds, "soak": a.soak},
        "better": {}, **found,
        **circumstances("serve.py", ("p5dist", "ray", "torch", "fastapi")),
    }  # fmt: skip
    write("serve", result, _markdown(result), a.out, draw=lambda *_: False)


def _histories(run: str, number: int) -> list[dict[str, Any]]:
    """The ends of histories of the run, as a caller would give them."""
    prepare = Path(run) / "prepare"
    names = pq.read_table(prepare / "vocabulary/item.parquet")["external_id"].to_pylist()
    file = sorted((prepare / "shards").glob("*.parquet"))[0]
    rows = pq.ParquetFile(file).read_row_group(0).to_pylist()
    found = []
    for row in (rows * (number // len(rows) + 1))[:number]:
        items = row["item"][-50:]
        history: dict[str, Any] = {"items": [names[i - 1] for i in items]}
        history["times"] = [t / 1e6 for t in row["timestamp"][-50:]]
        if "rating" in row:
            history["ratings"] = row["rating"][-50:]
        found.append(history)
    return found


async def _connection(port: int) -> Any:
    return await asyncio.open_connection("127.0.0.1", port)


async def _ask(pair: Any, body: bytes) -> int:
    """One request over a connection that stays open; the status."""
    reader, writer = pair
    writer.write(
        b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length")
    )  # fmt: skip
    await reader.readexactly(length)
    return int(head.split(b" ", 2)[1])


async def _closed(port: int, bodies: list[bytes], connections: int, seconds: float) -> Any:
    """Every connection asks again as soon as it is answered."""
    end, times, bad = time.perf_counter() + seconds, [], [0]

    async def work() -> None:
        pair = await _connection(port)
        while (began := time.perf_counter()) < end:
            bad[0] += await _ask(pair, random.choice(bodies)) != 200
            times.append(time.perf_counter() - began)

    await asyncio.gather(*(work() for _ in range(connections)))
    return {"requests/s": len(times) / seconds, "failed": bad[0], **_latency(times)}


async def _open(port: int, bodies: list[bytes], rate: float, seconds: float) -> Any:
    """Requests at random times, whether earlier ones are answered or not."""
    idle: list[Any] = []
    times: list[float] = []
    bad, tasks = [0], []

    async def one() -> None:
        began, body = time.perf_counter(), random.choice(bodies)
        kept = bool(idle)
        pair = idle.pop() if kept else await _connection(port)
        try:
            status = await _ask(pair, body)
        except (OSError, asyncio.IncompleteReadError):
            status = 0
            if kept:  # it may have been closed by the service, since it was idle for long
                pair = await _connection(port)
                status = await _ask(pair, body)
        bad[0] += status != 200
        times.append(time.perf_counter() - began)
        idle.append(pair)

    end, next_ = time.perf_counter() + seconds, time.perf_counter()
    while next_ < end:
        await asyncio.sleep(max(next_ - time.perf_counter(), 0))
        tasks.append(asyncio.create_task(one()))
        next_ += random.expovariate(rate)
    await asyncio.gather(*tasks)
    return {"rate": rate, "requests": len(times), "failed": bad[0], **_latency(times)}


def _latency(times: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=100)
    return {"50 % ms": 1000 * cuts[49], "99 % ms": 1000 * cuts[98]}


def _memory(pid: int) -> float:
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return float(sum(p.memory_info().rss for p in family))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a run")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--soak", type=float, default=0)
    parser.add_argument("--connections", default="1,4,16,64")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def _markdown(result: dict[str, Any]) -> str:
    rows = "".join(
        f"| {n} connections | {x['requests/s']:,.0f} | {x['50 % ms']:.1f} | {x['99 % ms']:.1f} |\n"
        for n, x in result["closed"].items()
    )
    half = result["half"]
    rows += f"| half of the highest | {half['rate']:,.0f} | {half['50 % ms']:.1f} | "
    rows += f"{half['99 % ms']:.1f} |\n"
    return (
        heading("p5dist serve", result)
        + f"Run {result['settings']['run']}, one history a request, k {K}, "
        f"{result['settings']['replicas']} replica(s); the model alone: "
        f"{result['bare lists/s']:,.0f} lists a second.\n\n"
        "| | requests/s | 50 % ms | 99 % ms |\n|---|---|---|---|\n" + rows
    )


if __name__ == "__main__":
    main()
