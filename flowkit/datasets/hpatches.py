"""HPatches sequences (Balntas et al., CVPR 2017): image 1 -> k = 2..6, H_1_k; v_ viewpoint, i_ illumination."""

from pathlib import Path

from flowkit.datasets.files import find_image, folder, read_homography
from flowkit.datasets.samples import HomographySample
from flowkit.errors import InputError


def read_hpatches(root: Path, dataset: str = "hpatches") -> list[HomographySample]:
    """Every pair (1, k) that has an H_1_k; `hpatches-v` and `hpatches-i` keep one kind of sequence."""
    kind = dataset.partition("-")[2]
    samples = []
    for sequence in sorted(folder(root).glob(f"{kind or '[vi]'}_*")):
        for file in sorted(sequence.glob("H_1_*")):
            k = file.name.removeprefix("H_1_")
            first, other = find_image(sequence / "1"), find_image(sequence / k)
            samples.append(HomographySample(dataset, f"{sequence.name}/1-{k}", first, other, read_homography(file)))
    if not samples:
        raise InputError(f"{root}: has no v_* or i_* sequence with H_1_k; give HPatches' folder of sequences")
    return samples
