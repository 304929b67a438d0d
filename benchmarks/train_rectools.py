"""rectools' SASRec with its Lightning trainer."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from train_steps import Clock, arguments, histories


class Count(Callback):
    """Targets are the positions that are not padding."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, *words: Any) -> None:
        """(trainer, module, outputs, batch, index)"""
        self.clock.step(int((words[3]["y"] != 0).sum()))


def main() -> None:
    """Train the steps."""
    a = arguments()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    rows = [
        (user, item, 1.0, time)
        for user, items in histories(a.sequences)
        for time, item in enumerate(items[:-2])
    ]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "weight", "datetime"])
    log["datetime"] = pd.to_datetime(log["datetime"], unit="s")
    clock = Clock(a.warm_up, a.steps)

    def trainer() -> Trainer:
        return Trainer(
            max_steps=a.warm_up + a.steps, max_epochs=-1, accelerator="cpu", devices=1,
            logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[Count(clock)],
        )  # fmt: skip

    model = SASRecModel(
        n_factors=a.dim, n_blocks=a.layers, n_heads=a.heads, session_max_len=a.length,
        batch_size=a.batch, dropout_rate=a.dropout, loss="softmax", lr=1e-3,
        get_trainer_func=trainer,
    )  # fmt: skip
    model.fit(Dataset.construct(log))
    assert model.fit_trainer is not None
    # fit works with a copy of the trainer.
    (count,) = (c for c in model.fit_trainer.callbacks if isinstance(c, Count))
    count.clock.show(items=int(log["item_id"].nunique()), version=metadata.version("rectools"))


if __name__ == "__main__":
    main()
