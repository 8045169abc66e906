"""Visual localisation end to end on photographs of one place: leave one out, reconstruct the rest, find the one left out.

`python benchmarks/localize.py IMAGES --features sift,xfeat --guide none,life` matches all pairs with flowkit (hloc's files, as
`flowkit match --localize` writes them), lets COLMAP reconstruct all images but one, localises that one from its matches with
the model's points, and compares with the reference: the model of all images from SIFT. The intrinsics of the image left out
are the reference's, as benchmarks like Aachen give those of the queries. Errors: the camera's centre in percent of the
longest distance between two cameras of the reference, and degrees. It needs pycolmap.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.evaluation.metrics import rotation_error
from flowkit.io.colmap import require_pycolmap
from flowkit.io.images import SUFFIXES
from flowkit.pipelines.localization import LocalizationExport, export_matches, localize, write_database
from flowkit.pipelines.reconstruction import map_images, verify

THRESHOLDS = ((1, 1), (2, 2), (5, 5))
"""Percent of the scene and degrees that both must hold."""
AGREE = 0.02
"""Cameras whose centres lie that share of the scene or less from the reference's lay a model onto it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of photographs of one place")
    parser.add_argument("--features", default="sift,xfeat", help="separated by commas")
    parser.add_argument("--guide", default="none", help="none or flow models, separated by commas")
    parser.add_argument(
        "--feature-weights", action="append", default=[], metavar="NAME=FILE", help="of r2d2, superpoint"
    )
    parser.add_argument("--reference", default="sift", help="features of the model of all images")
    parser.add_argument("--max-keypoints", type=int)
    parser.add_argument("--resize", type=int, help="longer side at which images are matched; not the reference's")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--each", action="store_true", help="a line on stderr for each image left out")
    parser.add_argument(
        "--output", type=Path, help="keep hloc's files and databases here; a second run uses them again"
    )
    args = parser.parse_args()
    require_pycolmap("this benchmark")
    with tempfile.TemporaryDirectory() as scratch:
        run(args, args.output or Path(scratch))


def run(args: argparse.Namespace, output: Path) -> None:
    names = sorted(path.name for path in args.images.iterdir() if path.suffix.lower() in SUFFIXES)
    of_reference = Matched(args, output, names, args.reference, "none", None)
    reference = of_reference.model(())
    if reference is None:
        raise SystemExit(f"{args.images}: COLMAP makes no model of all images with {args.reference}")
    cameras = registered(reference)
    centres = np.array([image.projection_center() for image in cameras.values()])
    extent = max(np.linalg.norm(a - b) for a, b in itertools.combinations(centres, 2))
    print(
        f"reference ({args.reference}): {len(cameras)} of {len(names)} images, {reference.num_points3D()} points, "
        f"{reference.compute_mean_reprojection_error():.2f} px\n"
    )
    heads = " | ".join(f"{percent} %, {degrees}°" for percent, degrees in THRESHOLDS)
    print(f"| features | guide | matches/pair | localised | centre, % | rotation, ° | {heads} | inliers | s/pair |")
    print("|---" * (8 + len(THRESHOLDS)) + "|")
    for features, guide in itertools.product(args.features.split(","), args.guide.split(",")):
        same = (features, guide, args.resize) == (args.reference, "none", None)
        scene = of_reference if same else Matched(args, output, names, features, guide, args.resize)
        print(row(scene, features, guide, reference, cameras, extent, args.each), flush=True)


