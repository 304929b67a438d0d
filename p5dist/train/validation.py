"""Validation during training: exact ranking of held-out interactions by all workers together.

It is the evaluation's own ranking (p5dist/ranking), with the tables where they are: every worker
looks up all item vectors once and ranks the targets of its share of the users. Which users are
ranked does not depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist

from p5dist.config import RunConfig
from p5dist.config.train import Validation
from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.manifest import Manifest
from p5dist.data.randomness import Stream, uniform
from p5dist.errors import ConfigError
from p5dist.inference.scorer import Scorer
from p5dist.ranking.metrics import rank_values
from p5dist.ranking.targets import Targets
from p5dist.ranking.topk import VectorRanker, rank_of
from p5dist.storage import RunFolder
from p5dist.train.session import Session

Floats = npt.NDArray[np.float64]

_USERS_AT_ONCE = 1024


def make_validator(session: Session, folder: RunFolder) -> Validator | None:
    """The validation of a stage; None where its job asks for none."""
    config = session.training.validation
    if config is None:
        return None
    targets = read_targets(session.job, folder, session.manifest, config)
    return Validator(
        config,
        lambda: Scorer(
            session.inner,
            session.collate,
            session.manifest.items,
            session.job.feed.max_length,
            shuffled=session.training.shuffled,
        ),
        targets,
    )


class Validator:
    """Scores the model as it is; all workers call it at the same step.

    Args:
        make: the model as it is now, ready to score.
        targets: this worker's share.
    """

    def __init__(self, config: Validation, make: Callable[[], Scorer], targets: Targets) -> None:
        self.config = config
        self._make = make
        self._targets = targets

    def __call__(self) -> float:
        """The metric over all targets of all workers.

        Raises:
            ConfigError: no user with a target was chosen.
        """
        values = self._squared_errors if self.config.metric == "rmse" else self._gains
        total = torch.zeros(2, dtype=torch.float64)
        for found in values(self._make()):
            total += torch.tensor([found.sum(), float(len(found))])
        dist.all_reduce(total)
        if total[1] == 0:
            raise ConfigError(
                "none of the users chosen by chance can be validated on",
                where="validation.users", value=self.config.users,
                rule=f"{self.config.metric} needs a target", fix="raise validation.users",
            )  # fmt: skip
        mean = float(total[0] / total[1])
        return mean**0.5 if self.config.metric == "rmse" else mean

    def _gains(self, scorer: Scorer) -> Iterator[Floats]:
        ranker = VectorRanker(scorer)
        k = int(self.config.metric.split("@")[1])
        for part in self._batches():
            ranks = rank_of(
                ranker, part.histories, part.owner, part.item, mask_seen=self.config.mask_seen
            )
            yield rank_values(ranks, (k,))[self.config.metric]

    def _squared_errors(self, scorer: Scorer) -> Iterator[Floats]:
        for part in self._batches():
            predicted = scorer.ratings(part.histories, part.owner, part.item).double().numpy()
            known = ~np.isnan(part.rating)
            yield np.square(predicted[known] - part.rating[known].astype(np.float64))

    def _batches(self) -> Iterator[Targets]:
        """Equally many on every worker, since looking up items takes all of them."""
        own = list(self._targets.batches(_USERS_AT_ONCE))
        most = torch.tensor(len(own))
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        nobody = Targets.of(Histories.empty(), c.VALIDATION)[0]
        yield from [*own, *[nobody] * (int(most) - len(own))]


def read_targets(
    job: RunConfig, folder: RunFolder, manifest: Manifest, config: Validation
) -> Targets:
    """This worker's share of the validation interactions of about ``config.users`` users.

    Raises:
        ConfigError: the prepared data has no validation interactions.
    """
    users = manifest.rows_by_split.get("validation", 0)
    if not users:
        raise ConfigError(
            "there is nothing to validate on", where="validation",
            rule="the split keeps interactions for validation",
            fix="choose a split that does (prepare.split), or leave validation out",
        )  # fmt: skip
    columns = [c.USER, c.ITEM, c.SPLIT, c.LATEST, *job.history_columns()]
    parts = [Histories.empty()]
    number = 0
    for shard in manifest.shards:
        place = folder.prepare / shard.path
        with pq.ParquetFile(place.path, filesystem=place.fs) as file:
            first = shard.first_row
            for group, rows in enumerate(shard.groups):
                if number % dist.get_world_size() == dist.get_rank():
                    table = file.read_row_group(group, columns=columns)
                    parts.append(_chosen(table, first, config.users / users, job.seed))
                first += rows
                number += 1
    return Targets.of(Histories.concat(parts), c.VALIDATION)[0]


def _chosen(table: pa.Table, first_row: int, share: float, seed: int) -> Histories:
    histories = Histories.from_table(table, first_row + np.arange(len(table)))
    held_out = np.unique(histories.owner()[histories.split == c.VALIDATION])
    latest = table[c.LATEST].to_numpy(zero_copy_only=False)
    held_out = held_out[latest[held_out]]
    return histories.take(
        held_out[uniform(seed, Stream.EVALUATED_USERS, histories.row[held_out]) < share]
    )
