"""One step of a private fine-tuning (DP-SGD, Abadi et al. 2016, with users in place of examples).

Each user of the batch makes a batch of its own, so that no other user can enter its loss: the mean
over its own targets. Its gradient, over everything that is trained together, is clipped; the sum
over the users of all workers and the noise are divided by the nominal batch size, whatever the step
has. Every step gets noise, also one in which nobody has a target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed import DistributedModelParallel

from p5dist.config.run import key_of as key_path
from p5dist.config.train import Finetune, Training
from p5dist.data.batch import Batch
from p5dist.errors import ConfigError
from p5dist.models.precision import dense_part
from p5dist.models.tables import ItemTables, UserTables
from p5dist.train.optimizers import Optimizers
from p5dist.train.private.alone import Alone
from p5dist.train.private.budget import Budget, secret_of
from p5dist.train.private.noise import BLOCK, Noise
from p5dist.train.private.rows import Rows

_TABLE = "table "


@dataclass
class AddedUp:
    """The users of this worker's part of a step."""

    gradients: Tensor
    """[n] sum of the clipped gradients of everything that is trained, flat"""
    losses: Tensor
    """[K] sums over the targets"""
    counted: Tensor
    """[2] users with a gradient, and those of them whose gradient was clipped; float64"""


class Private:
    """What a private stage has beside other stages.

    Args:
        model: the model below the wrappers of TorchRec and DDP.
        rows: its tables.
        optimizers: of the stage.
        budget: of the stage.
        noise: of the run.
        training: the section of the stage.
        device: of the stage.
    """

    def __init__(
        self,
        model: Any,
        rows: Rows,
        optimizers: Optimizers,
        budget: Budget,
        noise: Noise,
        training: Finetune,
        device: torch.device,
    ) -> None:
        self.budget, self.noise, self.rows = budget, noise, rows
        self._model, self._optimizers, self._device = model, optimizers, device
        self._training = training
        frozen = {
            id(p)
            for module in model.modules()
            if isinstance(module, (ItemTables, UserTables)) and module.frozen
            for p in module.parameters()
        }
        self._dense = {
            name: p for name, p in optimizers.dense_parameters.items() if id(p) not in frozen
        }
        sizes = {name: p.shape for name, p in self._dense.items()}
        sizes |= {f"{_TABLE}{t.name}": torch.Size((t.rows, t.dim)) for t in rows.trained}
        self._places: dict[str, tuple[int, torch.Size]] = {}
        self.size = 0
        """n: numbers that are trained."""
        for name, shape in sizes.items():
            self._places[name] = self.size, shape
            self.size += shape.numel()

    def report(self) -> dict[str, Any]:
        """What is trained, for people."""
        return {
            "numbers": self.size,
            "tables": {table.name: table.rows - 1 for table in self.rows.trained},
            "frozen": self.rows.frozen,
        }

    def add_up(self, alone: Alone) -> AddedUp:
        """The clipped gradients of this worker's users; all workers call it."""
        found = AddedUp(
            torch.zeros(self.size, device=self._device),
            torch.zeros(len(self._model.head.names), device=self._device),
            torch.zeros(2, dtype=torch.float64, device=self._device),
        )
        leaves = {**self._dense, **{f"{_TABLE}{n}": c for n, c in self.rows.read().items()}}
        assert list(leaves) == list(self._places)
        together = self.rows.exchanges
        with self.rows.in_place():
            for batch in alone.batches(alone.most if together else 0):
                counts = self._model.head.counts(batch)
                if together or any(counts):
                    self._add_user(found, batch.to(self._device), counts, leaves)
        return found

    def _add_user(
        self, found: AddedUp, batch: Batch, counts: list[float], leaves: dict[str, Tensor]
    ) -> None:
        """Add a user without targets as nothing, after a forward pass for the exchanges in it."""
        with torch.enable_grad(), dense_part(self._training.precision, self._device):
            sums = self._model(batch)
            per_target = [1 / count if count else 0.0 for count in counts]
            loss = self._model.head.combine(sums * sums.new_tensor(per_target))
        if not any(counts):
            return
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        whole = torch.cat([
            torch.zeros_like(leaf).flatten() if gradient is None else _of(name, gradient)
            for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
        ])  # fmt: skip
        clipped, counted = clip_gradient(whole, self.budget.clip)
        found.gradients += clipped
        found.losses += sums.detach()
        found.counted += counted

    @torch.no_grad()
    def apply(self, step: int, sums: Tensor) -> None:
        """Add the noise of ``step``, add up over the workers, and update everything; all workers
        call it."""
        self._add_noise(step, sums)
        dist.all_reduce(sums)
        sums /= self._training.batch_size
        views = self._views(sums)
        for name, p in self._dense.items():
            p.grad = views[name].clone()
        self._optimizers.step()
        gradients = {t.name: views[f"{_TABLE}{t.name}"] for t in self.rows.trained}
        for gradient in gradients.values():
            gradient[0] = 0  # padding
        self.rows.apply(gradients)

    def _add_noise(self, step: int, sums: Tensor) -> None:
        """Each worker makes a part of the blocks, so that every number gets noise once."""
        scale, rank, turn = self.budget.noise * self.budget.clip, dist.get_rank(), 0
        workers = dist.get_world_size()
        for name, (begin, shape) in self._places.items():
            for number, first in enumerate(range(0, shape.numel(), BLOCK)):
                size = min(BLOCK, shape.numel() - first)
                if turn % workers == rank:
                    drawn = torch.from_numpy(self.noise.block(step, name, number, size) * scale)
                    place = slice(begin + first, begin + first + size)
                    sums[place] += drawn.to(self._device, sums.dtype)
                turn += 1

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        """The parts of ``flat`` [n] by name, in the order of parameters and tables."""
        return {
            name: flat[begin : begin + shape.numel()].view(shape)
            for name, (begin, shape) in self._places.items()
        }


