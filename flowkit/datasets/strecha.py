"""Strecha et al. (CVPR 2008), scenes such as fountain-P11: every pair of views i < j of a scene.

Cameras come from cameras.json (K, T_world_to_cam by image name), or from the original files NAME.camera beside the images
or in a folder gt_dense_cameras*: K, three zeros, the camera's axes as columns, its centre, the size K refers to.
"""

from itertools import combinations
from pathlib import Path

import numpy as np

from flowkit.datasets.files import folder, images_in, matrix, read_json
from flowkit.datasets.samples import PoseSample
from flowkit.errors import InputError
from flowkit.io.images import image_header

Camera = tuple[np.ndarray, np.ndarray]


def read_strecha(root: Path, dataset: str = "strecha") -> list[PoseSample]:
    """Every pair of every scene; `root` holds the scenes or is one."""
    samples = []
    for scene in [folder(root), *sorted(path for path in root.iterdir() if path.is_dir())]:
        views = _views(scene)
        for (path0, (K0, T0)), (path1, (K1, T1)) in combinations(views.items(), 2):
            name = f"{scene.name}/{path0.stem}-{path1.stem}"
            samples.append(PoseSample(dataset, name, path0, path1, K0, K1, T1 @ np.linalg.inv(T0)))
    if not samples:
        raise InputError(
            f"{root}: has no scene with cameras.json or NAME.camera files; give Strecha's folder of scenes"
        )
    return samples


def _views(scene: Path) -> dict[Path, Camera]:
    """The images of a scene that have a camera: K and world -> camera."""
    images = next((scene / name for name in ("images", "urd") if (scene / name).is_dir()), scene)
    if (scene / "cameras.json").is_file():
        cameras = read_json(scene / "cameras.json")
        return {path: _from_json(cameras[path.name], scene) for path in images_in(images) if path.name in cameras}
    files = {file.name.removesuffix(".camera"): file for file in scene.glob("gt_dense_cameras*/*.camera")}
    files.update((file.name.removesuffix(".camera"), file) for file in images.glob("*.camera"))
    return {path: _from_camera(files[path.name], path) for path in images_in(images) if path.name in files}


def _from_json(camera: dict[str, object], scene: Path) -> Camera:
    where = scene / "cameras.json"
    try:
        T = np.asarray(camera["T_world_to_cam"], np.float64)
        return matrix(camera["K"], (3, 3), where), np.vstack([T[:3], [0, 0, 0, 1]])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: a camera without K or T_world_to_cam; check the copy") from error


def _from_camera(file: Path, image: Path) -> Camera:
    try:
        values = [float(word) for word in file.read_text("ascii").split()]
        K, axes, centre = np.reshape(values[:9], (3, 3)), np.reshape(values[12:21], (3, 3)), np.array(values[21:24])
        width, height = values[24:26]
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: is not one of Strecha's .camera files; check the copy") from error
    shown_height, shown_width = image_header(image)
    sx, sy = shown_width / width, shown_height / height
    resize = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = axes.T, -axes.T @ centre
    return resize @ K, T
