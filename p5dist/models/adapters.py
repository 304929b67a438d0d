"""The part of the backbone that a fine-tuning trains: all, none, or low-rank adapters."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from p5dist.config.train import Finetune
from p5dist.models.backbone import Backbone
from p5dist.models.tables import ItemTables, UserTables


class LowRank(nn.Linear):
    """A frozen linear layer plus the product of two trained low-rank matrices (LoRA, Hu et al.
    2022): ``W x + b + (alpha / rank) · B A x``; B starts at zero.

    Weight and bias keep their names, so that a checkpoint of the plain layer fits.

    Args:
        linear: the layer to replace.
        rank, alpha: as in config.train.Adapters.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(
            linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta"
        )
        self.weight, self.bias = linear.weight, linear.bias
        self.factor = alpha / rank
        self.lora_a = nn.Parameter(torch.empty(rank, linear.in_features))
        self.lora_b = nn.Parameter(torch.zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """[…, in] → […, out]"""
        low = F.linear(F.linear(x, self.lora_a), self.lora_b)
        return super().forward(x) + self.factor * low


def choose_trained(backbone: Backbone, config: Finetune) -> None:
    """Freeze the parameters that ``config`` does not train, and replace the linear layers of the
    encoder by adapters if ``config`` asks for them. Frozen tables take part in no backward pass:
    neither their rows nor the state of their optimizer change."""
    if config.train != "everything":
        for parameter in dense_parameters(backbone):
            parameter.requires_grad_(False)
    if config.train == "adapters":
        add_adapters(backbone.encoder, config.adapters.rank, config.adapters.alpha)
    if config.frozen_tables or config.train == "head":
        for module in backbone.modules():
            if isinstance(module, (ItemTables, UserTables)):
                module.frozen = True


def dense_parameters(module: nn.Module) -> list[nn.Parameter]:
    """All parameters except embedding tables."""
    kinds = (EmbeddingCollection, EmbeddingBagCollection)
    tables = {id(p) for m in module.modules() if isinstance(m, kinds) for p in m.parameters()}
    return [p for p in module.parameters() if id(p) not in tables]


def add_adapters(module: nn.Module, rank: int, alpha: float) -> None:
    """Replace every linear layer below ``module`` by :class:`LowRank`."""
    for name, child in list(module.named_children()):
        if type(child) is nn.Linear:
            setattr(module, name, LowRank(child, rank, alpha))
        else:
            add_adapters(child, rank, alpha)
