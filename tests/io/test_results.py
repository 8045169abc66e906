"""Every record says which way it goes, validates against the committed schema, and never holds NaN."""

import dataclasses
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from pydantic import ValidationError

from flowkit import __version__
from flowkit.errors import InputError
from flowkit.io import results
from flowkit.io.provenance import provenance
from flowkit.types import Alignment, Flow, Homography, Matches, RelativePose, Run, Status, Warped

SCHEMAS = Path(__file__).resolve().parents[2] / "docs" / "schema"
K0 = np.array([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]])
K1 = np.array([[600.0, 0, 330], [0, 610, 250], [0, 0, 1]])
RUN = Run(
    method="dis",
    options={
        "resize": np.int64(640),
        "size": (3, np.float32(0.5)),
        "unknown": float("nan"),
        "a": np.array([1.5, np.inf]),
    },
    weights={"b.safetensors": "ff", "a.safetensors": "00"},
    seed=7,
    working_size0=(4, 8),
    seconds={"total": np.float64(1.25)},
    notes=("a note",),
)
MATCHES = Matches(
    keypoints0=np.zeros((5, 2), np.float32),
    keypoints1=np.zeros((6, 2), np.float32),
    pairs=np.array([[0, 0], [1, 1], [2, 2], [3, 3]]),
    scores=np.array([1, 0.5, 0.5, np.nan], np.float32),
    size0=(20, 30),
    size1=(40, 50),
    origins=("sift", "xfeat"),
    origin=np.array([1, 0, 1, 1]),
    inliers=np.array([True, False, True, True]),
    run=RUN,
)


def flow(**changes):
    uv = np.full((2, 4, 5), np.nan, np.float32)
    uv[:, 0] = [[3] * 5, [4] * 5]
    uv[:, 1, :3] = [[0] * 3, [1] * 3]
    confidence = np.zeros((4, 5), np.float32)
    confidence[:2] = 0.5
    occlusion = np.zeros((4, 5), bool)
    occlusion[3, 0] = True
    return dataclasses.replace(Flow(uv, (7, 9), confidence, occlusion, run=RUN), **changes)


def homography(**changes):
    matrix = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 1]])
    return dataclasses.replace(Homography(matrix, Status.OK, MATCHES, 3.0, "magsac", True, RUN), **changes)


