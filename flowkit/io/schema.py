"""The JSON documents that stand beside every result, as pydantic models; docs/schema/ has their JSON schemas.

Unknown is null; no number is NaN or infinite. A document of another version than this code's is refused by the models.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from flowkit.types import Status

SCHEMA_VERSION: Final = "1.0"
PIXEL_ORIGIN: Final = "center of the top-left pixel is (0, 0)"
FLOW_CONVENTION: Final = "p + flow(p) is in points_into, for p on the grid; (x, y) in pixels"
HOMOGRAPHY_CONVENTION: Final = "x1 ~ matrix x0; row-major, matrix[2][2] = 1"
POSE_CONVENTION: Final = "X1 = R X0 + t, |t| = 1 (scale unknown), E = [t]x R; x right, y down, z forward"
CLOUD_CONVENTION: Final = "of image0's camera: x right, y down, z forward; unit: the baseline, scale unknown"
STEP_CONVENTION: Final = "X1 = R X0 + length t, |t| = 1; x right, y down, z forward"
TRAJECTORY_CONVENTION: Final = "camera to world; the world is the first frame's camera"
ALIGN_CONVENTION: Final = "x_source ~ matrix x_target; row-major, matrix[2][2] = 1"


def _encodable(text: object) -> object:
    """A file name that is not UTF-8 reaches Python with lone surrogates, which JSON cannot hold."""
    if not isinstance(text, str):
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


Text = Annotated[str, BeforeValidator(_encodable)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
PixelSize = Annotated[tuple[Count, Count], Field(description="[height, width] in pixels")]
Files = Annotated[list[Text], Field(description="Written beside this document, names relative to its folder")]
Vector = tuple[float, float, float]
Matrix = tuple[Vector, Vector, Vector]


class Model(BaseModel):
    """What all parts of a document have in common."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, json_schema_serialization_defaults_required=True
    )


class ImageInfo(Model):
    """An image as the user named it and its size; the size is null where it is not known."""

    name: Text | None
    size: PixelSize | None


class Provenance(Model):
    """How the result was made."""

    flowkit: str
    arguments: list[Text] = Field(description="The command line or its equivalent")
    method: Text | None
    options: dict[Text, JsonValue]
    weights: dict[Text, str] = Field(description="Weights file -> sha256")
    seed: int | None
    device: Text | None
    working_size0: PixelSize | None = Field(description="Size at which the first image was processed")
    working_size1: PixelSize | None
    seconds: dict[Text, Seconds]
    notes: list[Text]
    libraries: dict[str, str] = Field(description="Versions")


class Record(Model):
    """What all documents begin with."""

    schema_version: Literal["1.0"] = SCHEMA_VERSION
    kind: str
    status: Status = Field(description="Only with ok may the result be used")
    pixel_origin: Literal["center of the top-left pixel is (0, 0)"] = PIXEL_ORIGIN


class FlowStatistics(Model):
    """Numbers over the pixels of the grid; null where there is nothing to take them from."""

    known_share: Share = Field(description="Pixels whose flow is known, of all")
    mean_magnitude: float | None = Field(description="Pixels")
    median_magnitude: float | None
    max_magnitude: float | None
    mean_confidence: Share | None
    occluded_share: Share | None = Field(description="Pixels that cannot be seen in the other image, of all")


class BackwardFlow(Model):
    """The flow the other way."""

    grid: ImageInfo
    points_into: ImageInfo
    statistics: FlowStatistics


class Agreement(Model):
    """How many matches an estimator had and believed."""

    matches: Count
    inliers: Count | None
    inlier_ratio: Share | None
    origins: dict[Text, Count] = Field(description="Feature or stage -> its matches")
    stages: dict[Text, Count] | None = Field(
        default=None,
        description="Guided matching: 1 near the flow's prediction, 2 among the rest, 0 without a guide -> its matches; "
        "null where nothing was guided",
    )


class CameraMotion(Agreement):
    """How the camera moved from image0 to image1."""

    R: Matrix | None
    t: Vector | None
    E: Matrix | None
    quaternion_wxyz: tuple[float, float, float, float] | None = Field(description="R as Hamilton's quaternion, w >= 0")
    rotation_angle_deg: float | None
    K0: Matrix
    K1: Matrix
    degeneracy: Text = Field(description="none, planar or pure_rotation")
    epipolar_error_px: float | None = Field(description="Median symmetric epipolar distance of the inliers")
    estimator: Text
    threshold_px: float


