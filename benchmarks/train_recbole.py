"""recbole's SASRec with recbole's trainer. recbole makes a sample of every prefix: one target."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from recbole.utils import init_seed
from train_steps import Clock, arguments, histories


class Counted:
    """A loader that stops, and counts a step when the trainer comes back for more."""

    shuffle = False

    def __init__(self, loader: Any, clock: Clock) -> None:
        self.loader, self.clock = loader, clock

    def __iter__(self) -> Iterator[Any]:
        while not self.clock.over:
            for batch in self.loader:
                yield batch
                self.clock.step(len(batch))
                if self.clock.over:
                    return


def main() -> None:
    """Train the steps."""
    a = arguments()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "log").mkdir()
        with (Path(folder) / "log" / "log.inter").open("w") as file:
            file.write("user_id:token\titem_id:token\ttimestamp:float\n")
            for user, items in histories(a.sequences):
                file.writelines(f"{user}\t{item}\t{time}\n" for time, item in enumerate(items))
        config = Config(model="SASRec", dataset="log", config_dict={
            "data_path": folder, "checkpoint_dir": folder, "use_gpu": False,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
            "train_neg_sample_args": None, "loss_type": "CE", "train_batch_size": a.batch,
            "MAX_ITEM_LIST_LENGTH": a.length, "hidden_size": a.dim, "inner_size": 4 * a.dim,
            "n_layers": a.layers, "n_heads": a.heads, "hidden_dropout_prob": a.dropout,
            "attn_dropout_prob": a.dropout, "learning_rate": 1e-3, "log_wandb": False,
        })  # fmt: skip
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        loader, _, _ = data_preparation(config, dataset)
        model = SASRec(config, loader.dataset)
        trainer = Trainer(config, model)
        clock = Clock(a.warm_up, a.steps)
        trainer._train_epoch(Counted(loader, clock), 0)
    clock.show(items=dataset.item_num - 1, version=metadata.version("recbole"))


if __name__ == "__main__":
    main()