def _of(name: str, gradient: Tensor) -> Tensor:
    """Flat; of a table without the gradient of row 0, which is padding."""
    if name.startswith(_TABLE):
        gradient = gradient.clone()
        gradient[0] = 0
    return gradient.flatten()


def clip_gradient(gradient: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """The gradient [n] of a user, scaled down to the norm ``clip`` if it is longer, zero if it is
    not finite; and [2] float64: 1 for the user, and 1 if the gradient was changed."""
    norm = torch.linalg.vector_norm(gradient)
    finite = torch.isfinite(norm)
    scaled = torch.where(finite, gradient * (clip / norm).clamp(max=1.0), 0.0)
    changed = (norm > clip) | ~finite
    return scaled, torch.stack([torch.ones_like(changed), changed]).double()


def open_private(
    model: DistributedModelParallel,
    inner: Any,
    optimizers: Optimizers,
    budget: Budget,
    training: Training,
    *,
    run: str,
    stage: str,
    device: torch.device,
) -> Private:
    """The private part of a stage on this worker.

    Args:
        inner: the model below the wrappers of TorchRec and DDP.
        run: see :class:`.Noise`.

    Raises:
        ConfigError: the key is not set; the task compares users with each other.
    """
    assert isinstance(training, Finetune) and training.privacy is not None
    where = f"{key_path(stage)}.privacy"
    if inner.head.compares_histories:
        raise ConfigError(
            "the loss of a user depends on other users", where=where,
            value=training.task.kind, rule="the task compares the histories of a batch",
            fix="fine-tune with another task, or without privacy",
        )  # fmt: skip
    config = training.privacy
    noise = Noise(secret_of(training, stage), run)
    rows = Rows(model, inner.backbone.items, limit=config.table_rows, device=device)
    return Private(inner, rows, optimizers, budget, noise, training, device)
