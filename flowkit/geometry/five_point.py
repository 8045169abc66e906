"""The five-point problem in batches: all real essential matrices through five matches (Nister, TPAMI 2004).

Matches are in normalised coordinates, K^-1 (x, y, 1); x1' E x0 = 0. Everything is float64 and runs on any device.

>>> E, found = five_point(normalised0, normalised1)     # (B, 5, 2) each -> (B, 10, 3, 3), (B, 10)     # doctest: +SKIP
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from flowkit.geometry.epipolar import epipolar_rows
from flowkit.geometry.real_roots import real_roots
from flowkit.geometry.shapes import check, check_same

SOLUTIONS = 10
"""The most real solutions that a problem has."""
_ELIMINATED = ("xxx", "yyy", "xxy", "xyy", "xxz", "xxw", "yyz", "yyw", "xyz", "xyw")
_LEFT = ("xzz", "xzw", "xww", "yzz", "yzw", "yww", "zzz", "zzw", "zww", "www")
"""The cubic monomials, w = 1, in Nister's order: the first ten are expressed by the last ten."""


def five_point(normalised0: Tensor, normalised1: Tensor, *, polish: int = 4) -> tuple[Tensor, Tensor]:
    """Every real E of B problems: matches (B, 5, 2) -> E (B, 10, 3, 3) float64, ||E|| = sqrt(2), and which are there (B, 10).

    The first ones are, the rest are 0. E = x X + y Y + z Z + W in the null space of the five epipolar constraints; the cubic
    constraints 2 E E' E - tr(E E') E = 0 and det E = 0 leave a polynomial of tenth degree in z, whose real roots are found.
    `polish` steps of Newton's method on the cubics follow, which take an error of 1e-7 to rounding. A degenerate problem
    (matches that repeat, or lie on a line) has no or wrong solutions. ValueError for wrong shapes.
    """
    check("normalised0", normalised0, "B", 5, 2)
    check_same("normalised0", normalised0, "normalised1", normalised1)
    basis = _null_space(normalised0.double(), normalised1.double())
    rows = _reduced(_constraints(basis))
    z, real = real_roots(_tenth_degree(rows))
    z, found = _first(z, real)
    xyz = _back_substituted(rows, z)
    for _ in range(polish):
        xyz = _polished(basis, xyz)
    E = _combined(basis, xyz)
    E = E * (2**0.5 / E.norm(dim=(-2, -1), keepdim=True))
    found = found & torch.isfinite(E).all(-1).all(-1)
    return torch.where(found[..., None, None], E, 0), found


