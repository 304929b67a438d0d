"""Every setting of the recommend stage against a plain sort, and the same with two actors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from p5dist.config.output import Ranking
from p5dist.errors import DataError
from p5dist.inference import recommend
from tests.fake_scorer import item_matrix, load_fake
from tests.inference.lists.made import (
    ITEMS,
    K,
    best,
    counts_of,
    histories_of,
    ids_of,
    job_at,
    made,
    parts_of,
    prepared,
    scores_of,
)


def test_some_users(tmp_path: Path) -> None:
    job, folder = prepared(tmp_path)
    everybody, result = made(job, folder)
    assert result["users"] == 50 and "unknown_users" not in result
    whole = parts_of(folder)
    (tmp_path / "users.csv").write_text("name,user_id\na,u49\nb,u2\nc,nobody\nd,u2\ne,u1\n")
    some, result = made(job_at(tmp_path, f"recommend.users={tmp_path}/users.csv"), folder)
    assert some == {user: everybody[user] for user in ("u1", "u2", "u49") if user in everybody}
    assert (result["users"], result["rows"]) == (3, sum(map(len, some.values())))
    assert (result["unknown_users"], result["unknown_users_named"]) == (1, ["nobody"])
    assert len(whole) > 5 and list(parts_of(folder)) == ["part-00000.parquet", max(whole)]
    (tmp_path / "users.csv").write_text("user_id\nnobody\n")
    with pytest.raises(DataError, match="the log has none of the users"):
        made(job_at(tmp_path, f"recommend.users={tmp_path}/users.csv"), folder)
    assert (folder.recommend / "result.json").exists()  # the mistake is found before anything else


def rules(tmp_path: Path) -> tuple[list[str], set[int]]:
    """Settings that filter items, and the ids of the others."""
    (tmp_path / "allow.txt").write_text("".join(f"i{i}\n" for i in range(1, 23)))
    (tmp_path / "deny.txt").write_text("i2\nunknown\ni7\n")
    settings = [
        f"recommend.allow={tmp_path}/allow.txt", f"recommend.deny={tmp_path}/deny.txt",
        "recommend.where={genre: [genre 1, genre 3]}", "recommend.not_where={genre: genre 3}",
    ]  # fmt: skip
    # Item i has no genre if (i - 1) is a multiple of 4, else genre 1 + (i - 1) mod 3.
    kept = {i for i in range(1, 23) if (i - 1) % 4 and (i - 1) % 3 == 0} - {2, 7}
    return settings, set(range(1, ITEMS + 1)) - kept


@pytest.mark.parametrize("mask", [True, False])
def test_filters(tmp_path: Path, mask: bool) -> None:
    settings, hidden = rules(tmp_path)
    job, folder = prepared(tmp_path, *settings, f"recommend.mask_seen={str(mask).lower()}")
    found, result = made(job, folder)
    for user, history in histories_of(folder).items():
        seen = set(history) if mask else set()
        assert ids_of(found, user) == best(scores_of(history), hidden | seen)
    assert (result["candidate_items"], result["catalogue"]) == (ITEMS - len(hidden), ITEMS)
    assert result["unknown_ids"] == {"allow": 0, "deny": 1}
    assert result["users"] == 50


def test_a_filter_changes_no_score_of_the_mixture(tmp_path: Path) -> None:
    """Excluded items are hidden after the probabilities are computed."""
    settings, hidden = rules(tmp_path)
    job, folder = prepared(tmp_path, f"recommend.k={ITEMS}", "recommend.mask_seen=false")
    mixed = job.model_copy(update={"ranking": Ranking(item_to_item=0.6)})
    whole, _ = made(mixed, folder)
    filtered = job_at(tmp_path, *settings, "recommend.mask_seen=false")
    found, _ = made(filtered.model_copy(update={"ranking": Ranking(item_to_item=0.6)}), folder)
    for user, own in whole.items():
        assert found[user] == [row for row in own if int(row[0][1:]) not in hidden][:K]


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_the_penalty_for_popular_items(tmp_path: Path, share: float) -> None:
    job, folder = prepared(tmp_path, f"recommend.k={ITEMS}", "recommend.mask_seen=false")
    mixed = {"ranking": Ranking(item_to_item=share)}
    plain, _ = made(job.model_copy(update=mixed), folder)
    penalised = job_at(tmp_path, "recommend.popularity_penalty=1.5", "recommend.mask_seen=false")
    found, _ = made(penalised.model_copy(update=mixed), folder)
    cost = 1.5 * np.log(1 + counts_of(folder))
    assert cost.max() > 2
    for user, own in plain.items():
        lowered = {name: score - cost[int(name[1:]) - 1] for name, score in own if score}
        order = sorted(lowered, key=lambda name: (-lowered[name], int(name[1:])))[:K]
        assert [name for name, _ in found[user]] == order
        scores = [score for _, score in found[user]]
        assert scores == pytest.approx([lowered[name] for name in order], abs=1e-4)


def test_diversity(tmp_path: Path) -> None:
    settings = ("recommend.diversity=0.6", "recommend.candidates=9")
    job, folder = prepared(tmp_path, *settings)
    found, _ = made(job, folder)
    matrix = item_matrix(ITEMS).astype(np.float64)
    normed = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    changed = 0
    for user, history in histories_of(folder).items():
        scores = scores_of(history)
        among = best(scores, set(history), 9)
        values = np.array([scores[i - 1] for i in among], dtype=np.float64)
        span = float(np.ptp(values)) or 1.0
        scaled = dict(zip(among, (values - values.min()) / span, strict=True))
        chosen: list[int] = []
        while len(chosen) < min(K, len(among)):
            chosen.append(
                max(
                    (i for i in among if i not in chosen),
                    key=lambda i: (
                        0.4 * scaled[i]
                        - 0.6 * max((normed[i - 1] @ normed[j - 1] for j in chosen), default=0)
                    ),
                )
            )
        assert ids_of(found, user) == chosen
        changed += chosen != among[:K]
    assert changed > 30


def test_the_same_with_two_actors(tmp_path: Path, ray_session: None) -> None:
    settings, _ = rules(tmp_path)
    (tmp_path / "users.txt").write_text("".join(f"u{i}\n" for i in range(1, 50, 3)))
    settings += [
        f"recommend.users={tmp_path}/users.txt", "recommend.diversity=0.3",
        "recommend.popularity_penalty=0.5",
    ]  # fmt: skip
    job, folder = prepared(tmp_path, *settings)
    here, _ = made(job, folder)
    parts = parts_of(folder)
    assert 10 < len(here) <= 17 and len(parts) > 3
    made(job_at(tmp_path, *settings, "scale.actors=2"), folder)
    assert parts_of(folder) == parts


def test_mistakes_are_found_before_anything_is_deleted(tmp_path: Path) -> None:
    job, folder = prepared(tmp_path)
    made(job, folder)
    before = parts_of(folder)
    (tmp_path / "stock.txt").write_text("nothing\n")
    for setting, message in (
        (f"recommend.stock={tmp_path}/stock.txt", "no item is left to list"),
        ("recommend.where={genre: Genre 2}", "did you mean 'genre 2'"),
        (f"recommend.deny={tmp_path}/no.txt", r"recommend\.deny"),
    ):
        with pytest.raises(DataError, match=message):
            recommend.run(job_at(tmp_path, setting), folder, load=load_fake)
    assert parts_of(folder) == before