class FlowEgomotion(CameraMotion):
    """The camera's motion behind a flow, and how much of the flow it explains."""

    status: Status = Field(description="Only with ok may the motion be used")
    convention: Literal["X1 = R X0 + t, |t| = 1 (scale unknown), E = [t]x R; x right, y down, z forward"] = (
        POSE_CONVENTION
    )
    median_residual_px: float | None = Field(description="Distance of p + flow(p) from p's epipolar line")
    unexplained_share: Share | None = Field(description="Known pixels further from it than threshold_px, of all known")


class FlowRecord(Record):
    """flow.json: a dense flow image0 -> image1."""

    kind: Literal["flow"] = "flow"
    image0: ImageInfo
    image1: ImageInfo
    grid: ImageInfo = Field(description="The image on whose pixels the flow is defined")
    points_into: ImageInfo = Field(description="The image that grid points plus flow lie in")
    convention: Literal["p + flow(p) is in points_into, for p on the grid; (x, y) in pixels"] = FLOW_CONVENTION
    statistics: FlowStatistics
    backward: BackwardFlow | None
    egomotion: FlowEgomotion | None = Field(default=None, description="null when no intrinsics were given")
    files: Files
    provenance: Provenance


class MatchesRecord(Agreement, Record):
    """matches.json: point matches between image0 and image1."""

    kind: Literal["matches"] = "matches"
    image0: ImageInfo
    image1: ImageInfo
    keypoints0: Count
    keypoints1: Count
    mean_score: Share | None
    files: Files
    provenance: Provenance


class HomographyRecord(Agreement, Record):
    """homography.json: image0 -> image1."""

    kind: Literal["homography"] = "homography"
    image0: ImageInfo
    image1: ImageInfo
    convention: Literal["x1 ~ matrix x0; row-major, matrix[2][2] = 1"] = HOMOGRAPHY_CONVENTION
    matrix: Matrix | None
    refined: bool = Field(description="Refined densely on the aligned pair after the robust fit")
    estimator: Text
    threshold_px: float
    files: Files
    provenance: Provenance


class PointCloudInfo(Model):
    """two_view.ply: what both images show, triangulated."""

    convention: Literal["of image0's camera: x right, y down, z forward; unit: the baseline, scale unknown"] = (
        CLOUD_CONVENTION
    )
    points: Count
    reason: Text | None = Field(description="Why there is no file; null when there is one")


class PoseRecord(CameraMotion, Record):
    """pose.json: image0's camera -> image1's camera."""

    kind: Literal["pose"] = "pose"
    image0: ImageInfo
    image1: ImageInfo
    convention: Literal["X1 = R X0 + t, |t| = 1 (scale unknown), E = [t]x R; x right, y down, z forward"] = (
        POSE_CONVENTION
    )
    point_cloud: PointCloudInfo | None = Field(default=None, description="null when none was asked for")
    files: Files
    provenance: Provenance


class AlignHomography(Model):
    """One of the planes of an alignment."""

    matrix: Matrix = Field(description="target -> source")
    inliers: Count
    share: Share = Field(description="Pixels of the target that it explains, of all")


class AlignRecord(Agreement, Record):
    """align.json: source brought onto target."""

    kind: Literal["align"] = "align"
    source: ImageInfo
    target: ImageInfo
    grid: ImageInfo = Field(description="The target: the flow is defined on its pixels")
    points_into: ImageInfo = Field(description="The source")
    convention: Literal["p + flow(p) is in points_into, for p on the grid; (x, y) in pixels"] = FLOW_CONVENTION
    homography_convention: Literal["x_source ~ matrix x_target; row-major, matrix[2][2] = 1"] = ALIGN_CONVENTION
    homographies: list[AlignHomography] = Field(description="In the order they were accepted")
    coverage: Share = Field(description="Pixels of the target whose flow ends inside the source, of all")
    mean_confidence: Share | None
    statistics: FlowStatistics
    files: Files
    provenance: Provenance


class GroupImage(ImageInfo):
    """One image of a set, and what became of it."""

    status: Status | Literal["unreadable"] = Field(description="Only with ok was it brought onto the target")
    message: Text | None = Field(description="Why it could not be used; null unless unreadable")
    file: Text | None = Field(description="Its picture on the target's grid; null unless the status is ok")
    inliers: Count = Field(description="Of all its homographies together")
    homographies: list[AlignHomography] = Field(description="In the order they were accepted")


class GroupRecord(Record):
    """group.json: a set of images brought onto one target; the status is ok when at least one of them was."""

    kind: Literal["group"] = "group"
    target: ImageInfo
    homography_convention: Literal["x_source ~ matrix x_target; row-major, matrix[2][2] = 1"] = ALIGN_CONVENTION
    images: list[GroupImage] = Field(description="All but the target, those that could not be read last")
    files: Files
    provenance: Provenance


