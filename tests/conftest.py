"""Fixtures that all tests share."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.s3 import FaultProxy, Store, environment, free_port, moto_server

ROOT = Path(__file__).parent.parent
LONGEST = ("end_to_end", "faults", "golden", "test_example_package.py", "test_notebook.py")
"""Files and folders of tests/ that start first: none is left for one process at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.relative_to(ROOT / "tests").parts[0] not in LONGEST)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real data sets; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("P5DIST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set P5DIST_DATA to a folder that holds it")
    return folder


@pytest.fixture(scope="session")
def s3_proxy() -> Iterator[FaultProxy]:
    """The address of an S3 store, in the environment of this process and of all it starts."""
    with (
        FaultProxy(("127.0.0.1", free_port())).running() as proxy,
        pytest.MonkeyPatch.context() as m,
    ):
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            m.delenv(name)
        for name, value in environment(proxy).items():
            m.setenv(name, value)
        yield proxy


@pytest.fixture(scope="session")
def s3_server(s3_proxy: FaultProxy) -> Iterator[FaultProxy]:
    """The store itself, which takes seconds to start."""
    with moto_server(s3_proxy.upstream[1]):
        yield s3_proxy


@pytest.fixture
def s3(s3_server: FaultProxy) -> Iterator[Store]:
    """A new bucket, and no faults."""
    store = Store(s3_server, f"bucket-{uuid.uuid4().hex[:8]}")
    store.client().create_bucket(Bucket=store.bucket)
    s3_server.clear()
    yield store
    s3_server.clear()


@pytest.fixture(scope="session")
def ray_session(s3_proxy: FaultProxy) -> Iterator[None]:
    """One Ray cluster for all tests of the session; its workers find the S3 store."""
    import ray

    from p5dist.config.scale import Scale
    from p5dist.environment.ray_session import connect

    with pytest.MonkeyPatch.context() as m:
        m.setenv("RAY_metrics_report_interval_ms", "500")  # ten seconds else
        connect(Scale())
    yield
    ray.shutdown()
