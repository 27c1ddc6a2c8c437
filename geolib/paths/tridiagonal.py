"""Batches of symmetric block-tridiagonal systems, by odd-even reduction."""

import torch
from torch import Tensor


def solve(diagonal: Tensor, right: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    r"""Solve :math:`R_{i-1}^T x_{i-1} + A_i x_i + R_i x_{i+1} = b_i`.

    Every other block is eliminated at once, which leaves a system of the same form and half the size: Cholesky's
    factorisation in another order than Thomas's, with log n instead of n steps one after the other.

    Args:
        diagonal: A, ``(B, n, d, d)``, symmetric.
        right: R, ``(B, n - 1, d, d)``.
        b: ``(B, n, d)``.

    Returns:
        x ``(B, n, d)``, and whether each matrix is positive definite ``(B,)``; where it is not, x is meaningless.

    Source:
        Heller 1976, "Some aspects of the cyclic reduction algorithm for block tridiagonal linear systems".
    """
    d = b.shape[-1]
    # the right sides stand beside the diagonal blocks, and what couples blocks has the other sign
    system, coupling = torch.cat([diagonal, b.unsqueeze(-1)], dim=-1), -right
    levels, failed = [], []
    while True:
        n = system.shape[1]
        if n > 1 and n % 2 == 0:
            # one more block, coupled to nothing, gives each block that remains a neighbour on either side
            eye = torch.eye(d, d + 1, dtype=b.dtype, device=b.device).expand(len(b), 1, d, d + 1)
            system = torch.cat([system, eye], dim=1)
            coupling = torch.cat([coupling, torch.zeros_like(eye[..., :d])], dim=1)
        # blocks 0, 2, 4, ... are eliminated; each couples to the one before it and the one after it
        own = system[:, ::2]
        L, info = torch.linalg.cholesky_ex(own[..., :d])
        failed.append(info)
        if n == 1:
            break
        # four parts: to the one before it, -b, to the one after it, -b
        coupled = b.new_zeros(*L.shape[:-1], 2 * d + 2)
        coupled[:, 1:, :, :d] = coupling[:, 1::2].mT
        coupled[:, :-1, :, d + 1 : -1] = coupling[:, ::2]
        coupled[..., d :: d + 1] = -own[..., d:]
        W = torch.linalg.solve_triangular(L, coupled, upper=False)
        levels.append((n, L, W))
        # what is left of block 2j + 1 lies between the eliminated blocks j (on its left) and j + 1
        before, after = W[..., d + 1 :], W[..., : d + 1]
        on_left, on_right = before[:, :-1], after[:, 1:]
        system = system[:, 1::2] - on_left[..., :d].mT @ on_left - on_right[..., :d].mT @ on_right
        coupling = after[:, 1:-1, :, :d].mT @ before[:, 1:-1, :, :d]
    last = torch.linalg.solve_triangular(L, own[..., d:], upper=False)
    own = torch.linalg.solve_triangular(L.mT, last, upper=True).squeeze(-1)
    # beside every block stands minus a half, which either column of -b is multiplied by; what lies before the first and
    # after the last block is multiplied by zero
    x = b.new_full((len(b), 3, d + 1), -0.5)
    x[:, 1:-1, :d] = own
    for n, L, W in reversed(levels):
        # each eliminated block with its neighbours, as they lie in memory
        neighbours = x.as_strided((*W.shape[:2], 2 * d + 2, 1), (x.stride(0), d + 1, 1, 1))
        own = torch.linalg.solve_triangular(L.mT, W @ neighbours, upper=True).squeeze(-1)
        remaining = x[:, 1:-1, :d]
        x = b.new_full((len(b), 2 * own.shape[1] + 1, d + 1), -0.5)
        x[:, 1::2, :d], x[:, 2:-1:2, :d] = own, remaining
        x = x[:, : n + 2]
    return x[:, 1:-1, :d], torch.cat(failed, dim=1).sum(-1) == 0


def solve_regularised(diagonal: Tensor, right: Tensor, b: Tensor) -> Tensor:
    """``solve`` for positive semidefinite matrices: the smallest multiple of the diagonal's mean that makes the matrix
    positive definite is added to its diagonal.

    In directions in which the matrix is zero, that multiple is at the rounding floor and the solution is meaningless.
    """
    d = b.shape[-1]
    kind = torch.finfo(b.dtype)
    scale = diagonal.diagonal(dim1=-2, dim2=-1).mean((-2, -1)).clamp_min(kind.tiny / kind.eps)
    eye = torch.eye(d, dtype=b.dtype, device=b.device)
    x = torch.zeros_like(b)
    todo = torch.arange(len(b), device=b.device)
    level = 10 * kind.eps
    while len(todo) and level < 1e-2:
        ridge = (level * scale[todo])[:, None, None, None] * eye
        part, definite = solve(diagonal[todo] + ridge, right[todo], b[todo])
        x[todo] = torch.where(definite[:, None, None], part, 0.0)
        todo = todo[(~definite).nonzero()[:, 0]]
        level *= 30
    return x


def negative_eigenvalues(diagonal: Tensor, right: Tensor) -> Tensor:
    """How many eigenvalues of each symmetric matrix are negative: ``(B,)``.

    By Sylvester's law of inertia as many as the pivots of the block factorisation have together.

    Args:
        diagonal: ``(B, n, d, d)``, symmetric.
        right: ``(B, n - 1, d, d)``.

    Source:
        Golub & Van Loan 2013, Sec. 8.1.5 and 4.5.1.
    """
    pivot = diagonal[:, 0]
    count = _negative(pivot)
    for k in range(right.shape[1]):
        # a pivot that is singular to the last bit leaves nothing to be told
        reduced = torch.linalg.solve_ex(pivot, right[:, k]).result.nan_to_num(0.0, 0.0, 0.0)
        pivot = diagonal[:, k + 1] - right[:, k].mT @ reduced
        pivot = (pivot + pivot.mT) / 2
        count = count + _negative(pivot)
    return count


def _negative(pivot: Tensor) -> Tensor:
    """How many eigenvalues of each ``(B, d, d)`` are negative; a pivot that overflowed leaves nothing to be told."""
    finite = torch.isfinite(pivot).flatten(1).all(-1)
    return torch.linalg.eigvalsh(torch.where(finite[:, None, None], pivot, 0.0)).lt(0).sum(-1)


def product(diagonal: Tensor, right: Tensor, x: Tensor) -> Tensor:
    """The matrices times ``x (B, n, d)``."""
    out = (diagonal @ x.unsqueeze(-1)).squeeze(-1)
    out[:, :-1] += (right @ x[:, 1:].unsqueeze(-1)).squeeze(-1)
    out[:, 1:] += (right.mT @ x[:, :-1].unsqueeze(-1)).squeeze(-1)
    return out
