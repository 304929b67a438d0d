"""The service without Ray: answers against the Python API, limits, and requests that nobody would
write."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

import p5dist
from p5dist.config import dump_job
from p5dist.errors import RunFolderError
from tests.distributed.stages import train
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data

fastapi = pytest.importorskip("fastapi")
from fastapi.testclient import TestClient  # noqa: E402

from p5dist.serving.app import Settings, make_app  # noqa: E402
from p5dist.serving.limits import Bucket  # noqa: E402
from p5dist.serving.model import Model  # noqa: E402
from p5dist.serving.replies import Reply  # noqa: E402
from p5dist.serving.schema import Health  # noqa: E402


class Here:
    """Answers in this process."""

    def __init__(self, model: Model) -> None:
        self.model = model

    async def recommend(self, body: bytes) -> Reply:
        (found,) = await asyncio.to_thread(self.model.recommend, [body])
        return found

    async def score(self, body: bytes) -> Reply:
        return await asyncio.to_thread(self.model.score, body)

    async def health(self) -> Health:
        return self.model.health()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    job = small_job(
        tmp_path_factory.mktemp("serve"), "prepare.items.title=title",
        "model.inputs={rating: false}", "pretrain.steps=10",
    )  # fmt: skip
    folder = write_small_data(job)
    folder.job.write_text(dump_job(job))
    for stage in job.trainings():
        run_distributed(train, 1, job, stage)
    return str(folder.root)


@pytest.fixture(scope="module")
def model(place: str) -> Model:
    return Model(place)


def client(model: Model, **settings: Any) -> TestClient:
    app = make_app(Here(model), Settings(**settings))
    return TestClient(app, raise_server_exceptions=False)


HISTORIES = [{"items": ["i3", "i9"]}, {"items": []}, {"items": ["i4", "nobody"]}]


def test_lists_are_those_of_the_python_api(model: Model, place: str) -> None:
    answer = client(model).post(
        "/recommend", json={"histories": HISTORIES, "k": 4, "deny": ["i1"], "explain": 1}
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["run"] == place
    table = p5dist.load(place).recommend(
        [["i3", "i9"], [], ["i4"]], k=4, deny=["i1"], explain=1
    ).to_pylist()  # fmt: skip
    found = [
        {"history": owner, "item_id": item["item_id"], "title": item["title"]}
        for owner, items in enumerate(body["lists"])
        for item in items
    ]
    assert found == [{name: row[name] for name in found[0]} for row in table]
    assert body["lists"][1][0]["score"] is None, "popular items have no score"
    reasons = [item["reasons"] for item in body["lists"][0]]
    assert [[r["item_id"] for r in one] for one in reasons] == [
        [r["item_id"] for r in row["reasons"]] for row in table[:4]
    ]
    shares = [r["share"] for one in reasons for r in one]
    expected = [r["share"] for row in table[:4] for r in row["reasons"]]
    assert shares == pytest.approx(expected, abs=1e-5)


def test_requests_are_answered_together_and_each_for_itself(model: Model) -> None:
    def request(items: list[str], **rules: Any) -> bytes:
        return json.dumps({"histories": [{"items": items}], **rules}).encode()

    asked = [
        request(["i3"]), request(["i4"], k=2), request(["nobody"], unknown="error"),
        request(["i5"]), b"{", request(["i6"], where={"genre": "no such genre"}),
    ]  # fmt: skip
    together = model.recommend(asked)
    alone = [model.recommend([one])[0] for one in asked]
    assert [reply.status for reply in together] == [200, 200, 400, 200, 422, 400]
    for one, other in zip(together, alone, strict=True):
        if one.status == 200:
            lists, others = (json.loads(reply.body)["lists"] for reply in (one, other))
            assert [i["item_id"] for i in lists[0]] == [i["item_id"] for i in others[0]]
        else:
            assert one == other


def test_scores_are_those_of_the_python_api(model: Model, place: str) -> None:
    body = {"histories": [{"items": ["i3"]}, {"items": ["i4"]}], "items": [["i1", "i2"], ["i5"]]}
    answer = client(model).post("/score", json=body)
    assert answer.status_code == 200, answer.text
    table = p5dist.load(place).score([["i3"], ["i4"]], [["i1", "i2"], ["i5"]])
    scores = table["score"].to_pylist()
    assert answer.json()["scores"] == [pytest.approx(scores[:2]), pytest.approx(scores[2:])]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 422, "histories"),
        ({"histories": [{"items": ["i3"], "times": [1, 2]}]}, 422, "times has 2 entries"),
        ({"histories": [{"items": ["i3"]}], "k": 0}, 422, "k"),
        ({"histories": [{"items": ["i3"]}], "colour": "red"}, 422, "colour"),
        ({"histories": [{"items": ["nobody"]}], "unknown": "error"}, 400, "nobody"),
        ({"histories": [{"items": ["i3"]}], "allow": []}, 400, "no item"),
        ({"histories": [{"items": ["i3"]}] * 300}, 422, "256"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(
    model: Model, body: dict[str, Any], status: int, said: str
) -> None:
    answer = client(model).post("/recommend", json=body)
    assert answer.status_code == status
    assert said in answer.text and answer.json()["message"] and "Traceback" not in answer.text


def test_limits(model: Model) -> None:
    body = {"histories": [{"items": ["i3"]}]}
    guarded = client(model, token="secret", most_bytes=2000)
    assert guarded.get("/health").json()["items"] == 30
    assert guarded.post("/recommend", json=body).status_code == 401
    allowed = {"Authorization": "Bearer secret"}
    assert guarded.post("/recommend", json=body, headers=allowed).status_code == 200
    large = {"histories": [{"items": ["i3"] * 1000}]}
    assert guarded.post("/recommend", json=large, headers=allowed).status_code == 413
    parts = iter([b"{" + b" " * 3000, b"}"])
    assert guarded.post("/recommend", content=parts, headers=allowed).status_code == 413
    slow = client(model, rate=2)
    statuses = [slow.post("/recommend", json=body).status_code for _ in range(5)]
    assert statuses.count(200) in (2, 3) and statuses[-1] == 429
    metrics = guarded.get("/metrics", headers=allowed).text
    assert 'p5dist_requests_total{path="/recommend",status="200"} 1.0' in metrics


def test_a_bucket_fills_again() -> None:
    bucket = Bucket(1000.0)
    assert sum(bucket.take() for _ in range(3000)) < 1500


def test_another_run_takes_the_place_of_the_first(place: str, tmp_path: Path) -> None:
    model = Model(place)
    with pytest.raises(RunFolderError):
        model.swap(str(tmp_path))
    assert model.health().run == place
    model.swap(place + "/")
    assert model.health().run == place + "/"


def test_no_request_makes_the_service_fail(model: Model) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    app = make_app(Here(model), Settings())
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    for operation in schema.get_all_operations():

        @given(case=operation.ok().as_strategy())
        @settings(
            max_examples=60, deadline=None, phases=[Phase.generate], derandomize=True,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def check(case: Any) -> None:
            answer = case.call()
            assert answer.status_code < 500, (case, answer.text)

        check()
