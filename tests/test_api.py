"""The Python API: names, a finished run against the files of the stages, and bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import p5dist
from p5dist.config import RunConfig, dump_job
from p5dist.data import columns as c
from p5dist.errors import CheckpointError, ConfigError, DataError, P5Error, RunFolderError
from p5dist.inference import recommend
from p5dist.inference.evaluate import stage as evaluate
from p5dist.storage import RunFolder
from tests.distributed.stages import train
from tests.processes import run_distributed
from tests.small_data import small_job, write_small_data

ITEMS = 30


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, RunFolder]:
    """A run with two trained stages, lists and an evaluation."""
    job = small_job(
        tmp_path_factory.mktemp("api"), "prepare.items.title=title", "recommend.k=7",
        "evaluate.bootstrap=0",
    )  # fmt: skip
    folder = write_small_data(job, items=ITEMS)
    folder.job.write_text(dump_job(job))
    for stage in job.trainings():
        run_distributed(train, 1, job, stage)
    recommend.run(job, folder)
    evaluate.run(job, folder)
    return job, folder


@pytest.fixture(scope="module")
def run(trained: tuple[RunConfig, RunFolder]) -> p5dist.Run:
    return p5dist.load(str(trained[1].root))


def logged(folder: RunFolder) -> list[dict[str, Any]]:
    """The histories as the caller of the API would give them."""
    rows = []
    for name in (folder.prepare / "shards").children():
        rows += (folder.prepare / "shards" / name).read_table().to_pylist()
    return [
        {
            "user": f"u{row[c.USER]}",
            "items": [f"i{i}" for i in row[c.ITEM]],
            "ratings": row[c.RATING],
        }
        for row in rows
    ]


def test_the_public_names() -> None:
    assert p5dist.__all__ == ["Job", "P5Error", "Run", "Vectors", "__version__", "load", "run"]
    assert all(getattr(p5dist, name) is not None for name in p5dist.__all__)
    assert dir(p5dist) == sorted(p5dist.__all__)
    assert all(getattr(p5dist, name).__doc__ for name in p5dist.__all__ if name != "__version__")
    with pytest.raises(AttributeError, match="no attribute 'recommend'"):
        p5dist.recommend  # noqa: B018


def test_lists_are_those_of_the_recommend_stage(
    trained: tuple[RunConfig, RunFolder], run: p5dist.Run
) -> None:
    folder = trained[1]
    users = logged(folder)
    found = run.recommend(
        [user["items"] for user in users], k=7, ratings=[user["ratings"] for user in users]
    )
    written = (folder.recommend / "part-00000.parquet").read_table()
    names = pa.array([user["user"] for user in users]).take(found["history"].combine_chunks())
    assert names.to_pylist() == written[c.USER_ID].to_pylist()
    for name in (c.RANK, c.ITEM_ID, c.TITLE):
        assert found[name].to_pylist() == written[name].to_pylist()
    assert found[c.SCORE].to_pylist() == pytest.approx(written[c.SCORE].to_pylist(), abs=1e-5)
    assert found.schema.metadata == {
        b"p5dist.interactions_skipped": b"0", b"p5dist.histories_without_items": b"0"
    }  # fmt: skip


def test_seen_items_are_listed_if_the_caller_says_so(run: p5dist.Run) -> None:
    history, ratings = [[f"i{i}" for i in range(1, 29)]], [[3.0] * 28]
    masked = run.recommend(history, k=40, ratings=ratings)
    assert set(masked[c.ITEM_ID].to_pylist()) == {"i29", "i30"}
    everything = run.recommend(history, k=40, ratings=ratings, mask_seen=False)
    assert everything[c.RANK].to_pylist() == list(range(1, 31))


def test_an_empty_history_gets_the_most_popular_items(
    trained: tuple[RunConfig, RunFolder], run: p5dist.Run
) -> None:
    counts = (trained[1].prepare / "vocabulary/item.parquet").read_table()[c.COUNT].to_numpy()
    popular = [f"i{i + 1}" for i in np.argsort(-counts, kind="stable")[:5]]
    found = run.recommend([["i3"], []], k=5, ratings=[[4.0], []])
    assert found[c.ITEM_ID].to_pylist()[5:] == popular
    assert np.isnan(found[c.SCORE].to_numpy()[5:]).all()
    assert found.schema.metadata[b"p5dist.histories_without_items"] == b"1"
    assert len(run.recommend([], k=5, ratings=[])) == 0


def test_filters_are_those_of_the_recommend_stage(run: p5dist.Run) -> None:
    history, ratings = [["i4", "i9"], []], [[5.0, 2.0], []]
    whole = run.recommend(history, k=30, ratings=ratings, mask_seen=False)
    first = np.asarray(whole["history"]) == 0
    names = np.asarray(whole[c.ITEM_ID].to_pylist())[first]
    scores = dict(zip(names, np.asarray(whole[c.SCORE])[first].tolist(), strict=True))
    # Item i has genre 1 + (i - 1) mod 3, none if i - 1 is a multiple of 4.
    allowed = [f"i{i}" for i in range(1, 20)]
    kept = [
        n for n in names
        if n in allowed and n not in ("i2", "i8") and (int(n[1:]) - 1) % 4 and int(n[1:]) % 3 == 2
    ]  # fmt: skip
    found = run.recommend(
        history, k=30, ratings=ratings, mask_seen=False, allow=[*allowed, "no such item"],
        deny=["i2", 8, "i8"], where={"genre": ["genre 2", "genre 3"]},
        not_where={"genre": "genre 3"},
    )  # fmt: skip
    own = np.asarray(found["history"]) == 0
    listed = np.asarray(found[c.ITEM_ID].to_pylist())
    assert listed[own].tolist() == kept and sorted(listed[~own]) == sorted(kept)
    assert found[c.SCORE].to_pylist()[: len(kept)] == [scores[name] for name in kept]
    assert found.schema.metadata[b"p5dist.candidate_items"] == str(len(kept)).encode()
    assert found.schema.metadata[b"p5dist.unknown_filter_ids"] == b"2"


def test_penalty_and_diversity_from_python(
    trained: tuple[RunConfig, RunFolder], run: p5dist.Run
) -> None:
    history, ratings = [["i4", "i9"]], [[5.0, 2.0]]
    counts = (trained[1].prepare / "vocabulary/item.parquet").read_table()[c.COUNT].to_numpy()
    whole = run.recommend(history, k=30, ratings=ratings)
    plain = dict(zip(whole[c.ITEM_ID].to_pylist(), whole[c.SCORE].to_pylist(), strict=True))
    lowered = {n: s - 2 * float(np.log1p(counts[int(n[1:]) - 1])) for n, s in plain.items()}
    found = run.recommend(history, k=4, ratings=ratings, popularity_penalty=2)
    best = sorted(lowered, key=lambda n: -lowered[n])[:4]
    assert found[c.ITEM_ID].to_pylist() == best
    assert found[c.SCORE].to_pylist() == pytest.approx([lowered[n] for n in best], abs=1e-5)

    diverse = run.recommend(history, k=4, ratings=ratings, diversity=0.9, candidates=6)
    among = list(plain)[:6]
    vectors = run.item_vectors(among).values
    normed = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    values = np.array([plain[n] for n in among])
    scaled = (values - values.min()) / np.ptp(values)
    chosen = [0]
    while len(chosen) < 4:
        worth = 0.1 * scaled - 0.9 * (normed @ normed[chosen].T).max(1)
        worth[chosen] = -np.inf
        chosen.append(int(worth.argmax()))
    assert diverse[c.ITEM_ID].to_pylist() == [among[i] for i in chosen]
    assert run.recommend(history, k=4, ratings=ratings).equals(whole.slice(0, 4))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"diversity": 1.0}, ConfigError, "diversity"),
        ({"popularity_penalty": -1}, ConfigError, "popularity_penalty"),
        ({"diversity": 0.5, "candidates": 2}, ConfigError, "candidates 2 is less than k 5"),
        ({"where": {"genre": []}}, ConfigError, r"where\.genre"),
        ({"where": {"genre": "Genre 1"}}, DataError, "did you mean 'genre 1'"),
        ({"allow": "i1"}, DataError, "allow must be a list"),
        ({"allow": []}, DataError, "no item is left to list"),
        ({"deny": [f"i{i}" for i in range(1, 31)]}, DataError, "no item is left to list"),
    ],
)
def test_mistaken_filters(
    run: p5dist.Run, settings: dict[str, Any], error: type[P5Error], message: str
) -> None:
    with pytest.raises(error, match=message):
        run.recommend([["i4"]], k=5, ratings=[[5.0]], **settings)


def test_ratings_of_given_items_are_those_of_the_evaluation(
    trained: tuple[RunConfig, RunFolder], run: p5dist.Run
) -> None:
    """The test interaction of every user, asked with the interactions before."""
    folder = trained[1]
    targets = (folder.evaluate / "targets.parquet").read_table().to_pylist()
    users = {user["user"]: user for user in logged(folder)}
    asked = [users[f"u{target['user']}"] for target in targets]
    found = run.score(
        [user["items"][:-1] for user in asked],
        [user["items"][-1:] for user in asked],
        ratings=[user["ratings"][:-1] for user in asked],
        users=[user["user"] for user in asked],
    )
    assert found["history"].to_pylist() == list(range(len(asked)))
    expected = [target["predicted"] for target in targets]
    # Histories are shuffled by the user's number, which a caller's user has as well.
    assert np.clip(found[c.SCORE].to_numpy(), 1, 5).tolist() == pytest.approx(expected, abs=1e-4)


def test_metrics_are_those_of_the_evaluation(
    trained: tuple[RunConfig, RunFolder], run: p5dist.Run
) -> None:
    written = json.loads((trained[1].evaluate / "result.json").read_bytes())
    assert run.evaluation == written
    assert run.metrics["ndcg@10"] == written["metrics"]["ndcg@10"]["value"]
    assert "rmse" in run.metrics


def test_an_unknown_metric_names_those_that_there_are(run: p5dist.Run) -> None:
    with pytest.raises(ConfigError, match=r"(?s)no such metric.*ndcg@7.*ndcg@10"):
        run.metrics["ndcg@7"]
    assert run.metrics.get("ndcg@7") is None


def test_scores_are_inner_products_of_vectors(run: p5dist.Run) -> None:
    history, ratings = [["i4", "i9"]], [[5.0, 2.0]]
    users = run.user_vectors(history, ratings=ratings)
    items = run.item_vectors()
    listed = run.recommend(history, k=30, ratings=ratings, mask_seen=False)
    scores = dict(zip(listed[c.ITEM_ID].to_pylist(), listed[c.SCORE].to_pylist(), strict=True))
    assert users.shape == (1, 16) and items.values.shape == (len(items.ids), 16)
    for name, vector in zip(items.ids, items.values, strict=True):
        assert scores[name] == pytest.approx(float(vector @ users[0]), abs=1e-5)
    some = run.item_vectors(["i9", "i4"])
    assert some.ids == ["i9", "i4"]
    assert np.array_equal(some.values[1], items.values[items.ids.index("i4")])


def test_similar_items_are_those_of_the_largest_cosine(run: p5dist.Run) -> None:
    items = run.item_vectors()
    found = run.similar_items(["i4", "i7"], k=3)
    assert found[c.ITEM_ID].to_pylist() == ["i4"] * 3 + ["i7"] * 3
    normed = items.values / np.linalg.norm(items.values, axis=1, keepdims=True)
    for row, asked in enumerate(("i4", "i7")):
        cosine = normed @ normed[items.ids.index(asked)]
        cosine[items.ids.index(asked)] = -2
        best = [items.ids[i] for i in np.argsort(-cosine)[:3]]
        assert found["similar_id"].to_pylist()[3 * row : 3 * row + 3] == best
    assert found[c.TITLE].to_pylist()[0].startswith("title ")


def test_a_job_is_built_in_python_or_read_from_a_file(tmp_path: Path) -> None:
    job = p5dist.Job(name="shop", prepare={"source": {"files": "log.csv"}}, pretrain={"steps": 10})
    (tmp_path / "job.yaml").write_text(dump_job(job))
    again = p5dist.Job.from_file(tmp_path / "job.yaml", ["pretrain.steps=11"])
    assert again == job.replaced("pretrain.steps=11") and again.pretrain.steps == 11
    with pytest.raises(ConfigError, match=r"modle: unknown key(.|\n)*did you mean 'model'"):
        p5dist.Job(name="shop", prepare={"source": {"files": "log.csv"}}, modle={})
    with pytest.raises(ConfigError, match=r"feed\.lanes"):
        job.replaced("feed.lanes=1", "scale.workers=2")


def test_stages_are_run_from_python(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "user_id,item_id\n" + "".join(f"{u},{i}\n" for u in "abc" for i in range(4))
    )
    job = p5dist.Job(
        name="shop",
        storage=str(tmp_path),
        prepare={"source": {"files": str(tmp_path / "log.csv")}, "vocabulary": {"of": "all"}},
    )
    assert p5dist.run(job, ["prepare"])["prepare"]["rows_kept"] == 12
    (tmp_path / "job.yaml").write_text(dump_job(job))
    assert p5dist.run(str(tmp_path / "job.yaml"), ["prepare"])["prepare"]["users"] == 3
    with pytest.raises(ConfigError, match="unknown stage 'train'"):
        p5dist.run(job, ["train"])
    with pytest.raises(ConfigError, match="overrides are for job files"):
        p5dist.run(job, overrides=["seed=2"])
    with pytest.raises(RunFolderError, match="trains nothing"):
        p5dist.load(str(tmp_path / "shop"))


def test_it_needs_no_ray(trained: tuple[RunConfig, RunFolder]) -> None:
    code = (
        "import sys, p5dist; assert not {'torch', 'ray'} & set(sys.modules)\n"
        f"run = p5dist.load({str(trained[1].root)!r})\n"
        "print(len(run.recommend([['i1']], k=3, ratings=[[5]])), 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["3", "False"], done.stderr


RATED = {"ratings": [[4.0, 3.0]]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.recommend([["i1", "x9"]], **RATED), r"'x9' \(history 0\)"),
        (lambda r: r.recommend(["i1"], ratings=[[1.0]]), "lists of lists"),
        (lambda r: r.recommend(None), "lists of lists"),
        (lambda r: r.recommend(one for one in (["i1"], ["i2"])), "lists of lists"),
        (lambda r: r.score([["i1"]], ["i2"], ratings=[[1.0]]), "items must be lists"),
        (lambda r: r.recommend([["i1", "i2"]]), "the model reads the ratings"),
        (lambda r: r.recommend([["i1", "i2"]], ratings=[[1.0]]), "1 for 2 interactions"),
        (lambda r: r.recommend([["i1", "i2"]], ratings=[[1.0, "good"]]), "history 0, entry 1"),
        (lambda r: r.recommend([["i1", "i2"]], times=[[5, 4]], **RATED), "4 after 5"),
        (lambda r: r.recommend([["i1", "i2"]], times=[["now", 4]], **RATED), "ISO 8601"),
        (lambda r: r.recommend([["i1", "i2"]], events=[["view", "hug"]], **RATED), "view, buy"),
        (lambda r: r.recommend([["i1", "i2"]], users=["a", "b"], **RATED), "one user for each of"),
        (lambda r: r.score([["i1", "i2"]], [["x9"]], **RATED), "'x9'"),
        (lambda r: r.score([["i1", "i2"]], [], **RATED), "one list for each of 1"),
        (lambda r: r.score([["i1", "i2"]], [["i3"]], at=[], **RATED), "at and histories"),
        (lambda r: r.similar_items(["x9"]), "'x9'"),
        (lambda r: r.item_vectors(["x9"]), "'x9'"),
    ],
)
def test_bad_input_names_place_value_and_rule(run: p5dist.Run, call: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        call(run)


def test_settings_that_make_no_sense(run: p5dist.Run) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        run.recommend([["i1"]], k=0, ratings=[[1.0]])
    for k in (2.5, "3", True):
        with pytest.raises(ConfigError, match="a whole number"):
            run.recommend([["i1"]], k=k, ratings=[[1.0]])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"unknown(.|\n)*'eror'(.|\n)*'error' or 'skip'"):
        run.user_vectors([["i1"]], ratings=[[1.0]], unknown="eror")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"no such task(.|\n)*finetune/rating"):
        run.score([["i1"]], [["i2"]], task="finetune/click", ratings=[[1.0]])


def test_an_interaction_may_be_without_a_rating(run: p5dist.Run) -> None:
    without = run.user_vectors([["i1", "i2"]], ratings=[[None, 2.0]])
    assert np.isfinite(without).all()
    assert (without == run.user_vectors([["i1", "i2"]], ratings=[[float("nan"), 2.0]])).all()


def test_unknown_items_may_be_left_out(run: p5dist.Run) -> None:
    with pytest.warns(UserWarning, match="1 interactions with items"):
        found = run.recommend([["i1", "x9"]], k=3, unknown="skip", **RATED)
    assert found.schema.metadata[b"p5dist.interactions_skipped"] == b"1"
    same = run.recommend([["i1"]], k=3, ratings=[[4.0]])
    assert found[c.ITEM_ID].to_pylist() == same[c.ITEM_ID].to_pylist()


def test_an_item_without_a_vector_is_named(
    trained: tuple[RunConfig, RunFolder], tmp_path: Path
) -> None:
    """Items 1, 5, … have no genre; here item 5 is not trained on either."""
    run = p5dist.load(str(trained[1].root))
    count = run._items.count.copy()
    count[4] = 0
    run._items = replace(run._items, count=count)
    with pytest.raises(DataError, match=r"no vector of an item(.|\n)*'i5'"):
        run.similar_items(["i5"])
    assert "i5" not in run.item_vectors().ids
    assert "i5" not in run.similar_items(["i4"], k=29)["similar_id"].to_pylist()


def test_what_is_no_finished_run(trained: tuple[RunConfig, RunFolder], tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no run here"):
        p5dist.load(str(tmp_path))
    job = small_job(tmp_path)
    folder = write_small_data(job)
    folder.job.write_text(dump_job(job))
    with pytest.raises(CheckpointError, match="run the training stage"):
        p5dist.load(str(folder.root))
    text = dump_job(job).replace("kind: causal", "kind: missing_package.tasks:Clever")
    folder.job.write_text(text)
    with pytest.raises(ConfigError, match=r"cannot be imported(.|\n)*missing_package") as caught:
        p5dist.load(str(folder.root))
    assert "install the package" in str(caught.value)
    with pytest.raises(ConfigError, match="no such stage"):
        p5dist.load(str(trained[1].root), stage="finetune/rating")
    assert issubclass(ConfigError, P5Error)


def test_reasons_are_interactions_of_the_history(run: p5dist.Run) -> None:
    given = [["i3", "i9", "i4"], [], ["i7", "i7"]]
    stars = [[3.0, 4.0, 5.0], [], [1.0, 2.0]]
    table = run.recommend(given, k=4, ratings=stars, explain=2)
    assert table.column_names[-3:] == ["reasons", "counted", "attributes"]
    plain = run.recommend(given, k=4, ratings=stars)
    for name in ("history", "rank", "item_id"):
        assert table[name].equals(plain[name])
    some = 0
    for row in table.to_pylist():
        own = given[row["history"]]
        assert len(row["reasons"]) <= 2 and (row["reasons"] == [] or own)
        assert {reason["item_id"] for reason in row["reasons"]} <= set(own)
        shares = [reason["share"] for reason in row["reasons"]]
        assert shares == sorted(shares, reverse=True) and sum(shares) < 1 + 1e-5
        some += len(shares)
    assert some > 4
    with pytest.raises(ConfigError, match="explain"):
        run.recommend(given, ratings=stars, explain=0)


def test_one_id_is_no_list_of_ids(run: p5dist.Run) -> None:
    for call in (run.similar_items, run.item_vectors):
        with pytest.raises(DataError, match="must be a list of item ids"):
            call("i12")
