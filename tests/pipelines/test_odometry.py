"""Odometry on made-up links whose cameras are known: chaining, lengths, gaps; and what ties real frames together."""

from itertools import pairwise

import numpy as np
import pytest
import textured_room as room
from scipy.spatial.transform import Rotation

from flowkit.datasets.posed_views import Lens
from flowkit.errors import InputError, UsageError
from flowkit.io.trajectories import Trajectory
from flowkit.pipelines.frame_links import FeatureLinker, FlowLinker, Link
from flowkit.pipelines.odometry import Length, follow, number_of, time_of, trajectory, truth_of
from flowkit.types import Image, Matches, Status

K = np.array([[400.0, 0, 319.5], [0, 400, 239.5], [0, 0, 1]])
SIZE = (480, 640)


def camera(x=0.0, y=0.0, z=0.0, yaw=0.0):
    """Camera to world."""
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = Rotation.from_euler("y", yaw, degrees=True).as_matrix(), (x, y, z)
    return T


WAY = [camera(), camera(0.5, 0, 1, 4), camera(0.8, 0.1, 1.4, 7), camera(1.4, 0.1, 3.4, 9), camera(2, 0, 4.4, 12)]


class KnownLinker:
    """Exact matches of points in a box ahead, or of nothing in common where a pair is to fail."""

    run = None

    def __init__(self, way, failing=(), lens=None, depth=(4, 14)):
        rng = np.random.default_rng(0)
        self.points = rng.uniform((-6, -4, depth[0]), (6, 4, depth[1]), (400, 3))
        self.way, self.failing, self.lens, self.rng = way, failing, lens, rng
        self.asked = 0

    def seen(self, i):
        local = (self.points - self.way[i][:3, 3]) @ self.way[i][:3, :3]
        pixels = local @ K.T
        pixels = pixels[:, :2] / pixels[:, 2:]
        return pixels if self.lens is None else self.lens.stored(pixels, K)

    def link(self, image0, image1):
        i = int(image0.path)
        points0, points1 = self.seen(i), self.seen(int(image1.path))
        if i in self.failing:
            points0, points1 = (self.rng.uniform((0, 0), SIZE[::-1], (400, 2)) for _ in range(2))
        pairs = np.repeat(np.arange(400)[:, None], 2, 1)
        self.number = i
        return Link(Matches(points0, points1, pairs, np.ones(400), SIZE, SIZE))

    def through(self, before, after):
        self.asked += 1
        return before.matches.points0, after.matches.points0, after.matches.points1


def frames(count):
    blank = np.zeros((*SIZE, 3), np.uint8)
    return [(i, f"{i:06d}.png", Image(blank, str(i))) for i in range(count)]


def followed(linker, way=WAY, estimator="poselib", **options):
    return list(follow(frames(len(way)), K, linker, estimator=estimator, **options))


@pytest.mark.parametrize("estimator", ["poselib", "essential"])
def test_the_lengths_follow_from_points_seen_in_three_frames(estimator):
    steps = followed(KnownLinker(WAY), estimator=estimator)
    assert [step.length_from for step in steps] == [Length.FIRST, *[Length.CHAINED] * 3]
    first = np.linalg.norm(WAY[1][:3, 3])
    expected = np.array(WAY)
    expected[:, :3, 3] /= first
    np.testing.assert_allclose(trajectory(steps), expected, atol=2e-3)
    assert all(step.common > 100 and step.inliers > 350 for step in steps[1:])


def test_the_lengths_are_the_true_ones_where_these_are_given():
    linker = KnownLinker(WAY)
    steps = followed(linker, truth=lambda frame: WAY[frame.place])
    np.testing.assert_allclose(trajectory(steps), WAY, atol=5e-3)
    assert {step.length_from for step in steps} == {Length.TRUTH} and linker.asked == 0
    partly = followed(KnownLinker(WAY), truth=lambda frame: None if frame.place == 2 else WAY[frame.place])
    assert [step.length_from for step in partly] == [Length.TRUTH, Length.KEPT, Length.KEPT, Length.TRUTH]
    assert partly[2].length == pytest.approx(partly[0].length)


def test_a_pair_that_fails_holds_the_pose_and_the_next_step_keeps_the_length():
    steps = followed(KnownLinker(WAY, failing=(2,)))
    assert [step.failed for step in steps] == [False, False, True, False]
    failed, after = steps[2:]
    assert failed.R is None and failed.t is None and failed.status is not Status.OK and failed.length == 0
    assert failed.inliers == 0 and failed.length_from is Length.NONE
    poses = trajectory(steps)
    np.testing.assert_array_equal(poses[3], poses[2])
    assert after.length_from is Length.KEPT and after.length == steps[1].length