def pose(**changes):
    R = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # 90 degrees about z
    E = np.array([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ R
    result = RelativePose(R, np.array([1.0, 0, 0]), E, K0, K1, Status.OK, "none", MATCHES, 1.0, "poselib", 0.25, RUN)
    return dataclasses.replace(result, **changes)


def alignment():
    regions = np.full((4, 5), -1, np.int16)
    regions[0], regions[1, :3] = 0, 1
    matrices = np.eye(3), np.array([[1.0, 0, 2], [0, 1, 3], [0, 0, 1]])
    return Alignment(flow(), Status.OK, matrices, regions, (12, 7), MATCHES, RUN)


FAILED = dataclasses.replace(
    alignment(), status=Status.TOO_FEW_MATCHES, homographies=(), inliers=(), regions=np.full((4, 5), -1, np.int16)
)


def group(*images, **changes):
    return results.group_record(images, "target.jpg", (4, 5), ["aligned-a.png"], ["align", "--group"], **changes)


def all_records():
    both = flow(backward=Flow(np.ones((2, 7, 9), np.float32), (4, 5)))
    nothing = Flow(np.full((2, 4, 5), np.nan, np.float32), (7, 9))
    empty = dataclasses.replace(
        MATCHES, pairs=np.empty((0, 2), int), scores=np.empty(0), origin=None, inliers=None, size0=(0, 0), run=None
    )
    warped = Warped(np.zeros((4, 5, 3), np.uint8), np.ones((4, 5), bool), RUN)
    return [
        results.flow_record(both, "a.jpg", "ä b.jpg", ["flow.flo", Path("flow.png")], ["flow", "a.jpg", "ä b.jpg"]),
        results.flow_record(nothing, "a.jpg", "b.jpg"),
        results.matches_record(MATCHES, "a.jpg", "b.jpg", ["matches.npz"]),
        results.matches_record(empty, "a.jpg", "b.jpg"),
        results.homography_record(homography(), "a.jpg", "b.jpg"),
        results.homography_record(homography(matrix=None, status=Status.NO_OVERLAP), "a.jpg", "b.jpg"),
        results.pose_record(pose(), "a.jpg", "b.jpg"),
        results.pose_record(pose(t=None, E=None, status=Status.DEGENERATE, degeneracy="pure_rotation"), "a", "b"),
        results.pose_record(
            pose(R=None, t=None, E=None, status=Status.TOO_FEW_MATCHES, epipolar_error=float("nan")), "a", "b"
        ),
        results.align_record(alignment(), "source.jpg", "target.jpg"),
        results.warp_record(warped, "b.jpg", (7, 9), flow="flow.flo", other="a.jpg"),
        results.warp_record(warped, "b.jpg", (7, 9), homography="homography.json"),
        group(
            results.group_image(FAILED, "b.jpg"),
            results.group_image(alignment(), "a.jpg", "aligned-a.png"),
            results.unreadable_image("c.jpg", "c.jpg: no picture"),
            run=RUN,
        ),
        group(results.group_image(FAILED, "b.jpg")),
    ]


RECORDS = all_records()
every_record = pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"{record.kind}-{record.status}")


def test_committed_schemas_are_the_generated_ones():
    committed = {path.stem: json.loads(path.read_text("utf-8")) for path in SCHEMAS.glob("*.json")}
    again = "python -c \"from flowkit.io.results import write_schemas; write_schemas('docs/schema')\""
    assert committed == results.schemas(), f"write them again: {again}"


@every_record
def test_records_are_valid_json_of_their_schema(tmp_path, record):
    results.write_json(tmp_path / "x.json", record)
    text = (tmp_path / "x.json").read_text("utf-8")
    assert text.endswith("}\n") and "NaN" not in text and "Infinity" not in text
    data = json.loads(text)
    schema = json.loads((SCHEMAS / f"{record.kind}.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(data)
    assert data["schema_version"] == "1.0" and data["pixel_origin"] == "center of the top-left pixel is (0, 0)"
    assert list(data) == list(type(record).model_fields) and list(data)[-1] == "provenance"
    assert results.read_record(tmp_path / "x.json") == record
    assert results.to_json(results.read_record(tmp_path / "x.json")) == text


def test_the_schema_refuses_what_is_wrong():
    data = json.loads(results.to_json(RECORDS[4]))
    validator = jsonschema.Draft202012Validator(results.schemas()["homography"])
    for key, value in (
        ("matrix", [[1, 2], [3, 4]]),
        ("status", "fine"),
        ("inliers", -1),
        ("inlier_ratio", 1.5),
        ("x", 1),
    ):
        assert not validator.is_valid(data | {key: value}), key
    for key in data:
        assert not validator.is_valid({name: value for name, value in data.items() if name != key}), key


def test_flow_says_which_way_it_goes():
    record = RECORDS[0]
    assert (record.grid.name, record.grid.size) == ("a.jpg", (4, 5))
    assert (record.points_into.name, record.points_into.size) == ("ä b.jpg", (7, 9))
    assert (record.backward.grid, record.backward.points_into) == (record.points_into, record.grid)
    assert record.backward.statistics.mean_magnitude == pytest.approx(2**0.5)
    assert record.files == ["flow.flo", "flow.png"]


def test_flow_statistics():
    statistics = RECORDS[0].statistics
    assert statistics.known_share == 8 / 20
    assert statistics.mean_magnitude == pytest.approx((5 * 5 + 3 * 1) / 8)
    assert (statistics.median_magnitude, statistics.max_magnitude) == (5, 5)
    assert (statistics.mean_confidence, statistics.occluded_share) == (0.25, 1 / 20)
    unknown = RECORDS[1]
    assert unknown.status == Status.NO_OVERLAP
    assert unknown.statistics.known_share == 0 and unknown.statistics.mean_magnitude is None
    assert unknown.statistics.mean_confidence is None and unknown.backward is None


def test_matches_are_counted():
    record = RECORDS[2]
    assert (record.matches, record.inliers, record.inlier_ratio) == (4, 3, 0.75)
    assert (record.keypoints0, record.keypoints1) == (5, 6) and record.stages is None
    for stage, counts in (([1, 2, 2, 2], {"1": 1, "2": 3}), ([0, 1, 0, 1], {"0": 2, "1": 2, "2": 0})):
        guided = dataclasses.replace(MATCHES, stage=np.array(stage))
        assert results.matches_record(guided, "a", "b").stages == counts
    assert record.origins == {"sift": 1, "xfeat": 3} and record.mean_score == pytest.approx(2 / 3)
    assert (record.image0.size, record.image1.size) == ((20, 30), (40, 50))
    none = RECORDS[3]
    assert none.status == Status.TOO_FEW_MATCHES and none.inlier_ratio is None and none.image0.size is None


def test_matrices_are_row_major():
    data = json.loads(results.to_json(RECORDS[4]))
    assert data["matrix"] == [[1, 2, 3], [4, 5, 6], [7, 8, 1]] and data["convention"].startswith("x1 ~ matrix x0")
    assert data["threshold_px"] == 3 and data["estimator"] == "magsac" and data["refined"] is True
    assert "    [1.0, 2.0, 3.0],\n" in results.to_json(RECORDS[4])


def test_pose_has_a_hamilton_quaternion_with_the_scalar_first():
    record = RECORDS[6]
    half = 0.5**0.5
    np.testing.assert_allclose(record.quaternion_wxyz, [half, 0, 0, half], atol=1e-12)
    assert record.rotation_angle_deg == pytest.approx(90)
    assert record.R == ((0, -1, 0), (1, 0, 0), (0, 0, 1)) and record.t == (1, 0, 0)
    np.testing.assert_array_equal(record.K0, K0)
    np.testing.assert_array_equal(record.K1, K1)
    assert record.epipolar_error_px == 0.25
    assert RECORDS[7].t is None and RECORDS[7].quaternion_wxyz is not None
    assert RECORDS[8].quaternion_wxyz is None and RECORDS[8].epipolar_error_px is None


def test_alignment_is_on_the_targets_grid():
    record = RECORDS[9]
    assert record.grid == record.target and (record.target.name, record.target.size) == ("target.jpg", (4, 5))
    assert record.points_into == record.source and (record.source.name, record.source.size) == ("source.jpg", (7, 9))
    assert [(plane.inliers, plane.share) for plane in record.homographies] == [(12, 0.25), (7, 0.15)]
    assert record.homographies[1].matrix[0] == (1, 0, 2)
    assert record.coverage == 0.4 and record.mean_confidence == 0.25


def test_a_group_says_what_became_of_each_image():
    record = RECORDS[12]
    assert record.status == Status.OK and (record.target.name, record.target.size) == ("target.jpg", (4, 5))
    failed, aligned, unreadable = record.images
    assert (aligned.name, aligned.size, aligned.status) == ("a.jpg", (7, 9), Status.OK)
    assert (aligned.file, aligned.inliers, aligned.message) == ("aligned-a.png", 19, None)
    assert aligned.homographies == RECORDS[9].homographies  # as align.json has them
    assert (failed.status, failed.size, failed.file) == (Status.TOO_FEW_MATCHES, (7, 9), None)
    assert (failed.inliers, failed.homographies, failed.message) == (0, [], None)
    assert (unreadable.name, unreadable.status, unreadable.message) == ("c.jpg", "unreadable", "c.jpg: no picture")
    assert (unreadable.size, unreadable.file, unreadable.homographies) == (None, None, [])
    assert RECORDS[13].status == group().status == Status.NO_OVERLAP


def test_only_an_image_of_a_group_is_unreadable():
    data = json.loads(results.to_json(RECORDS[12]))
    validator = jsonschema.Draft202012Validator(results.schemas()["group"])
    assert validator.is_valid(data) and data["images"][2]["status"] == "unreadable"
    assert not validator.is_valid(data | {"status": "unreadable"})
    for change in ({"status": "fine"}, {"inliers": -1}, {"homographies": [[1, 2, 3]]}, {"x": 1}):
        assert not validator.is_valid(data | {"images": [data["images"][0] | change]}), change


def test_warp_backward_and_forward():
    record = RECORDS[10]
    assert (record.grid.name, record.grid.size) == ("a.jpg", (4, 5)) and record.points_into == record.image
    assert RECORDS[11].grid is None and RECORDS[11].homography == "homography.json"
    warped = Warped(np.zeros((4, 5, 3), np.uint8), np.arange(20).reshape(4, 5) < 5)
    pushed = results.warp_record(warped, "a.jpg", (7, 9), flow="f.flo", splat=True)
    assert pushed.grid == pushed.image and pushed.points_into.size == pushed.output_size == (4, 5)
    assert pushed.valid_share == 0.25


def test_provenance():
    record = RECORDS[0].provenance
    assert record.flowkit == __version__ and record.arguments == ["flow", "a.jpg", "ä b.jpg"]
    assert record.options == {"a": [1.5, None], "resize": 640, "size": [3, 0.5], "unknown": None}
    assert list(record.weights) == ["a.safetensors", "b.safetensors"] and record.seconds == {"total": 1.25}
    assert record.seed == 7 and record.working_size0 == (4, 8) and record.working_size1 is None
    assert record.notes == ["a note"]
    assert {"python", "numpy", "torch", "opencv"} <= set(record.libraries)
    assert provenance(None).method is None


def test_nan_and_infinity_are_refused(tmp_path):
    broken = homography(matrix=np.full((3, 3), np.nan))
    with pytest.raises(ValidationError):
        results.homography_record(broken, "a", "b")
    with pytest.raises(ValueError):
        results.write_json(tmp_path / "x.json", {"x": float("nan")})
    with pytest.raises(ValueError):
        results.to_json(RECORDS[4].model_copy(update={"threshold_px": float("inf")}))
    assert not (tmp_path / "x.json").exists()


def test_a_name_that_is_not_utf8(tmp_path):
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    run = dataclasses.replace(RUN, options={"path": name})
    record = results.flow_record(flow(run=run), name, "b.jpg", [name], [name])
    results.write_json(tmp_path / "x.json", record)
    assert results.read_record(tmp_path / "x.json").grid.name == "caf\ufffd.jpg"


def test_complete_only_when_whole(tmp_path):
    path = tmp_path / "flow.json"
    assert not results.is_complete(path)
    results.write_json(path, RECORDS[0])
    assert not results.is_complete(path)  # the files it lists are missing
    for name in RECORDS[0].files:
        (tmp_path / name).touch()
    assert results.is_complete(path)
    text = path.read_text("utf-8")
    for broken in (text[: len(text) // 2], "", "{}", "[]", text.replace('"ok"', '"fine"'), text.replace("0.4", "NaN")):
        assert broken != text
        path.write_text(broken, "utf-8")
        assert not results.is_complete(path)
    path.write_bytes(b"\xff\xfe\0")
    assert not results.is_complete(path)
    assert not results.is_complete(tmp_path)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"kind": "flo"}, "kind"),
        ({"kind": ["flow"]}, "kind"),
        ({"schema_version": "2.0"}, "has schema 2.0"),
        ({"matrix": [[1]]}, "matrix"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_reading_what_is_wrong(tmp_path, change, fault):
    data = json.loads(results.to_json(RECORDS[4])) | change
    results.write_json(tmp_path / "x.json", data)
    with pytest.raises(InputError, match=fault) as caught:
        results.read_record(tmp_path / "x.json")
    assert "x.json" in str(caught.value) and "\n" not in str(caught.value)
