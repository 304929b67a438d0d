"""SASRec in plain PyTorch, as it is usually written: every history is padded to the full length.

Positions without a target are removed before the product with the catalogue, since this takes one
line and saves most of the time.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from train_steps import Clock, arguments, histories


class SasRec(nn.Module):
    """Causal transformer over padded histories; pre-norm, GELU, learned positions, tied items."""

    def __init__(
        self, items: int, dim: int, layers: int, heads: int, length: int, dropout: float
    ) -> None:
        super().__init__()
        self.item = nn.Embedding(items + 1, dim, padding_idx=0)
        self.position = nn.Embedding(length, dim)
        nn.init.normal_(self.item.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, dropout, F.gelu, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(dim), False)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))

    def forward(self, seen: Tensor, target: Tensor) -> Tensor:
        """Mean loss of [B, L] histories, padded with 0 at the end, and their next items."""
        x = self.dropout(self.item(seen) + self.position.weight)
        states = self.encoder(x, mask=self.mask, is_causal=True)[target > 0]
        return F.cross_entropy(states @ self.item.weight.T, target[target > 0])


def batches(rows: list[Tensor], batch: int, length: int) -> Iterator[Tensor]:
    """Endless batches [B, length + 1] of the last items of shuffled histories."""
    while True:
        for part in torch.randperm(len(rows)).split(batch):
            if len(part) == batch:
                taken = [rows[i][-length - 1 :] for i in part.tolist()]
                padded = nn.utils.rnn.pad_sequence(taken, batch_first=True)
                yield F.pad(padded, (0, length + 1 - padded.shape[1]))


def main() -> None:
    """Train the steps."""
    a = arguments()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    ids: dict[str, int] = {}
    rows = []
    for _, items in histories(a.sequences):
        numbers = [ids.setdefault(item, len(ids) + 1) for item in items]
        if len(numbers) >= 4:  # leaves two to train on after the last two are left out
            rows.append(torch.tensor(numbers[:-2]))
    model = SasRec(len(ids), a.dim, a.layers, a.heads, a.length, a.dropout)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    clock = Clock(a.warm_up, a.steps)
    for batch in batches(rows, min(a.batch, len(rows)), a.length):
        seen, target = batch[:, :-1], batch[:, 1:]
        optimizer.zero_grad()
        model(seen, target).backward()
        optimizer.step()
        clock.step(int((target > 0).sum()))
        if clock.over:
            break
    clock.show(items=len(ids), version=torch.__version__)


if __name__ == "__main__":
    main()