def test_a_pure_rotation_turns_and_makes_no_step():
    way = [camera(), camera(0.5, 0, 1), camera(0.5, 0, 1, 10), camera(0.7, 0, 2, 10)]
    steps = followed(KnownLinker(way), way)
    assert steps[1].degeneracy == "pure_rotation" and steps[1].t is None and not steps[1].failed
    poses = trajectory(steps)
    np.testing.assert_array_equal(poses[2][:3, 3], poses[1][:3, 3])
    turned = Rotation.from_matrix(poses[2][:3, :3]).magnitude()
    assert np.degrees(turned) == pytest.approx(10, abs=0.05)
    assert steps[2].length_from is Length.KEPT and steps[2].length == 1


def test_points_too_far_away_tell_no_length():
    far = KnownLinker(WAY, depth=(4000, 9000))
    far.points[:200] = KnownLinker(WAY).points[:200]  # enough for the direction of the step
    far.points[:, :2] *= np.where(far.points[:, 2:] > 100, 500, 1)
    through = far.through
    far.through = lambda before, after: tuple(points[200:] for points in through(before, after))
    steps = followed(far)
    assert steps[1].length_from is Length.KEPT and steps[1].common < 12 and steps[1].length == 1


def test_a_lens_is_taken_out_of_the_matches():
    distortion = (0.23, -0.5, -0.003, 0.001, 0.4)
    linker = KnownLinker(WAY, lens=Lens.of(K, distortion))
    straight = followed(linker, distortion=distortion)
    bent = followed(KnownLinker(WAY, lens=Lens.of(K, distortion)))
    true = [np.linalg.inv(b) @ a for a, b in pairwise(WAY)]

    def wrong(steps):
        return max(
            np.linalg.norm((s.R if s.R is not None else 0) - T[:3, :3]) for s, T in zip(steps, true, strict=True)
        )

    assert wrong(straight) < 2e-3 and wrong(bent) > 4 * wrong(straight)
    np.testing.assert_allclose(
        [step.length for step in straight], [s.length for s in followed(KnownLinker(WAY))], rtol=0.01
    )


def test_what_cannot_be_followed_is_said_at_once():
    with pytest.raises(InputError, match="1 frame to follow"):
        followed(KnownLinker(WAY), WAY[:1])
    with pytest.raises(UsageError, match="--estimator magic"):
        followed(KnownLinker(WAY), estimator="magic")
    small = (1, "small.png", Image(np.zeros((24, 32, 3), np.uint8), "1"))
    with pytest.raises(InputError, match=r"small\.png: is 32x24 but 000000\.png 640x480"):
        list(follow([frames(1)[0], small], K, KnownLinker(WAY), estimator="poselib"))


def test_times_and_numbers_come_from_names_where_they_have_them():
    assert time_of("1311868169.463229.png", 3, 10.0) == 1311868169.463229
    assert time_of("000014.png", 7, 10.0) == 0.7 and time_of("000014.png", 7, None) == 7
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 0, 3] = range(3)
    step = followed(KnownLinker(WAY[:2]), WAY[:2])[0]
    assert number_of(step.frame1) == 1
    by_number = truth_of(Trajectory(poses, numbers=np.array([0, 5, 1])), length=3)
    assert by_number(step.frame1)[0, 3] == 2  # the line of frame 1
    by_place = truth_of(Trajectory(poses, numbers=np.arange(3), counted=True), length=3)
    assert by_place(step.frame1)[0, 3] == 1


@pytest.mark.parametrize("linker", [FeatureLinker(features="sift"), FlowLinker(model="dis")], ids=["sift", "dis"])
def test_points_are_the_same_in_all_three_frames(linker):
    poses = room.poses(9)[3:6]
    pictures = [Image(room.view(pose), f"{i}") for i, pose in enumerate(poses)]
    before, after = linker.link(*pictures[:2]), linker.link(*pictures[1:])
    points = linker.through(before, after)
    assert len(points[0]) > 50 and linker.run is not None
    for i, j in ((0, 1), (1, 2)):
        R = poses[j][:, :3] @ poses[i][:, :3].T
        t = poses[j][:, 3] - R @ poses[i][:, 3]
        tx = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
        F = np.linalg.inv(room.K).T @ tx @ R @ np.linalg.inv(room.K)
        rays = [np.column_stack([each, np.ones(len(each))]) for each in (points[i], points[j])]
        distance = np.abs((rays[1] * (rays[0] @ F.T)).sum(1)) / np.linalg.norm((rays[0] @ F.T)[:, :2], axis=1)
        assert np.median(distance) < 0.5
    if isinstance(linker, FeatureLinker):
        assert {key.rsplit(":")[-1] for key in linker._store} == {"2"}  # no more than the next pair needs
