import cv2
import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from flowkit.geometry.epipolar import essential_from_pose
from flowkit.geometry.homography import transform_points
from flowkit.geometry.pose import (
    decompose_essential,
    matrix_from_quaternion,
    normalise_points,
    quaternion_from_matrix,
    recover_pose,
    relative_pose,
    rotation_angle,
    rotation_homography,
    so3_exp,
    so3_log,
    translation_angle,
    triangulate,
)

K = torch.tensor([[500, 0, 320], [0, 510, 240], [0, 0, 1]], dtype=torch.float64)
AXES = torch.randn(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
R = so3_exp(torch.tensor([0.1, -0.2, 0.05], dtype=torch.float64))
T = torch.tensor([1.0, 0.2, -0.3], dtype=torch.float64)
T = T / T.norm()
X = torch.rand(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4 + torch.tensor([-2, -2, 4])
X1 = X @ R.T + T
N0, N1 = X[:, :2] / X[:, 2:], X1[:, :2] / X1[:, 2:]


def test_one_of_four_poses_is_the_true_one():
    rotations, translations = decompose_essential(essential_from_pose(R, T))
    assert rotations.shape == (4, 3, 3)
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(4).double())
    turned = rotation_angle(rotations.mT @ R)
    moved = translation_angle(translations, T.expand(4, 3))
    assert ((turned < 1e-5) & (moved < 1e-5)).sum() == 1


@pytest.mark.parametrize("sign", [1, -1])
def test_recover_pose_is_image0_to_image1(sign):
    E = sign * essential_from_pose(R, T)
    rotation, translation, front = recover_pose(E, N0, N1)
    torch.testing.assert_close(rotation, R)
    torch.testing.assert_close(translation, T)
    assert front.all()
    _, by_cv2, t, _ = cv2.recoverPose(E.numpy(), N0.numpy(), N1.numpy())
    np.testing.assert_allclose(rotation.numpy(), by_cv2, atol=1e-6)
    np.testing.assert_allclose(translation.numpy(), t[:, 0], atol=1e-6)


def test_recover_pose_masks_and_batches():
    mask = torch.arange(20) % 2 == 0
    E = essential_from_pose(torch.stack([R, R.mT]), torch.stack([T, -R.mT @ T]))
    rotation, translation, front = recover_pose(E, torch.stack([N0, N1]), torch.stack([N1, N0]), mask.expand(2, 20))
    torch.testing.assert_close(rotation, torch.stack([R, R.mT]))
    torch.testing.assert_close(translation, torch.stack([T, -R.mT @ T]))
    assert torch.equal(front, mask.expand(2, 20))


def test_triangulation_gives_the_points_in_camera_0():
    torch.testing.assert_close(triangulate(R, T, N0, N1), X)
    torch.testing.assert_close(triangulate(R, 2.5 * T, N0, N1), 2.5 * X)
    away = N1 + 1e-3 * torch.randn(20, 2, generator=torch.Generator().manual_seed(1)).double()
    homogeneous = cv2.triangulatePoints(
        np.eye(3, 4), torch.cat([R, T[:, None]], 1).numpy(), N0.T.numpy(), away.T.numpy()
    )
    by_cv2 = torch.from_numpy(homogeneous[:3] / homogeneous[3]).T
    assert (triangulate(R, T, N0, away) - by_cv2).norm(dim=-1).max() < 0.1
    assert triangulate(torch.eye(3).double(), T, N0, N0).isnan().all()


def test_angles():
    for degrees in (0.0, 1e-6, 1.0, 90.0, 179.999, 180.0):
        turned = so3_exp(torch.tensor([0, np.deg2rad(degrees), 0], dtype=torch.float64))
        assert rotation_angle(turned).item() == pytest.approx(degrees, abs=1e-9)
    x, y = torch.eye(3).double()[:2]
    assert translation_angle(x, y) == 90
    assert translation_angle(x, -3 * x) == 180
    assert translation_angle(x, -3 * x, sign_free=True) == 0


def test_relative_pose_takes_camera_0_to_camera_1():
    T0, T1 = torch.eye(4).double().repeat(2, 1, 1)
    T0[:3, :3], T0[:3, 3] = so3_exp(AXES[0]), AXES[1]
    T1[:3, :3], T1[:3, 3] = so3_exp(AXES[2]), AXES[3]
    world = torch.tensor([0.3, -2, 5, 1]).double()
    torch.testing.assert_close(relative_pose(T0, T1) @ (T0 @ world), T1 @ world)
    torch.testing.assert_close(relative_pose(T0, T1), T1 @ torch.linalg.inv(T0))


def test_rotation_homography_is_what_a_turned_camera_sees():
    K1 = torch.diag(torch.tensor([1.2, 1.2, 1])).double() @ K
    seen0, seen1 = X @ K.T, X @ R.T @ K1.T
    H = rotation_homography(K, R, K1)
    torch.testing.assert_close(transform_points(H, seen0[:, :2] / seen0[:, 2:]), seen1[:, :2] / seen1[:, 2:])


def test_normalised_points():
    pixels = X @ K.T
    torch.testing.assert_close(normalise_points(pixels[:, :2] / pixels[:, 2:], K), N0)


def test_quaternion_is_wxyz_and_hamilton():
    half = np.sqrt(0.5)
    about_z = matrix_from_quaternion(torch.tensor([half, 0, 0, half], dtype=torch.float64))
    # A quarter turn about z takes x to y.
    torch.testing.assert_close(about_z @ torch.tensor([1.0, 0, 0]).double(), torch.tensor([0.0, 1, 0]).double())


def test_quaternions_and_logarithms_go_there_and_back():
    half_turns = torch.pi * torch.cat([torch.eye(3), torch.tensor([[0.6, 0.8, 0]])]).double()
    tiny = 1e-9 * AXES[:3]
    rotations = so3_exp(torch.cat([AXES, half_turns, tiny, torch.zeros(1, 3).double()]))
    q = quaternion_from_matrix(rotations)
    assert (q[:, 0] >= 0).all()
    torch.testing.assert_close(q.norm(dim=-1), torch.ones(len(q)).double())
    torch.testing.assert_close(matrix_from_quaternion(-3 * q), rotations)
    torch.testing.assert_close(so3_exp(so3_log(rotations)), rotations)
    torch.testing.assert_close(so3_log(so3_exp(tiny)), tiny)
    by_cv2 = torch.from_numpy(np.stack([cv2.Rodrigues(axis.numpy())[0] for axis in AXES]))
    torch.testing.assert_close(so3_exp(AXES), by_cv2)


def test_gradients():
    assert gradcheck(so3_exp, (torch.zeros(3).double().requires_grad_(),))
    assert gradcheck(lambda a: so3_log(so3_exp(a)), (AXES[0].clone().requires_grad_(),))
    assert gradcheck(lambda a: so3_log(so3_exp(a)), (torch.zeros(3).double().requires_grad_(),), atol=1e-4)
    assert gradcheck(
        lambda t, n: triangulate(R, t, n, N1[:3]), (T.clone().requires_grad_(), N0[:3].clone().requires_grad_())
    )
