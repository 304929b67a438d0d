"""Item vectors from a factorised matrix of co-occurrence; no training."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array

from p5dist.data.catalogue import Catalogue
from p5dist.data.histories import Histories
from p5dist.data.jagged import Floats, Ints, Jagged
from p5dist.ranking.counts import csr_tensor
from p5dist.ranking.products import HeldItems, rank_products
from p5dist.ranking.tiles import Query
from p5dist.ranking.topk import Ranked

SMOOTHING = 0.75
"""Power of the context counts."""
LAST = 10
"""Number of last interactions of a history that make the user's vector."""
AGE_DECAY = 0.8
_MORE, _ITERATIONS = 16, 6  # vectors more than wanted


@dataclass(frozen=True)
class PpmiSvd:
    """Items by a truncated singular value decomposition of their positive pointwise mutual
    information (PPMI): what skip-gram with negative sampling (item2vec) factorises implicitly.

    With n(i, j) = c(i, j) + c(j, i), c the counts of :func:`.item_to_item.pair_counts`, n(i) =
    Σ_j n(i, j) and the context distribution smoothed by the power 0.75 (Levy, Goldberg and Dagan
    2015, sections 3.2 and 3.3),

    ``PPMI(i, j) = max(0, log(n(i, j) / (n(i) · n(j)^0.75) · Σ_k n(k)^0.75))``

    with the shift log 1 = 0 (Levy and Goldberg 2014). Item vectors are the rows of U · √S of the
    ``dim`` largest singular values; the vector of a user is ``Σ_{a < 10} 0.8^a · v(h_a)`` over the
    last interactions h_0 (the last), h_1, …; scores are inner products.
    """

    catalogue: Catalogue
    item_vectors: npt.NDArray[np.float32]
    """[L, dim], L the largest id; row i belongs to item id i + 1; 0 of an item without pairs."""

    name = "ppmi_svd"
    fitted_on = "item pairs at most 10 interactions apart in training histories"

    @classmethod
    def fit(cls, forward: csr_array, catalogue: Catalogue, dim: int, seed: int) -> PpmiSvd:
        """Factorise the counts; the result depends on the counts, dim and seed only.

        One process holds it all: some 70 bytes per pair of ``forward`` (sum, PPMI and its transpose
        have up to twice as many entries), and 4 · (dim + 16) columns of L float32.

        Args:
            forward: [L, L] counts of :func:`.item_to_item.pair_counts`.
            catalogue: the items that are ranked.
            dim: length of a vector; a smaller catalogue leaves the last elements 0.
            seed: of the start vectors of the iteration.
        """
        vectors = np.zeros((catalogue.largest, dim), dtype=np.float32)
        u, s = _svd(ppmi(forward + forward.T), min(dim, catalogue.largest), seed)
        vectors[:, : len(s)] = u * np.sqrt(s)
        return cls(catalogue, vectors)

    def rank_and_list(
        self, histories: Histories, owner: Ints, target: Ints, k: int, *, seen: Jagged | None
    ) -> Ranked:
        """See :class:`.topk.Ranker`."""
        users = torch.from_numpy(self.user_vectors(histories))
        ((ranked,),) = rank_products([Query(users, owner, target, seen)], self._items, k)
        return ranked

    @cached_property
    def _items(self) -> HeldItems:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return HeldItems(torch.from_numpy(self.item_vectors), self.catalogue)

    def user_vectors(self, histories: Histories) -> npt.NDArray[np.float32]:
        """[B, dim]; 0 of an empty history."""
        recent = histories.last(LAST)
        age = recent.lengths[recent.owner()] - 1 - recent.position()
        share = (AGE_DECAY**age).astype(np.float32)
        shape = len(recent), len(self.item_vectors)
        vectors: npt.NDArray[np.float32] = (
            csr_array((share, recent.item - 1, recent.offsets), shape=shape) @ self.item_vectors
        )
        return vectors


def ppmi(pairs: csr_array) -> csr_array:
    """[L, L] positive pointwise mutual information of counts of pairs [L, L] (row: item, column:
    context), see :class:`PpmiSvd`."""
    found = csr_array(pairs, dtype=np.float64, copy=True)
    item, context = found.sum(1), found.sum(0) ** SMOOTHING
    found.data *= context.sum()
    found.data /= np.repeat(item, np.diff(found.indptr))
    found.data /= context[found.indices]
    np.log(found.data, out=found.data)
    np.maximum(found.data, 0, out=found.data)
    found.eliminate_zeros()
    return found


def _svd(matrix: csr_array, dim: int, seed: int) -> tuple[Floats, Floats]:
    """Left singular vectors [L, n] and singular values [n], the largest first, n at most ``dim``;
    of each vector the element of the largest magnitude is positive.

    By randomised subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4), in a sixth
    of the time of Lanczos iterations; of small matrices exactly.
    """
    rows, width = matrix.shape[0], dim + _MORE
    if not matrix.nnz:
        return np.zeros((rows, 0)), np.zeros(0)
    if width >= rows:
        u, s, _ = np.linalg.svd(matrix.toarray())
    else:
        a, transposed = csr_tensor(matrix), csr_tensor(matrix.T.tocsr())
        start = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
        basis = torch.linalg.qr(a @ start).Q
        for _ in range(_ITERATIONS):
            basis = torch.linalg.qr(a @ torch.linalg.qr(transposed @ basis).Q).Q
        small, values, _ = torch.linalg.svd((transposed @ basis).T, full_matrices=False)
        u, s = (basis @ small).double().numpy(), values.double().numpy()
    u, s = u[:, :dim], s[:dim]
    largest = np.abs(u).argmax(0)
    return u * np.sign(u[largest, np.arange(len(s))]), s
