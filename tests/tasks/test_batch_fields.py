"""Batch fields of tasks: hidden positions, pairs, drawn items, attribute labels."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np

from p5dist.data.attributes import Attributes
from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Ints, Jagged
from p5dist.data.labels import AttributeLabels
from p5dist.feed.batch_fields import BatchFields
from p5dist.feed.collate import Collate
from p5dist.feed.masking import with_masked_next
from p5dist.tasks.attributes import LabelFields
from p5dist.tasks.click.negatives import Unclicked
from p5dist.tasks.masked.masking import Cloze
from p5dist.tasks.predictions import ChosenInteractions, NextInteractions, TargetWeights
from p5dist.tasks.skip_gram.pairs import SkipGrams, keep_rates
from tests.data.test_histories import histories

MANY = histories([[1 + (7 * i + j) % 40 for j in range(20)] for i in range(200)])


def test_cloze_hides_as_many_as_it_should() -> None:
    found = Cloze(0.25, 0.0, catalogue=Catalogue(40), seed=1)(MANY, 3)
    total = len(MANY.item)
    assert abs(found.predicted.mean() - 0.25) < 4 * (0.25 * 0.75 / total) ** 0.5
    chosen = found.predicted.sum()
    assert abs(found.hidden.sum() / chosen - 0.8) < 4 * (0.16 / chosen) ** 0.5
    other = found.shown != MANY.item
    assert not (found.hidden & ~found.predicted).any() and not (other & found.hidden).any()
    assert not (other & ~found.predicted).any()
    assert abs(other.sum() / chosen - 0.1 * 39 / 40) < 4 * (0.09 / chosen) ** 0.5
    assert found.shown.min() >= 1 and found.shown.max() <= 40


def test_every_history_of_two_or_more_has_something_to_predict() -> None:
    few = histories([[1, 2], [3], [], [4, 5, 6]])
    found = Cloze(1e-9, 0.0, catalogue=Catalogue(9), seed=1)(few, 0)
    assert found.predicted.tolist() == [False, True, False, False, False, True]


def test_the_share_that_hides_the_last_only() -> None:
    found = Cloze(0.5, 0.4, catalogue=Catalogue(40), seed=1)(MANY, 0)
    per_history = found.predicted.reshape(200, 20)
    only_last = (per_history.sum(1) == 1) & per_history[:, -1]
    assert abs(only_last.mean() - 0.4) < 0.15
    assert found.hidden.reshape(200, 20)[only_last, -1].all()
    always = Cloze(0.0, 1.0, catalogue=Catalogue(40), seed=1)(MANY, 0)
    assert always.hidden.reshape(200, 20).sum(0).tolist() == [0] * 19 + [200]


def test_histories_that_hide_the_last_only_end_anywhere() -> None:
    cloze = Cloze(0.0, 1.0, catalogue=Catalogue(40), seed=1)
    lengths = np.asarray([cloze.cut(MANY, step).lengths for step in range(100)])
    seen = np.bincount(lengths.reshape(-1), minlength=21)
    assert len(seen) == 21 and (seen[:2] == 0).all()
    expected = lengths.size / 19
    assert (np.abs(seen[2:] - expected) < 5 * expected**0.5).all()
    assert (lengths.std(axis=0) > 0).all()
    few = histories([[1, 2], [3], [], [4, 5, 6]])
    for step in range(20):
        cut = cloze.cut(few, step)
        assert cut.lengths.tolist()[:3] == [2, 1, 0] and cut.lengths[3] in (2, 3)
        assert cut.item.tolist() == [1, 2, 3, 4, 5, 6][: len(cut.item)]


def test_only_histories_that_hide_the_last_only_are_cut() -> None:
    cloze = Cloze(0.5, 0.4, catalogue=Catalogue(40), seed=1)
    cut = cloze.cut(MANY, 2)
    found = cloze(cut, 2)
    chosen = np.add.reduceat(found.predicted, cut.offsets[:-1])
    shorter = cut.lengths < 20
    assert 0.2 < shorter.mean() < 0.6
    assert (chosen[shorter] == 1).all() and found.hidden[cut.offsets[1:][shorter] - 1].all()
    assert cut.take(np.flatnonzero(~shorter)).item.tolist() == (
        MANY.take(np.flatnonzero(~shorter)).item.tolist()
    )
    some = np.asarray([150, 3])
    assert cloze.cut(MANY.take(some), 2).lengths.tolist() == cut.lengths[some].tolist()


def test_choices_follow_the_history_the_step_and_the_seed() -> None:
    some = np.asarray([150, 3])
    cloze = Cloze(0.3, 0.2, catalogue=Catalogue(40), seed=1)
    together, alone = cloze(MANY, 5), cloze(MANY.take(some), 5)
    for field in ("predicted", "hidden", "shown"):
        expected = getattr(together, field).reshape(200, 20)[some].reshape(-1)
        assert (getattr(alone, field) == expected).all()
    for other in (cloze(MANY, 6), Cloze(0.3, 0.2, catalogue=Catalogue(40), seed=2)(MANY, 5)):
        assert (other.predicted != together.predicted).any()


def test_a_hidden_interaction_behind_every_history() -> None:
    longer, hidden = with_masked_next(histories([[4, 5], [], [6]]))
    assert longer.lengths.tolist() == [3, 1, 2]
    assert longer.item.tolist() == [4, 5, 0, 0, 6, 0]
    assert hidden.hidden.tolist() == [False, False, True, True, False, True]
    assert np.isnan(longer.rating[hidden.hidden]).all()
    nothing, _ = with_masked_next(Histories.empty())
    assert len(nothing) == 0


def plain_pairs(lists: list[list[int]], window: int) -> set[tuple[int, int]]:
    """All (centre, context) indices at most ``window`` apart in a history."""
    starts = np.cumsum([0, *map(len, lists)])
    return {
        (int(s) + i, int(s) + j)
        for s, items in zip(starts, lists, strict=False)
        for i, j in product(range(len(items)), repeat=2)
        if 0 < abs(i - j) <= window
    }


def test_skip_gram_pairs_are_those_of_a_plain_loop() -> None:
    lists = [[1, 2, 3, 4, 5, 6], [7], [], [8, 9]]
    nothing_left_out = SkipGrams(1, np.ones(9, dtype=np.float32), 1, TargetWeights([1.0]))
    found = nothing_left_out.pairs(histories(lists), 0)
    assert found.shape[1] == len(plain_pairs(lists, 1))
    assert set(map(tuple, found.T.tolist())) == plain_pairs(lists, 1)
    # A wider window is drawn from 1…5: a pair at distance d stays with probability (6 - d) / 5.
    pairs = SkipGrams(5, np.ones(40, dtype=np.float32), 1, TargetWeights([1.0])).pairs(MANY, 0)
    assert set(map(tuple, pairs.T.tolist())) < plain_pairs(MANY.item.reshape(200, 20).tolist(), 5)
    distance = np.bincount(abs(pairs[0] - pairs[1]))
    for d in range(1, 6):
        expected = 200 * 2 * (20 - d) * (6 - d) / 5
        assert abs(distance[d] - expected) < 5 * expected**0.5


def test_skip_grams_leave_out_frequent_items() -> None:
    counts = np.full(40, 10)
    counts[0] = 4000
    # Item 1 has a share of 0.911: it stays with √(0.05 / 0.911) = 0.234; others always.
    pairs = SkipGrams(1, keep_rates(0.05, counts), 1, TargetWeights([1.0])).pairs(MANY, 0)
    kept = np.unique(pairs[0][MANY.item[pairs[0]] == 1])
    there = (MANY.item == 1).sum()
    assert abs(len(kept) / there - 0.234) < 4 * (0.18 / there) ** 0.5
    assert len(np.unique(pairs[0][MANY.item[pairs[0]] != 1])) == (MANY.item != 1).sum()
    # What stays on both sides of it are neighbours.
    assert abs(pairs[0] - pairs[1]).max() == 2


def knowing(given: Histories, had: list[list[int]], had_of: list[int]) -> Histories:
    """The histories of users who have had more than what is in them."""
    offsets = np.cumsum([0, *map(len, had)])
    flat = np.asarray([item for items in had for item in items], dtype=np.int64)
    return replace(given, had=Jagged(offsets, flat), had_of=np.asarray(had_of))


def test_only_ids_that_an_item_has_are_drawn() -> None:
    catalogue = Catalogue(9, np.asarray([1, 4, 5, 9]))
    given = histories([[2, 3] * 200])
    shown = Cloze(0.9, 0.0, catalogue, seed=1)(given, 0).shown
    assert set(shown[shown != given.item].tolist()) <= set(catalogue.ids.tolist())
    assert set(shown.tolist()) == {2, 3, 6, 7, 8}
    drawn = Unclicked(3, catalogue, seed=1).drawn(knowing(given, [[2, 3]], [0]), 0)
    assert set(drawn.reshape(-1).tolist()) == {0, 6, 7, 8}, "0: four draws failed"


def test_drawn_items_are_not_of_the_user() -> None:
    lists = [[1, 2, 3], [4] * 5, list(range(1, 7))]
    given = knowing(histories(lists), [list(range(1, 7)), [1, 2, 3], [4]], [1, 2, 0])
    drawn = Unclicked(4, catalogue=Catalogue(6), seed=1).drawn(given, 2)
    assert drawn.shape == (14, 4)
    assert not (drawn[8:]).any(), "a user that had all items"
    for row, own in zip(drawn[:8], [lists[0]] * 3 + [lists[1]] * 5, strict=True):
        assert not set(row.tolist()) & set(own)
    assert (drawn[:8] > 0).mean() > 0.9
    assert len({tuple(row) for row in drawn[:8].tolist()}) > 5


def test_drawn_items_are_not_of_the_user_where_the_history_is_cut() -> None:
    """The history is the last two interactions of a user who has had all items but item 6."""
    given = knowing(histories([[4, 5], [1]]), [[1, 2, 3, 4, 5], [1]], [0, 1])
    drawn = Unclicked(9, catalogue=Catalogue(6), seed=1).drawn(given, 0)
    assert set(drawn[:2].reshape(-1).tolist()) == {0, 6}
    assert len(set(drawn[2].tolist())) > 2


def test_batches_hold_what_was_asked_for() -> None:
    genre = Attributes(("genre",), (np.asarray([0, 0, 2, 2, 3]),), (np.asarray([2, 1, 3]),))
    brand = Attributes(("brand",), (np.asarray([0, 0, 0, 1, 1]),), (np.asarray([2]),))
    both = Attributes(
        ("genre", "brand"), (*genre.offsets, *brand.offsets), (*genre.values, *brand.values)
    )
    labels = AttributeLabels(both, (3, 2))
    # Items 1, 2, 3 have the genres [2, 1], [], [3] and the brands [], [2], [].
    offsets, values = labels(np.asarray([1, 2, 3]))
    assert offsets.tolist() == [0, 2, 3, 4] and values.tolist() == [1, 0, 4, 2]
    fields = {
        "near": SkipGrams(2, np.ones(3, dtype=np.float32), 1, TargetWeights([1.0])),
        "drawn": Asking(2),
        "genres": LabelFields("item", labels, TargetWeights([1.0])),
        "next": NextInteractions(ranks=True),
        "hidden": ChosenInteractions(ranks=False),
    }
    cloze = Cloze(0.5, 0.0, catalogue=Catalogue(3), seed=1)
    given = knowing(
        histories([[1, 2], [3], [], [1, 2, 3]]), [[1, 2], [3], [], [1, 2, 3]], [0, 1, 2, 3]
    )
    log_q = np.zeros(3, dtype=np.float32)
    batch = Collate(1, masking=cloze, fields=fields)(
        given, step=4, candidates=np.asarray([3, 1, 3]), candidate_log_q=log_q
    )
    ids = batch.items.values()
    assert ids[batch.token].tolist() == [1, 2, 3, 1, 2, 3]
    assert batch.hidden is not None
    ordered = given.take(np.asarray([3, 0, 1, 2]))
    found = cloze(ordered, 4)
    assert ids[batch.seen].tolist() == found.shown.tolist()
    assert batch.hidden.tolist() == found.hidden.tolist()
    assert batch.fields["hidden"]["target"].tolist() == np.flatnonzero(found.predicted).tolist()
    assert len(batch.fields["near"]["at"]) > 0
    assert ids[batch.fields["drawn"]["two"]].tolist() == [[1, 1], [2, 2], [3, 3]] * 2
    # Items 1, 2, 3, 1, 2, 3.
    genres = batch.fields["genres"]
    assert genres["target"].tolist() == [0, 1, 2, 3, 4, 5]
    assert genres["label"].tolist() == [1, 0, 4, 2, 1, 0, 4, 2]
    assert genres["first_label"].tolist() == [0, 2, 3, 4, 6, 7]
    # Item 2, 3 and 2 are predicted; candidates are the items 3, 1, 3.
    assert batch.fields["next"]["target"].tolist() == [1, 2, 4]
    assert batch.fields["next"]["hits"].tolist() == [[1, 1], [0, 2]]
    assert batch.fields["next"]["first_hit"].tolist() == [0, 0, 2, 2]
    assert "hits" not in batch.fields["hidden"] and not batch.candidates_are_items
    plain = Collate(1)(given, candidates=np.asarray([1, 2, 3]))
    assert plain.hidden is None and plain.fields == {} and plain.candidates_are_items
    assert plain.seen.tolist() == plain.token.tolist()
    empty = Collate(1, masking=cloze, fields=fields)(Histories.empty())
    assert {len(made["at"]) for name, made in empty.fields.items() if name != "drawn"} == {0}
    assert empty.fields["drawn"]["two"].shape == (0, 2)


class Asking(BatchFields):
    """Asks for the vector of every interaction's item, ``times`` times."""

    def __init__(self, times: int) -> None:
        self.times = times

    def items(self, histories: Histories, step: int) -> dict[str, Ints]:
        return {"two": np.repeat(histories.item[:, None], self.times, axis=1)}


def test_two_tasks_of_one_kind_have_fields_of_their_own() -> None:
    given = knowing(histories([[1, 2], [3]]), [[1, 2], [3]], [0, 1])
    batch = Collate(1, fields={"a": Asking(2), "b": Asking(5)})(given)
    ids = batch.items.values()
    assert ids[batch.fields["a"]["two"]].tolist() == [[1] * 2, [2] * 2, [3] * 2]
    assert ids[batch.fields["b"]["two"]].tolist() == [[1] * 5, [2] * 5, [3] * 5]