def _null_space(points0: Tensor, points1: Tensor) -> Tensor:
    """(B, 4, 3, 3): X, Y, Z, W, orthonormal, of the epipolar constraints of five matches."""
    columns = epipolar_rows(points0, points1).mT
    # Householder's reflections by hand: torch.linalg.qr on a GPU goes through the batch one by one.
    normals = []
    for k in range(5):
        v = columns[:, k:, k].clone()
        v[:, 0] += torch.where(v[:, 0] < 0, -1, 1) * v.norm(dim=1)
        v = v / v.norm(dim=1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
        columns = torch.cat([columns[:, :k], _reflected(columns[:, k:], v)], 1)
        normals.append(v)
    free = torch.eye(9, dtype=columns.dtype, device=columns.device)[:, 5:].expand(len(columns), 9, 4)
    for k in reversed(range(5)):
        free = torch.cat([free[:, :k], _reflected(free[:, k:], normals[k])], 1)
    return free.mT.unflatten(-1, (3, 3))


def _reflected(columns: Tensor, normal: Tensor) -> Tensor:
    """Columns (B, m, n) mirrored at the plane with that unit normal (B, m)."""
    return columns - 2 * normal[..., None] * (normal[..., None, :] @ columns)


def _constraints(basis: Tensor) -> Tensor:
    """(B, 10, 20): coefficients of the ten cubics, of the monomials in Nister's order."""
    linear = basis.permute(0, 2, 3, 1)  # (B, 3, 3, 4): entries as polynomials in x, y, z, w
    square = torch.einsum("bikm,bjkn->bijmn", linear, linear).flatten(-2)  # E E'
    trace = square.diagonal(dim1=1, dim2=2).sum(-1)
    eye = torch.eye(3, dtype=basis.dtype, device=basis.device)
    factor = 2 * square - eye[:, :, None] * trace[:, None, None]
    cubics = torch.einsum("bijm,bjkn->bikmn", factor, linear).flatten(1, 2).flatten(-2)
    minors = torch.einsum("ijk,bjm,bkn->bimn", _levi_civita(basis), linear[:, 1], linear[:, 2]).flatten(-2)
    determinant = torch.einsum("bim,bin->bmn", minors, linear[:, 0]).flatten(-2)
    return torch.cat([cubics, determinant[:, None]], 1) @ _collecting().to(basis)


@lru_cache(maxsize=1)
def _collecting() -> Tensor:
    """(64, 20): which products of three of x, y, z, w are which monomial."""
    monomials = (*_ELIMINATED, *_LEFT)
    table = torch.zeros(64, len(monomials), dtype=torch.float64, device="cpu")
    for row, factors in enumerate(product("xyzw", repeat=3)):
        name = "".join(sorted(factors, key="xyzw".index))
        table[row, monomials.index(name)] = 1
    return table


def _levi_civita(like: Tensor) -> Tensor:
    cyclic = torch.zeros(3, 3, 3, dtype=like.dtype, device=like.device)
    for i in range(3):
        cyclic[i, (i + 1) % 3, (i + 2) % 3], cyclic[i, (i + 2) % 3, (i + 1) % 3] = 1, -1
    return cyclic


def _reduced(constraints: Tensor) -> Tensor:
    """(B, 3, 13): after elimination the three equations that are left, x p(z) + y q(z) + r(z) = 0 (Nister's k, l, m).

    Of each the coefficients of p (4), q (4) and r (5), constant first.
    """
    left, right = constraints.split(10, -1)
    reduced, info = torch.linalg.solve_ex(left, right)
    reduced = torch.where((info == 0)[:, None, None], reduced, 0)
    with_z, without = reduced[:, 4:10:2], reduced[:, 5:10:2]  # x^2 z and x^2, y^2 z and y^2, xyz and xy
    zero = torch.zeros_like(with_z[..., :1])
    p, q, r = (part.flip(-1) for part in with_z.split((3, 3, 4), -1))
    s, t, u = (part.flip(-1) for part in without.split((3, 3, 4), -1))
    pairs = ((p, s), (q, t), (r, u))
    return torch.cat([torch.cat([a, zero], -1) - torch.cat([zero, b], -1) for a, b in pairs], -1)


def _tenth_degree(rows: Tensor) -> Tensor:
    """(B, 11): the determinant of the three equations in (x, y, 1), a polynomial in z, constant first."""
    p, q, r = rows.split((4, 4, 5), -1)
    total = rows.new_zeros(len(rows), 11)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        minor = _product(p[:, i], q[:, j]) - _product(p[:, j], q[:, i])
        total = total + _product(minor, r[:, k])
    return total


def _product(a: Tensor, b: Tensor) -> Tensor:
    """(B, m + n - 1): the product of polynomials (B, m) and (B, n)."""
    total = a.new_zeros(len(a), a.shape[-1] + b.shape[-1] - 1)
    for k in range(b.shape[-1]):
        total[:, k : k + a.shape[-1]] += a * b[:, k : k + 1]
    return total


def _first(z: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """The real ones in front, ten of them at most."""
    order = real.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[..., :SOLUTIONS]
    return z.gather(-1, order), real.gather(-1, order)


def _back_substituted(rows: Tensor, z: Tensor) -> Tensor:
    """(B, n, 3): x, y and z where the three equations hold; their null vector from the best of three pairs."""
    powers = z[..., None] ** torch.arange(5, device=z.device)
    p, q, r = rows.split((4, 4, 5), -1)
    at_z = [torch.einsum("bnk,bik->bni", powers[..., : part.shape[-1]], part) for part in (p, q, r)]
    equations = torch.stack(at_z, -1)  # (B, n, 3 equations, 3 unknowns)
    candidates = torch.linalg.cross(equations, equations.roll(1, -2), dim=-1)
    best = candidates.square().sum(-1).argmax(-1)[..., None, None]
    null = candidates.take_along_dim(best, -2).squeeze(-2)
    return torch.cat([null[..., :2] / null[..., 2:], z[..., None]], -1)


def _combined(basis: Tensor, xyz: Tensor) -> Tensor:
    """(B, n, 3, 3): x X + y Y + z Z + W."""
    weights = torch.cat([xyz, torch.ones_like(xyz[..., :1])], -1)
    return (weights @ basis.flatten(-2)).unflatten(-1, (3, 3))


def _polished(basis: Tensor, xyz: Tensor) -> Tensor:
    """One Gauss-Newton step on 2 E E' E - tr(E E') E = 0, which also says det E = 0 where E is not 0."""
    E = _combined(basis, xyz)[..., None, :, :]
    D = basis[:, None, :3]  # derivatives of E by x, y, z
    square = E @ E.mT
    trace = square.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    value = 2 * square @ E - trace * E
    cross = D @ E.mT
    change = 2 * (cross + cross.mT) @ E + 2 * square @ D
    change = change - 2 * cross.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] * E - trace * D
    J, residual = change.flatten(-2), value.flatten(-2)
    step, info = torch.linalg.solve_ex(J @ J.mT, J @ residual.mT)
    return xyz - torch.where(info[..., None] == 0, step[..., 0], 0)
