"""Block-tridiagonal systems: solved, products and inertia, against dense matrices."""

import pytest
import torch

from geolib.paths import tridiagonal

pytestmark = pytest.mark.smoke

DTYPE = torch.float64


def dense(A, R):
    """The whole matrices ``(B, n d, n d)`` of diagonal blocks ``(B, n, d, d)`` and those to their right."""
    B, n, d, _ = A.shape
    full = torch.zeros(B, n, d, n, d, dtype=DTYPE)
    for i in range(n):
        full[:, i, :, i] = A[:, i]
        if i + 1 < n:
            full[:, i, :, i + 1], full[:, i + 1, :, i] = R[:, i], R[:, i].mT
    return full.reshape(B, n * d, n * d)


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 12, 31])
def test_block_tridiagonal_systems_are_solved(n, d, generator):
    B = 4
    A, R = torch.randn(2, B, n, d, d, generator=generator, dtype=DTYPE)
    A = A @ A.mT + 6 * torch.eye(d)
    full = dense(A, R)
    b = torch.randn(B, n, d, generator=generator, dtype=DTYPE)
    x, definite = tridiagonal.solve(A, R[:, : n - 1], b)
    expected = torch.linalg.eigvalsh(full)[:, 0] > 0
    assert torch.equal(definite, expected)
    torch.testing.assert_close(x[expected].flatten(1), torch.linalg.solve(full, b.flatten(1))[expected])


def test_an_indefinite_system_is_told_and_leaves_its_neighbours_alone():
    A = torch.eye(2, dtype=DTYPE).repeat(3, 5, 1, 1)
    R = torch.zeros(3, 4, 2, 2, dtype=DTYPE)
    b = torch.ones(3, 5, 2, dtype=DTYPE)
    for k in range(5):
        broken = A.clone()
        broken[1, k, 1, 1] = -1
        x, definite = tridiagonal.solve(broken, R, b)
        assert definite.tolist() == [True, False, True]
        assert torch.equal(x[[0, 2]], b[[0, 2]])


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("n", [1, 2, 7, 12])
def test_products_and_inertia(n, d, generator):
    A, R = torch.randn(2, 6, n, d, d, generator=generator, dtype=DTYPE)
    A, R = A + A.mT, R[:, : n - 1]
    full = dense(A, R)
    x = torch.randn(6, n, d, generator=generator, dtype=DTYPE)
    torch.testing.assert_close(tridiagonal.product(A, R, x).flatten(1), (full @ x.flatten(1)[..., None])[..., 0])
    expected = torch.linalg.eigvalsh(full).lt(0).sum(-1)
    assert n * d < 3 or len(expected.unique()) > 1
    assert torch.equal(tridiagonal.negative_eigenvalues(A, R), expected)


def test_a_pivot_that_overflowed_costs_the_others_nothing():
    """An eigenvalue solver would raise an error for all of them."""
    diagonal = torch.eye(2).expand(3, 4, 2, 2).clone()
    diagonal[1, 2] = torch.inf
    diagonal[2, 3] *= -1
    assert tridiagonal.negative_eigenvalues(diagonal, torch.zeros(3, 3, 2, 2)).tolist() == [0, 0, 2]
