"""Thin-plate splines in the plane: fitting, evaluating and inverting them, in batches.

f(p) = A (p, 1) + sum_i w_i U(|p - c_i|) with U(r) = r^2 log r^2: the least bent map that takes the control points c_i where it
should (Duchon 1977; Bookstein, Principal Warps, PAMI 1989). Points are planes (B, 2, P), x first, in any unit; the arithmetic
is that of the points' precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TINY = 1e-18
"""Squared distances below this count as this: U is 0 there all the same."""


@dataclass(frozen=True)
class ThinPlate:
    """B maps of the plane with N control points each; float64 as fitted."""

    controls: Tensor
    """(B, N, 2): c_i."""
    weights: Tensor
    """(B, 2, N): w_i."""
    affine: Tensor
    """(B, 2, 3): A."""

    def to(self, target: torch.device | torch.dtype) -> ThinPlate:
        """On another device or in another precision."""
        return ThinPlate(self.controls.to(target), self.weights.to(target), self.affine.to(target))

    def __getitem__(self, rows: Tensor | slice) -> ThinPlate:
        """Some of the maps."""
        return ThinPlate(self.controls[rows], self.weights[rows], self.affine[rows])

    def __call__(self, points: Tensor) -> Tensor:
        """(B, 2, P): where points (B, 2, P) go."""
        dx, dy = self._offsets(points)
        squared = dx.square_().addcmul_(dy, dy).clamp_min_(TINY)
        return self._combined(points, squared.log().mul_(squared))

    def with_slope(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Where points (B, 2, P) go, and the derivatives (B, 2, 2, P) there: [:, i, j] is d f_i / d p_j."""
        plate = self.to(points.dtype)
        dx, dy = self._offsets(points)
        squared = (dx.square()).addcmul_(dy, dy).clamp_min_(TINY)
        log = squared.log()
        moved = self._combined(points, squared.mul_(log))
        steep = log.add_(1).mul_(2)
        slopes = torch.stack([plate.weights @ dx.mul_(steep), plate.weights @ dy.mul_(steep)], 2)
        return moved, slopes + plate.affine[..., :2, None]

    def _offsets(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, P) each: x and y of the points less those of the control points."""
        controls = self.controls.to(points.dtype)
        return points[:, :1] - controls[..., :1], points[:, 1:] - controls[..., 1:]

    def _combined(self, points: Tensor, kernel: Tensor) -> Tensor:
        plate = self.to(points.dtype)
        straight = torch.baddbmm(plate.affine[..., 2:], plate.affine[..., :2], points)
        return torch.baddbmm(straight, plate.weights, kernel)


def fit_thin_plate(controls: Tensor, values: Tensor) -> ThinPlate:
    """The splines that take controls (B, N, 2) to values (B, N, 2), solved in float64.

    N >= 3 control points, not all on one line and no two alike: anything else has no solution (torch's error says so).
    """
    controls, values = controls.double(), values.double()
    count = controls.shape[-2]
    squared = (controls[..., :, None, :] - controls[..., None, :, :]).square().sum(-1).clamp_min(TINY)
    ones = torch.ones_like(controls[..., :1])
    linear = torch.cat([controls, ones], -1)
    above = torch.cat([squared * squared.log(), linear], -1)
    below = torch.cat([linear.mT, linear.new_zeros(*linear.shape[:-2], 3, 3)], -1)
    wanted = torch.cat([values, values.new_zeros(*values.shape[:-2], 3, 2)], -2)
    solved = torch.linalg.solve(torch.cat([above, below], -2), wanted)
    return ThinPlate(controls, solved[..., :count, :].mT.contiguous(), solved[..., count:, :].mT.contiguous())


def newton_step(residual: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """The step (B, 2, P) that Newton's method takes off the point, and the determinant (B, P) of the slope (B, 2, 2, P).

    Where the slope is singular the step is endless.
    """
    (a, b), (c, d) = (row.unbind(1) for row in slope.unbind(1))
    u, v = residual.unbind(1)
    area = a * d - b * c
    safe = torch.where(area == 0, torch.finfo(area.dtype).tiny, area)
    return torch.stack([(d * u - b * v) / safe, (a * v - c * u) / safe], 1), area


def solve_thin_plate(plate: ThinPlate, targets: Tensor, start: Tensor, steps: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """The points that go to targets (B, 2, P), by Newton's method from a good `start` (B, 2, P); float64.

    Returned with the size (B, P) of the last step and the determinant (B, P) of the slope before it. Convergence is quadratic,
    so that the error is far below the last step where that is small; elsewhere, near a fold or beyond what the start is good
    for, the last step is large, or the determinant not positive where the plate has turned over.
    """
    rough, single = start.float(), plate.to(torch.float32)
    for _ in range(steps - 1):
        moved, slope = single.with_slope(rough)
        rough = rough - _short(newton_step(moved - targets.float(), slope)[0])
    points = rough.double()
    # The last residual in double precision, for sums of r^2 log r^2 lose digits; the slope need not be as good.
    step, area = newton_step((plate(points) - targets).float(), single.with_slope(rough)[1])
    return points - _short(step), _length(step)[:, 0], area


def start_thin_plate(plate: ThinPlate, targets: Tensor, reach: float = 1.2, steps: int = 12, side: int = 25) -> Tensor:
    """(B, 2, P): the points that go to targets (B, 2, P), found from scratch; meant for few points.

    Newton's method from the best of side x side points that cover [-reach, reach]^2, those aside where the plate has turned
    over; no promise where it does not converge.
    """
    line = torch.linspace(-reach, reach, side, device=targets.device, dtype=targets.dtype)
    lattice = torch.stack(torch.meshgrid(line, line, indexing="xy")).flatten(1).expand(len(targets), -1, -1)
    moved, slope = plate.with_slope(lattice)
    turned = newton_step(moved, slope)[1] <= 0
    nearest = torch.where(turned[:, None], torch.inf, torch.cdist(targets.mT, moved.mT)).argmin(-1)
    points = lattice.gather(2, nearest[:, None].expand(-1, 2, -1))
    for _ in range(steps):
        moved, slope = plate.with_slope(points)
        points = points - _short(newton_step(moved - targets, slope)[0])
    return points


def _short(step: Tensor, longest: float = 0.25) -> Tensor:
    """Steps (B, 2, P) no longer than `longest`, so that Newton's method does not leap away near a fold."""
    return step * (longest / _length(step).clamp_min_(longest)).nan_to_num_(0.0)


def _length(vectors: Tensor) -> Tensor:
    """(B, 1, P): torch's norm along a dimension that is not the last is many times slower on a CPU."""
    x, y = vectors[:, :1], vectors[:, 1:]
    return x.square().addcmul_(y, y).sqrt_()