class WarpRecord(Record):
    """warp.json: an image resampled by a flow or a homography."""

    kind: Literal["warp"] = "warp"
    image: ImageInfo
    output_size: PixelSize
    flow: Text | None = Field(description="The flow file, null when it was a homography")
    homography: Text | None = Field(description="The homography's file, null when it was a flow")
    splat: bool = Field(description="Pushed forward along the flow instead of sampled backward")
    grid: ImageInfo | None = Field(description="Whose pixels the flow is defined on; null for a homography")
    points_into: ImageInfo | None
    valid_share: Share = Field(description="Pixels of the output that could be sampled, of all")
    files: Files
    provenance: Provenance


class ReconstructionRecord(Record):
    """reconstruction.json: a COLMAP model in sparse/ of the pictures in images/."""

    kind: Literal["reconstruction"] = "reconstruction"
    model_pixel_origin: Literal["corner of the top-left pixel is (0, 0)"] = Field(
        default="corner of the top-left pixel is (0, 0)", description="In sparse/, as COLMAP has it: half a pixel more"
    )
    images: Count = Field(description="That were given")
    registered: list[Text] = Field(description="That the model has")
    missing: list[Text] = Field(description="That COLMAP could not register")
    pairs: Count = Field(description="That were matched")
    verified_pairs: Count = Field(description="That COLMAP found a geometry for")
    points: Count
    track_length: float = Field(description="Images that see a point, on average")
    reprojection_error_px: float | None = Field(description="Mean over all observations")
    files: Files
    provenance: Provenance


class FrameInfo(Model):
    """A frame of a sequence."""

    name: Text
    place: Count = Field(description="In the whole sequence, from 0")
    time: float = Field(description="Seconds, as in trajectory.tum.txt")


class OdometryStep(Model):
    """The motion from one frame to the next."""

    frame0: FrameInfo
    frame1: FrameInfo
    status: Status
    degeneracy: Text = Field(description="none, planar or pure_rotation")
    R: Matrix | None = Field(description="null where the pair failed: the pose is held")
    t: Vector | None = Field(description="null, too, for a pure rotation")
    length: float = Field(ge=0, description="Of the step; 0 where there is no t")
    length_from: Literal["ground truth", "first step", "chained", "kept", "none"] = Field(
        description="The true step; 1 by definition; the step before and points seen in three frames; that of the step "
        "before, for want of such points (or of a true pose); no step"
    )
    common_points: Count = Field(description="Seen in three frames, from which the length was taken")
    matches: Count
    inliers: Count
    epipolar_error_px: float | None = Field(description="Median symmetric epipolar distance of the inliers")
    seconds: Seconds


class OdometryRecord(Record):
    """odometry.json: a trajectory, chained from the motions between consecutive frames."""

    kind: Literal["odometry"] = "odometry"
    sequence: Text
    image_size: PixelSize
    step_convention: Literal["X1 = R X0 + length t, |t| = 1; x right, y down, z forward"] = STEP_CONVENTION
    trajectory_convention: Literal["camera to world; the world is the first frame's camera"] = TRAJECTORY_CONVENTION
    scale: Literal["ground truth", "relative (chained)"] = Field(
        description="Of the steps; relative: the first has length 1"
    )
    kept_lengths: Count = Field(description="Steps that are as long as the one before, for want of anything better")
    times: Literal["file names", "place / frame rate", "place"] = Field(description="Where the frames' times are from")
    frames: Count
    failed: list[Text] = Field(description="Frames whose motion from the frame before is not known: the pose is held")
    pure_rotations: Count
    stopped: Text | None = Field(description="Why the sequence was not followed to its end; null when it was")
    K: Matrix
    distortion: list[float] = Field(description="OpenCV's k1 k2 p1 p2 [k3 ...]; empty for none")
    estimator: Text
    threshold_px: float
    steps: list[OdometryStep]
    files: Files
    provenance: Provenance


AnyRecord = (
    FlowRecord
    | MatchesRecord
    | HomographyRecord
    | PoseRecord
    | AlignRecord
    | GroupRecord
    | WarpRecord
    | ReconstructionRecord
    | OdometryRecord
)

RECORDS: dict[str, type[AnyRecord]] = {
    "flow": FlowRecord,
    "matches": MatchesRecord,
    "homography": HomographyRecord,
    "pose": PoseRecord,
    "align": AlignRecord,
    "group": GroupRecord,
    "warp": WarpRecord,
    "reconstruction": ReconstructionRecord,
    "odometry": OdometryRecord,
}


def schemas() -> dict[str, dict[str, Any]]:
    """The JSON schema (draft 2020-12) of every kind of document, by kind."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {kind: {**dialect, **model.model_json_schema(mode="serialization")} for kind, model in RECORDS.items()}
