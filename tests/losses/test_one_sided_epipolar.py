"""The one-sided epipolar error against distances in the plane, and its slopes against differences."""

import pytest
import torch

from flowkit.geometry.epipolar import epipolar_distance, essential_from_pose
from flowkit.geometry.grids import grid_like
from flowkit.geometry.pose import normalise_points
from flowkit.losses.one_sided_epipolar import epipolar_loss, epipolar_squares

SIZE = (5, 7)
FORMS = ("square", "distance", "angle")


def cameras(seed=0, forward=False):
    """K0, K1, E, and the flow of a random scene before them; all (1, ...) float64."""
    return posed(seed, forward)[:4]


def posed(seed=0, forward=False):
    """The same, and R."""
    make = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(*shape, generator=make, dtype=torch.float64)

    K0, K1 = (torch.tensor([[f, 0, 3.1], [0, f, 1.9], [0, 0, 1.0]], dtype=torch.float64) for f in (9.0, 11.0))
    turn = 0.05 * drawn(3, 3)
    R = torch.linalg.matrix_exp(turn - turn.T)
    t = torch.tensor([0, 0, 0.4], dtype=torch.float64) if forward else 0.4 * drawn(3)
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in SIZE), indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], -1)
    points = (pixels @ torch.linalg.inv(K0).T) * (4 + drawn(*SIZE)[..., None].abs())
    seen = (points @ R.T + t) @ K1.T
    flow = seen[..., :2] / seen[..., 2:] - pixels[..., :2]
    return K0[None], K1[None], essential_from_pose(R, t)[None], flow.movedim(-1, 0)[None], R[None]


def test_the_true_flow_costs_nothing_whatever_the_depth():
    K0, K1, E, flow = cameras()
    assert float(epipolar_loss(flow, E, K0, K1)) < 1e-25
    assert float(epipolar_loss(flow + 0.5, E, K0, K1)) > 1e-5


def test_it_is_the_squared_distance_in_the_plane_of_image1():
    K0, K1, E, flow = cameras(1)
    flow = flow + torch.randn(flow.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in SIZE), indexing="ij")
    start = torch.stack([x, y], -1).reshape(1, -1, 2)
    end = start + flow.movedim(1, -1).reshape(1, -1, 2)
    distance = epipolar_distance(E, normalise_points(start, K0), normalise_points(end, K1))
    found = epipolar_squares(flow, E, K0, K1).reshape(1, -1)
    assert torch.allclose(found, distance**2, rtol=1e-9)
    assert torch.allclose(epipolar_squares(flow, -3 * E, K0, K1).reshape(1, -1), found)  # E has no scale here
    assert float(epipolar_loss(flow, E, K0, K1)) == pytest.approx(float(found.mean()))


def test_slopes_by_flow_and_matrix_are_those_of_differences():
    K0, K1, E, flow = cameras(2)
    flow = (flow + 0.3).requires_grad_()
    weight = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: epipolar_loss(a, b, K0, K1, weight), (flow, E.requires_grad_()))


def test_weights_leave_pixels_and_pairs_out():
    K0, K1, E, flow = (torch.cat([part, part]) for part in cameras(3))
    flow[1] += 5
    pairs = torch.tensor([1.0, 0.0], dtype=torch.float64)[:, None, None]
    assert float(epipolar_loss(flow, E, K0, K1, pairs)) < 1e-25
    assert float(epipolar_loss(flow, E, K0, K1, 0 * pairs)) == 0
    pixels = torch.ones(2, *SIZE, dtype=torch.float64)
    flow[0, :, 2, 2] += 5
    pixels[0, 2, 2] = pixels[1] = 0
    pixels[1] = 0
    assert float(epipolar_loss(flow, E, K0, K1, pixels)) < 1e-25


def test_an_epipole_in_the_picture_keeps_it_finite():
    K0, K1, E, flow = cameras(4, forward=True)
    E = essential_from_pose(torch.eye(3, dtype=torch.float64), torch.tensor([0, 0, 1.0], dtype=torch.float64))[None]
    K0[0, 0, 2], K0[0, 1, 2] = 3.0, 2.0  # a pixel's own line is none
    flow = (flow + 1).requires_grad_()
    loss = epipolar_loss(flow, E, K0, K1)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(flow.grad).all()


