"""The content of a batch against the histories that it was made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from p5dist.config.losses import FullSoftmax, SampledSoftmax
from p5dist.data.attributes import Attributes
from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.feed.collate import Collate, make_buckets
from p5dist.feed.masking import known_times
from p5dist.feed.negatives import Candidates
from p5dist.tasks.masked.masking import Cloze
from tests.data.test_histories import histories

ITEMS = [[5, 7, 5], [9], [], [7, 3, 2, 1, 8]]


def test_tokens_targets_and_distinct_items() -> None:
    batch = Collate(1)(histories(ITEMS), candidates=np.asarray([1, 2, 3, 60]))
    ids = batch.items.values()
    # Sorted by falling length.
    assert ids[batch.token].tolist() == [7, 3, 2, 1, 8, 5, 7, 5, 9]
    assert ids[batch.candidates].tolist() == [1, 2, 3, 60]
    assert len(set(ids.tolist())) == len(ids)
    assert batch.position.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0]
    assert batch.offsets.tolist() == [0, 5, 8, 9, 9] and batch.ends.tolist() == [4, 7, 8]
    assert batch.owner.tolist() == [0] * 5 + [1] * 3 + [2]
    assert batch.histories == 4
    assert batch.rows.tolist() == [3, 0, 1, 2]
    assert batch.rating.tolist() == [3.5, 1.5, 1.0, 0.5, 4.0, 2.5, 3.5, 2.5, 4.5]


def test_users_and_attributes_are_bags_in_the_order_of_the_batch() -> None:
    genre = Attributes(("genre",), (np.asarray([0, 0, 2, 2, 3]),), (np.asarray([4, 5, 6]),))
    users = Attributes(
        ("age",), (np.concatenate([np.zeros(11, np.int64), [1, 1, 1, 2]]),), (np.asarray([7, 8]),)
    )
    batch = Collate(1, genre, users)(histories([[1, 3], [2], [], [1, 2, 3]]))
    assert batch.item_attributes is not None
    # Items 1, 2, 3 have the genres [4, 5], [], [6].
    assert batch.items.values().tolist() == [1, 2, 3]
    assert batch.item_attributes.values().tolist() == [4, 5, 6]
    assert batch.item_attributes.lengths().tolist() == [2, 0, 1]
    # Users 13, 10, 11, 12 and one empty bag; 10 has age 7 and 13 has age 8.
    assert batch.users.keys() == ["user", "age"]
    assert batch.users["user"].values().tolist() == [13, 10, 11, 12]
    assert batch.users["user"].lengths().tolist() == [1, 1, 1, 1, 0]
    assert batch.users["age"].values().tolist() == [8, 7]
    assert batch.users["age"].lengths().tolist() == [1, 1, 0, 0, 0]


def test_a_worker_without_histories_still_has_a_batch() -> None:
    ages = Attributes(("age",), (np.zeros(3, np.int64),), (np.zeros(0, np.int64),))
    batch = Collate(1, None, ages)(Histories.empty())
    assert batch.items.values().tolist() == [0]
    assert len(batch.token) == 0
    assert batch.users.lengths().tolist() == [0, 0]


def test_buckets_hold_every_interaction_once_and_little_padding() -> None:
    lengths = np.sort(np.random.default_rng(0).integers(0, 200, 300))[::-1].copy()
    position = np.concatenate([np.arange(n) for n in lengths])
    buckets, slot = make_buckets(lengths, position)
    assert sum(b.histories for b in buckets) == int((lengths > 0).sum())
    area = 0
    end = 0
    for bucket in buckets:
        assert bucket.tokens.start == end
        end = bucket.tokens.stop
        assert bucket.area == slice(area, area + bucket.histories * bucket.length)
        places = slot[bucket.tokens] - area
        assert len(set(places.tolist())) == len(places)
        assert (places % bucket.length == position[bucket.tokens]).all()
        assert places.max() < bucket.histories * bucket.length
        area += bucket.histories * bucket.length
    assert end == lengths.sum()
    assert area < 1.2 * lengths.sum()


def test_dropout_keys_follow_the_history_and_not_the_batch() -> None:
    together = Collate(1)(histories(ITEMS), step=4)
    alone = Collate(1)(histories(ITEMS).take(np.asarray([3])), step=4)
    assert torch.equal(together.dropout_key[:5], alone.dropout_key)
    assert len(set(together.dropout_key.tolist())) == 9
    assert not torch.equal(Collate(1)(histories(ITEMS), step=5).dropout_key, together.dropout_key)


def test_candidates_are_all_items_or_shared_draws() -> None:
    counts = np.asarray([100, 10, 10, 1])
    ids, log_q = Candidates(FullSoftmax(), counts, Catalogue(len(counts)), 1).at(
        0, Histories.empty()
    )
    assert ids.tolist() == [1, 2, 3, 4]
    assert log_q is None
    loss = SampledSoftmax(kind="sampled_softmax", negatives=20_000, alpha=0.5)
    sampled = Candidates(loss, counts, Catalogue(len(counts)), 1)
    ids, log_q = sampled.at(7, Histories.empty())
    weight = counts**0.5
    expected = 20_000 * weight / weight.sum()
    drawn = np.bincount(ids, minlength=5)[1:]
    assert (abs(drawn - expected) < 5 * expected**0.5).all()
    assert log_q is not None
    assert np.allclose(log_q, np.log(expected)[ids - 1])
    assert sampled.at(7, Histories.empty())[0].tolist() == ids.tolist()
    assert sampled.at(8, Histories.empty())[0].tolist() != ids.tolist()


def test_hidden_interactions_do_not_tell_their_time() -> None:
    given = replace(
        histories([[1, 2, 3, 4], [5, 6, 7], [8], []]),
        timestamp=np.asarray([10, 20, 30, 40, 11, 22, 33, 50]),
    )
    hidden = np.asarray([False, True, True, False, True, False, True, True])
    assert known_times(given, hidden).tolist() == [10, 10, 10, 40, 22, 22, 22, 0]
    assert known_times(given, ~hidden).tolist() == [20, 20, 30, 30, 11, 11, 33, 50]
    # The interaction that is to come has the time of the last one.
    batch = Collate(1, masked_next=True)(given)
    assert batch.timestamp.tolist() == [10, 20, 30, 40, 40, 11, 22, 33, 33, 50, 50, 0]


def test_a_masked_objective_hides_times_as_ranking_does() -> None:
    """The batch of a history whose last interaction is hidden has the times of the shorter history
    with a masked next one."""
    cut = Cloze(0.0, 1.0, Catalogue(9), seed=1)
    given = replace(histories([[1, 2, 3, 4]]), timestamp=np.asarray([10, 20, 30, 40]))
    trained = Collate(1, masking=cut)(given)
    assert trained.hidden is not None
    length = len(trained.token)
    ranked = Collate(1, masked_next=True)(given.take(np.arange(1), np.zeros(1, int), length - 1))
    assert trained.timestamp.tolist() == ranked.timestamp.tolist()
    assert trained.hidden.tolist() == [False] * (length - 1) + [True]
