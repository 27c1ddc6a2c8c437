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
    n, d = b.shape[1:]
    if n % 2 == 0:
        # one more block, coupled to nothing, gives each block that remains a neighbour on either side
        eye = torch.eye(d, dtype=b.dtype, device=b.device).expand(len(b), 1, d, d)
        diagonal, right = torch.cat([diagonal, eye], dim=1), torch.cat([right, torch.zeros_like(eye)], dim=1)
        b = torch.cat([b, torch.zeros_like(b[:, :1])], dim=1)
    # blocks 0, 2, 4, ... are eliminated; each couples to the one before it and the one after it
    L, failed = torch.linalg.cholesky_ex(diagonal[:, ::2])
    definite = (failed == 0).all(-1)
    if n == 1:
        return torch.cholesky_solve(b.unsqueeze(-1), L).squeeze(-1), definite
    coupled = b.new_zeros(*L.shape[:-1], 2 * d + 1)
    coupled[:, 1:, :, :d] = right[:, 1::2].mT
    coupled[:, :-1, :, d:-1] = right[:, ::2]
    coupled[..., -1] = b[:, ::2]
    W = torch.linalg.solve_triangular(L, coupled, upper=False)
    # what is left of block 2j + 1 lies between the eliminated blocks j (on its left) and j + 1
    on_left, on_right = W[:, :-1, :, d:], W[:, 1:, :, :]
    before, after = on_left[..., :d], on_right[..., :d]
    remaining, definite_rest = solve(
        diagonal[:, 1::2] - before.mT @ before - after.mT @ after,
        -after[:, :-1].mT @ on_right[:, :-1, :, d:-1],
        b[:, 1::2] - (before.mT @ on_left[..., d:]).squeeze(-1) - (after.mT @ on_right[..., 2 * d :]).squeeze(-1),
    )
    rest = W[..., -1:].clone()
    rest[:, :-1] -= before @ remaining.unsqueeze(-1)
    rest[:, 1:] -= after @ remaining.unsqueeze(-1)
    x = torch.empty_like(b)
    x[:, ::2] = torch.linalg.solve_triangular(L.mT, rest, upper=True).squeeze(-1)
    x[:, 1::2] = remaining
    return x[:, :n], definite & definite_rest


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
        x[todo[definite]] = part[definite]
        todo = todo[~definite]
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
    count = torch.linalg.eigvalsh(pivot).lt(0).sum(-1)
    for k in range(right.shape[1]):
        # a pivot that is singular to the last bit leaves nothing to be told
        reduced = torch.linalg.solve_ex(pivot, right[:, k]).result.nan_to_num(0.0, 0.0, 0.0)
        pivot = diagonal[:, k + 1] - right[:, k].mT @ reduced
        pivot = (pivot + pivot.mT) / 2
        count = count + torch.linalg.eigvalsh(pivot).lt(0).sum(-1)
    return count


def product(diagonal: Tensor, right: Tensor, x: Tensor) -> Tensor:
    """The matrices times ``x (B, n, d)``."""
    out = (diagonal @ x.unsqueeze(-1)).squeeze(-1)
    out[:, :-1] += (right @ x[:, 1:].unsqueeze(-1)).squeeze(-1)
    out[:, 1:] += (right.mT @ x[:, :-1].unsqueeze(-1)).squeeze(-1)
    return out
