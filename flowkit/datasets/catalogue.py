"""Every data set that the bench knows: its name, what it measures, its reader, its folder in a mixed collection."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowkit.datasets.epipolar_labelled import read_epipolar_labelled
from flowkit.datasets.eth3d import read_eth3d
from flowkit.datasets.evd import read_evd
from flowkit.datasets.files import folder
from flowkit.datasets.flyingchairs import read_flyingchairs
from flowkit.datasets.homogr import read_homogr
from flowkit.datasets.hpatches import read_hpatches
from flowkit.datasets.hpatches_flow import read_hpatches_flow
from flowkit.datasets.kitti import read_kitti
from flowkit.datasets.kitti_odometry import kitti_sequences, read_kitti_odometry
from flowkit.datasets.megadepth import read_megadepth
from flowkit.datasets.megadepth_pose import read_megadepth_pose
from flowkit.datasets.middlebury import read_middlebury
from flowkit.datasets.middlebury_stereo import read_middlebury_stereo
from flowkit.datasets.multimodal import read_multimodal
from flowkit.datasets.oxford import read_oxford
from flowkit.datasets.pair_list import read_pair_list
from flowkit.datasets.pf_willow import read_pf_willow
from flowkit.datasets.posed_sequence import PosedSequence
from flowkit.datasets.samples import Sample
from flowkit.datasets.sintel import read_sintel
from flowkit.datasets.sparse_correspondences import read_sparse_correspondences
from flowkit.datasets.strecha import read_strecha
from flowkit.datasets.tss import read_tss
from flowkit.datasets.tum import read_tum, read_tum_flow, tum_sequence
from flowkit.datasets.wxbs import read_wxbs
from flowkit.datasets.yfcc100m import read_yfcc100m
from flowkit.errors import InputError, UsageError

TASKS = ("flow", "homography", "pose", "matching")


@dataclass(frozen=True)
class DataSet:
    """A data set: the task its ground truth is for, its reader, its folder in a collection laid out for `bench pairs`.

    `complete` says how much the whole data set is: (59, "sequences"), what samples' names have before "/", or (200, "pairs").
    """

    name: str
    task: str
    read: Callable[[Path, str], Sequence[Sample]]
    folder: str | None = None
    complete: tuple[int, str] | None = None


DATASETS = {
    dataset.name: dataset
    for dataset in (
        DataSet("middlebury", "flow", read_middlebury, "flow_middlebury"),
        DataSet("middlebury-stereo", "flow", read_middlebury, "flow_middlebury_stereo"),
        DataSet("middlebury-2006", "flow", read_middlebury_stereo, "stereo"),
        DataSet("kitti", "flow", read_kitti, "flow_kitti"),
        DataSet("kitti2012", "flow", read_kitti, complete=(194, "pairs")),
        DataSet("kitti2015", "flow", read_kitti, complete=(200, "pairs")),
        DataSet("flyingchairs", "flow", read_flyingchairs, "flow_flyingchairs"),
        DataSet("sintel-clean", "flow", read_sintel),
        DataSet("sintel-final", "flow", read_sintel),
        DataSet("hpatches-flow-v", "flow", read_hpatches_flow, complete=(59, "sequences")),
        DataSet("hpatches-flow-v-240", "flow", read_hpatches_flow, complete=(59, "sequences")),
        DataSet("hpatches-flow-v-original", "flow", read_hpatches_flow, complete=(59, "sequences")),
        DataSet("hpatches-flow-v-ransac-flow", "flow", read_hpatches_flow, complete=(59, "sequences")),
        DataSet("hpatches-flow-i", "flow", read_hpatches_flow, complete=(57, "sequences")),
        DataSet("hpatches-flow-i-240", "flow", read_hpatches_flow, complete=(57, "sequences")),
        DataSet("hpatches-flow-i-original", "flow", read_hpatches_flow, complete=(57, "sequences")),
        DataSet("tum-flow", "flow", read_tum_flow),
        DataSet("eth3d", "flow", read_eth3d, complete=(70, "info files")),
        DataSet("tss", "flow", read_tss, complete=(800, "pairs")),
        DataSet("oxford", "homography", read_oxford, "homography_oxford"),
        DataSet("hpatches", "homography", read_hpatches, "homography_hpatches", (116, "sequences")),
        DataSet("hpatches-v", "homography", read_hpatches, complete=(59, "sequences")),
        DataSet("hpatches-i", "homography", read_hpatches, complete=(57, "sequences")),
        DataSet("homogr", "homography", read_homogr, "homography_homogr"),
        DataSet("evd", "homography", read_evd, "homography_evd"),
        DataSet("strecha", "pose", read_strecha, "pose_strecha"),
        DataSet("kitti-odometry", "pose", read_kitti_odometry, "pose_kitti_odometry"),
        DataSet("megadepth", "pose", read_megadepth, "pose_megadepth_pair"),
        DataSet("megadepth-pose", "pose", read_megadepth_pose),
        DataSet("tum", "pose", read_tum, "pose_tum_fr2_desk"),
        DataSet("scannet", "pose", read_pair_list),
        DataSet("yfcc100m", "pose", read_yfcc100m, complete=(4000, "pairs")),
        DataSet("yfcc100m-ransac-flow", "pose", read_yfcc100m, complete=(4000, "pairs")),
        DataSet("hpatches-mma", "matching", read_hpatches, complete=(108, "sequences")),
        DataSet("megadepth-sparse", "matching", read_sparse_correspondences, complete=(1600, "pairs")),
        DataSet("megadepth-sparse-gocor", "matching", read_sparse_correspondences, complete=(1600, "pairs")),
        DataSet("robotcar-sparse", "matching", read_sparse_correspondences, complete=(6511, "pairs")),
        DataSet("wxbs", "matching", read_wxbs, "hard_wxbs"),
        DataSet("multimodal", "matching", read_multimodal, "hard_multimodal"),
        DataSet("epipolar-labelled", "matching", read_epipolar_labelled, "epipolar_labelled"),
        DataSet("pf-willow", "matching", read_pf_willow, "semantic_pf_willow"),
    )
}


def read_dataset(name: str, root: Path) -> list[Sample]:
    """Every sample of one data set in its own layout."""
    if name not in DATASETS:
        raise UsageError(f"unknown data set {name!r}; use one of {', '.join(DATASETS)}")
    if not root.exists():
        raise InputError(f"{root}: no such folder; give the data set's own folder")
    return list(DATASETS[name].read(root, name))


def missing_parts(samples: Sequence[Sample]) -> dict[str, str]:
    """Data set -> how much of it is there, where more is known to belong to it: "3 of 59 sequences"."""
    found = {}
    for name in dict.fromkeys(sample.dataset for sample in samples):
        complete = DATASETS[name].complete if name in DATASETS else None
        if complete is not None:
            whole, unit = complete
            names = [sample.name for sample in samples if sample.dataset == name]
            there = len(names) if unit == "pairs" else len({each.partition("/")[0] for each in names})
            if there < whole:
                found[name] = f"{there} of {whole} {unit}"
    return found


def find_samples(
    root: Path, tasks: Collection[str] = TASKS, names: Collection[str] | None = None
) -> dict[str, list[Sample]]:
    """Every sample of a collection (one folder per data set, see `DATASETS`) by task, or of the data sets named only."""
    for name in names or ():
        if name not in DATASETS or DATASETS[name].folder is None:
            known = ", ".join(dataset.name for dataset in DATASETS.values() if dataset.folder)
            raise UsageError(f"{name!r} is no data set of a collection; use one of {known}")
    samples: dict[str, list[Sample]] = {task: [] for task in tasks}
    for dataset in DATASETS.values():
        wanted = dataset.task in samples and (names is None or dataset.name in names)
        if wanted and dataset.folder and (folder(root) / dataset.folder).is_dir():
            samples[dataset.task] += dataset.read(root / dataset.folder, dataset.name)
    if not any(samples.values()):
        raise InputError(f"{root}: has none of the folders of a collection; see docs/bench.md for their names")
    return samples


def find_sequences(root: Path, K: np.ndarray | None = None) -> list[PosedSequence]:
    """The sequences with poses in a folder: one of TUM RGB-D (or several, a folder each), else KITTI odometry's.

    `K` takes the place of TUM's own intrinsics.
    """
    folders = [path for path in (folder(root), *sorted(root.iterdir())) if (path / "groundtruth.txt").is_file()]
    if folders:
        return [tum_sequence(path, K=K) for path in folders]
    if K is not None:
        raise UsageError(f"--K: {root} has none of TUM RGB-D's folders; KITTI's intrinsics are in calib.txt")
    return kitti_sequences(root)
