"""HPatches sequences (Balntas et al., CVPR 2017): image 1 -> k = 2..6, H_1_k; v_ viewpoint, i_ illumination."""

from pathlib import Path

from flowkit.datasets.files import find_image, folder, read_homography
from flowkit.datasets.samples import Group, HomographySample
from flowkit.errors import InputError

LARGE = frozenset(
    ("i_contruction", "i_crownnight", "i_dc", "i_pencils", "i_whitebuilding", "v_artisans", "v_astronautis", "v_talent")
)
"""The sequences with images above 1600 x 1200, which the protocol of D2-Net (Dusmanu et al., CVPR 2019) leaves out."""
_KINDS = {"v": Group("viewpoint"), "i": Group("illumination")}


def read_hpatches(root: Path, dataset: str = "hpatches") -> list[HomographySample]:
    """Every pair (1, k) that has an H_1_k, in the groups viewpoint and illumination.

    `hpatches-v` and `hpatches-i` keep one kind of sequence, `hpatches-mma` leaves out the large ones.
    """
    variant = dataset.partition("-")[2]
    kind = variant if variant in _KINDS else "[vi]"
    samples = []
    for sequence in sorted(folder(root).glob(f"{kind}_*")):
        if variant == "mma" and sequence.name in LARGE:
            continue
        for file in sorted(sequence.glob("H_1_*")):
            k = file.name.removeprefix("H_1_")
            first, other = find_image(sequence / "1"), find_image(sequence / k)
            H, group = read_homography(file), _KINDS[sequence.name[0]]
            samples.append(HomographySample(dataset, f"{sequence.name}/1-{k}", first, other, H, group=group))
    if not samples:
        kinds = f"{kind}_*" if kind in _KINDS else "v_* or i_*"
        raise InputError(f"{root}: has no {kinds} sequence with H_1_k; give HPatches' folder of sequences")
    return samples
