"""The items whose id rows a training stage trains; other items are looked up by their attributes
alone."""

from __future__ import annotations

import pyarrow as pa

from p5dist.data.jagged import Bools
from p5dist.storage import Folder

_FILE, _COLUMN = "trained_items.parquet", "trained"


def write_trained(stage: Folder, trained: Bools) -> None:
    """Write ``trained_items.parquet`` into the folder of a training stage.

    Args:
        trained: [items] whether the row of item id i + 1 is trained.
    """
    (stage / _FILE).write_table(pa.table({_COLUMN: trained}))


def read_trained(stage: Folder) -> Bools | None:
    """[items] whether the row of item id i + 1 is trained; None if the stage has written no file,
    as one of an earlier version of p5dist."""
    file = stage / _FILE
    if not file.exists():
        return None
    trained: Bools = file.read_table()[_COLUMN].to_numpy()
    return trained
