"""Tasks on processes of this machine and on Ray: the same files, and no leftovers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from p5dist.config.scale import Scale
from p5dist.environment.processes import Processes
from p5dist.environment.workers import RayTasks, Workers, workers_for
from p5dist.errors import DataError, ResourceError
from tests.prepare.runs import dirty_rows, make_job, prepared, write_csv


@pytest.fixture(params=["processes", "ray"])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    if request.param == "ray":
        request.getfixturevalue("ray_session")
    processes = request.param == "processes"
    with closing(Processes("test", 2) if processes else RayTasks(Scale(), "test")) as found:
        yield found


def power(base: np.ndarray, exponent: int) -> np.ndarray:
    if exponent < 0:
        raise DataError("a negative exponent", value=exponent)
    return base**exponent


def broken(_: int) -> None:
    raise KeyError("what it looked for")


def die(code: int) -> None:
    os._exit(code)


def test_results_and_errors(workers: Workers) -> None:
    base = workers.share(np.arange(3))
    found = dict(workers.results(power, [(base, n) for n in range(20)]))
    assert {n: v.tolist() for n, v in found.items()} == {n: [0**n, 1, 2**n] for n in range(20)}
    with pytest.raises(DataError, match="a negative exponent") as error:
        list(workers.results(power, [(base, n) for n in (3, -1, 2, 2)]))
    assert error.value.value == "-1"
    # What a pass that failed has left behind does not disturb the next one.
    assert [v.tolist() for _, v in workers.results(power, [(base, 2)])] == [[0, 1, 4]]
    with pytest.raises((RuntimeError, KeyError), match="what it looked for"):
        list(workers.results(broken, [(1,)]))


def test_the_same_files(workers: Workers, tmp_path: Path) -> None:
    log = write_csv(tmp_path / "log.csv", dirty_rows(seed=2, n=1500))
    clean = {"keep_rejected": True, "min_user_interactions": 24, "min_item_interactions": 18}
    split = {"kind": "time", "validation": 0.1, "test": 0.1}
    found = []
    for name, runner in (("one", None), ("other", workers)):
        job = make_job(tmp_path / name, {"files": log}, clean=clean, split=split)
        options = {} if runner is None else {"workers": runner}
        _, folder = prepared(job, range_bytes=10_000, **options)
        names = [f for f in folder.rglob("*") if f.is_file() and f.name != "result.json"]
        found.append({str(f.relative_to(folder)): f.read_bytes() for f in names})
    assert found[0] == found[1] and len(found[0]) > 8


def test_a_worker_of_a_cluster_that_is_lost(ray_session: None) -> None:
    with pytest.raises(ResourceError, match="a process on the cluster was lost") as error:
        list(RayTasks(Scale(), "prepare").results(die, [(7,)]))
    assert error.value.where == "prepare" and "again" in str(error.value.fix)


def test_a_worker_that_is_lost() -> None:
    with closing(Processes("prepare", 2)) as workers:
        with pytest.raises(ResourceError, match="a worker process was lost") as error:
            list(workers.results(die, [(7,)]))
        assert error.value.value == "exit code 7"
        assert dict(workers.results(power, [(2, 3), (2, 4)])) == {0: 8, 1: 16}


def test_a_job_without_a_cluster_needs_no_ray() -> None:
    with closing(workers_for(Scale(), "prepare")) as workers:
        assert isinstance(workers, Processes)
    code = (
        "import p5dist.prepare.stage, p5dist.environment.workers, sys; "
        "assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_workers_end_with_a_driver_that_is_killed() -> None:
    code = (
        "import time; from p5dist.environment.processes import Processes\n"
        "print(*(w.process.pid for w in Processes('test', 2)._all), flush=True); time.sleep(100)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    workers = [int(pid) for pid in driver.stdout.readline().split()]
    assert len(workers) == 2 and all(Path(f"/proc/{pid}").exists() for pid in workers)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    end = time.monotonic() + 60
    while any(_runs(pid) for pid in workers):
        assert time.monotonic() < end
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
