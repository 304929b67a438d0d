"""The biases of users and items that ratings are predicted from; the model learns what is left.

They are fitted once for the prepared data and lie in ``prepare/biases-<labels>/``; ``biases.json``
is written last.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from p5dist.data import columns as c
from p5dist.data.histories import Histories
from p5dist.data.labelled import LabelledUsers
from p5dist.data.reader import ShardReader
from p5dist.errors import DataError
from p5dist.ranking.baselines import Biases
from p5dist.storage import Folder
from p5dist.storage.arrays import LocalCopies, write_array
from p5dist.tasks.task import Context

_ABOUT = "biases.json"
_INTERACTIONS = 20_000_000
"""Approximate limit of the training interactions that are fitted, of users chosen at random."""
_ROWS = 65_536  # read at once


def make_biases(context: Context, labelled: LabelledUsers | None) -> None:
    """Fit and write, unless that is done.

    Args:
        labelled: users whose ratings are known; None: all.

    Raises:
        DataError: no interaction has a rating.
    """
    folder = _folder(context, labelled)
    if _is_fitted(context, labelled):
        return
    found = _fit(context, labelled)
    (folder / _ABOUT).remove()
    folder.make()
    write_array(folder / "item.npy", found.item.astype(np.float32))
    write_array(folder / "count.npy", found.count.astype(np.int32))
    (folder / _ABOUT).write_json({"of": context.manifest.fingerprint, "mean": found.mean})


def read_biases(context: Context, labelled: LabelledUsers | None) -> Biases:
    """What :func:`make_biases` wrote, mapped; without it, fitted in this process.

    Raises:
        DataError: as there.
    """
    if not _is_fitted(context, labelled):
        return _fit(context, labelled)
    folder, copies = _folder(context, labelled), LocalCopies()
    item, count = (copies.mapped(folder / f"{name}.npy") for name in ("item", "count"))
    return Biases((folder / _ABOUT).read_json()["mean"], item, count)


def _folder(context: Context, labelled: LabelledUsers | None) -> Folder:
    share = "1" if labelled is None else f"{labelled.share:g}-{labelled.seed}"
    return context.folder / f"biases-{share}"


def _is_fitted(context: Context, labelled: LabelledUsers | None) -> bool:
    file = _folder(context, labelled) / _ABOUT
    return bool(file.exists() and file.read_json()["of"] == context.manifest.fingerprint)


def _fit(context: Context, labelled: LabelledUsers | None) -> Biases:
    found = Biases.fit(_histories(context, labelled), context.manifest.items)
    if found is None:
        raise DataError(
            "no training interaction has a rating", where="prepare",
            rule="the rating task learns from ratings",
            fix="correct prepare.source.columns.rating, or prepare.clean.rating_range",
        )  # fmt: skip
    return found


def _histories(context: Context, labelled: LabelledUsers | None) -> Iterator[Histories]:
    """Training histories of all users, or of the first ones in the order of the shards (a random
    sample, since users are spread by a hash) with about _INTERACTIONS interactions."""
    manifest = context.manifest
    share = max(1.0, manifest.rows_by_split["train"] / _INTERACTIONS)
    wanted, read = max(1, int(manifest.histories / share)), 0
    reader = ShardReader(context.folder, manifest, (c.RATING,))
    for portion in reader.portions(_ROWS):
        if read >= wanted:
            return
        users = reader.users(portion).histories
        if labelled is not None:
            users = users.take(np.flatnonzero(labelled(users.user)))
        yield users.training()
        read += portion.rows