class Matched:
    """All pairs of the images matched by one method, verified, in a database."""

    def __init__(
        self,
        args: argparse.Namespace,
        output: Path,
        names: list[str],
        features: str,
        guide: str,
        resize: int | None,
    ) -> None:
        self.names, self.root = names, args.images
        self.folder = output / "-".join([features, Path(guide).name, *([] if resize is None else [str(resize)])])
        options: dict[str, Any] = {"features": features, "max_keypoints": args.max_keypoints, "resize": resize}
        if guide != "none":
            options["guide"] = guide
        files = dict(text.split("=", 1) for text in args.feature_weights)
        if own := {name: files[name] for name in features.split("+") if name in files}:
            options["feature_weights"] = own
        started = time.perf_counter()
        pairs = list(itertools.combinations(names, 2))
        self.export = LocalizationExport(self.folder, args.images, options)
        missing = [pair for pair in pairs if pair not in self.export.done]
        if missing:
            for pair, fault in export_matches(missing, self.export, self.export.matcher(device=args.device, **options)):
                if fault is not None:
                    raise SystemExit(f"{pair}: {fault}")
        self.seconds = (time.perf_counter() - started) / len(missing) if missing else float("nan")
        self.database = self.folder / "database.db"
        if missing or not self.database.exists():
            write_database(self.database, self.export)
            verify(self.database, pairs)
        self.matches = float(np.mean([len(self.export.matches(pair)) for pair in pairs]))

    def model(self, without: tuple[str, ...]) -> Any:
        with tempfile.TemporaryDirectory() as models:
            names = [name for name in self.names if name not in without]
            return map_images(self.database, self.root, Path(models), names=names)

    def localized(self, name: str, model: Any, camera: Any) -> Any:
        return localize(name, model, camera, self.export.features_h5, self.export.matches_h5)


def row(
    scene: Matched, features: str, guide: str, reference: Any, cameras: dict[str, Any], extent: float, each: bool
) -> str:
    errors, inliers = [], []
    for name, image in cameras.items():
        model = scene.model((name,))
        found = None if model is None else scene.localized(name, model, reference.cameras[image.camera_id])
        if found is not None and found.T is not None:
            inliers.append(found.inliers)
            errors.append(compare(found.T, image, registered(model), cameras, extent))
        else:
            errors.append((np.inf, np.inf))
        if each:
            size = 0 if model is None else model.num_reg_images()
            met = "" if found is None else f", {found.inliers} inliers of {found.correspondences}"
            line = f"{name}: model of {size}{met}, {errors[-1][0]:.2f} %, {errors[-1][1]:.2f} degrees"
            print(line, file=sys.stderr, flush=True)
    percent, degrees = np.array(errors).T
    good = [f"{np.mean((percent <= p) & (degrees <= d)):.0%}" for p, d in THRESHOLDS]
    values = [
        features,
        guide,
        f"{scene.matches:.0f}",
        f"{np.isfinite(percent).sum()}/{len(cameras)}",
        f"{np.median(percent):.2f}",
        f"{np.median(degrees):.2f}",
        *good,
        f"{np.median(inliers) if inliers else 0:.0f}",
        f"{scene.seconds:.2f}",
    ]
    return "| " + " | ".join(values) + " |"


def registered(model: Any) -> dict[str, Any]:
    images = [model.image(number) for number in model.reg_image_ids()]
    return {image.name: image for image in sorted(images, key=lambda image: image.name)}


def compare(
    T: np.ndarray, true: Any, found: dict[str, Any], cameras: dict[str, Any], extent: float
) -> tuple[float, float]:
    """Centre error in percent of `extent` and rotation error in degrees, once the model is laid onto the reference.

    By most of the cameras: one that the model misplaces says nothing of where the image left out was localised.
    """
    import pycolmap

    common = [name for name in found if name in cameras and name != true.name]
    if len(common) < 3:
        return np.inf, np.inf
    ours, theirs = (np.array([side[name].projection_center() for name in common]) for side in (found, cameras))
    options = pycolmap.RANSACOptions(max_error=AGREE * extent, random_seed=0)
    laid = pycolmap.estimate_sim3d_robust(ours, theirs, options)
    if laid is None:
        return np.inf, np.inf
    lay = laid["tgt_from_src"]
    centre = lay * (-T[:3, :3].T @ T[:3, 3])
    angle = rotation_error(T[:3, :3] @ lay.rotation.matrix().T, true.cam_from_world().rotation.matrix())
    return 100 * float(np.linalg.norm(centre - true.projection_center())) / extent, angle


if __name__ == "__main__":
    main()