def test_as_distance_it_is_rho_of_distances_in_pixels():
    K0, K1, E, flow = cameras(4)
    there = flow + 0.3
    pixels = epipolar_squares(there, E, K0, K1) * K1[:, 0, 0, None, None].square()
    expected = float((pixels + 1e-6).pow(0.45).mean())
    assert float(epipolar_loss(there, E, K0, K1, form="distance")) == pytest.approx(expected, rel=1e-9)
    grid = grid_like(flow)
    finer = torch.cat([2 * K1[:, :2], K1[:, 2:]], 1)  # image1 at twice its size: twice the pixels off
    assert float(epipolar_loss(2 * (grid + there) - grid, E, K0, finer, form="distance")) == pytest.approx(
        float((4 * pixels + 1e-6).pow(0.45).mean()), rel=1e-9
    )
    assert torch.autograd.gradcheck(
        lambda a, b: epipolar_loss(a, b, K0, K1, form="distance"), (there.requires_grad_(), E.requires_grad_())
    )


def of_angles(flow, E, K0, K1, R):
    return epipolar_loss(flow, E, K0, K1, form="angle", R=R)


def test_as_angle_it_is_rho_of_the_sine_between_line_and_translation():
    """In the plane of image1, where a line leaves the place that a pixel would have if the camera only turned."""
    K0, K1, E, flow, R = posed(1)
    flow = flow + 0.4 * torch.randn(flow.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    grid = grid_like(flow)
    pixels = torch.cat([grid, torch.ones(1, *SIZE, dtype=torch.float64)])
    lines = torch.einsum("ij,jhw->ihw", torch.linalg.inv(K1[0]).T @ E[0] @ torch.linalg.inv(K0[0]), pixels)
    turned = torch.einsum("ij,jhw->ihw", K1[0] @ R[0] @ torch.linalg.inv(K0[0]), pixels)
    start = turned[:2] / turned[2]
    assert float((lines[:2] * start).sum(0).add(lines[2]).abs().max()) < 1e-12  # it is on the line
    moved = grid + flow[0] - start
    across = (lines[:2] * moved).sum(0) / lines[:2].norm(dim=0)
    squares = across**2 / (moved.square().sum(0) + 0.25)
    assert float(of_angles(flow, E, K0, K1, R)) == pytest.approx(float((squares + 1e-6).pow(0.45).mean()), rel=1e-9)
    with pytest.raises(ValueError, match="needs R"):
        epipolar_loss(flow, E, K0, K1, form="angle")


def test_a_shorter_flow_comes_nearer_to_its_line_but_not_in_angle():
    K = cameras(6)[0]
    R = torch.eye(3, dtype=torch.float64)[None]
    E = essential_from_pose(R[0], torch.tensor([0, 0, 1.0], dtype=torch.float64))[None]
    flow = 100 * torch.randn(1, 2, *SIZE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    cost = {form: [float(epipolar_loss(a * flow, E, K, K, form=form, R=R)) for a in (0.5, 1)] for form in FORMS}
    assert cost["square"][0] == pytest.approx(cost["square"][1] / 4, rel=1e-6)
    assert cost["distance"][0] == pytest.approx(cost["distance"][1] * 0.5**0.9, rel=1e-3)
    assert cost["angle"][0] == pytest.approx(cost["angle"][1], rel=1e-3)


def test_slopes_of_the_angle_are_those_of_differences():
    K0, K1, E, flow, R = posed(2)
    flow = (flow + 0.3).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: of_angles(a, b, K0, K1, R), (flow, E.requires_grad_()))
    R = R.requires_grad_()
    of_angles(flow, E, K0, K1, R).backward()
    assert R.grad is None


def test_a_rotation_that_turns_pixels_out_of_sight_keeps_it_finite():
    K0, K1, E, flow, _ = posed(3)
    away = torch.tensor([[0, 0, 1.0], [0, 1, 0], [-1, 0, 0]], dtype=torch.float64)[None]
    flow = (flow + 0.3).requires_grad_()
    loss = of_angles(flow, E, K0, K1, away)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(flow.grad).all()
