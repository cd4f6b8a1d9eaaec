"""Makes the shipped anatomy from a label atlas on a 1 mm grid: every block of 2 x 2 x 2 voxels becomes one.

    python3 make.py ATLAS_DIR OUT_DIR        (needs numpy and nibabel)

A block takes its commonest label; of equally common ones the one with the smaller volume wins, so that thin organs do not
vanish. Its tissue is the commonest among its voxels of that label.
"""

import gzip
import sys
from pathlib import Path

import nibabel
import numpy as np

source, out = Path(sys.argv[1]), Path(sys.argv[2])
labels_file = nibabel.load(source / "labels.nii.gz")
labels = np.asarray(labels_file.dataobj).astype(np.uint8)
tissue = np.asarray(nibabel.load(source / "tissue.nii.gz").dataobj).astype(np.uint8)
even = tuple(slice(0, n // 2 * 2) for n in labels.shape)


def blocks(volume):
    x, y, z = (n // 2 for n in volume.shape)
    return volume.reshape(x, 2, y, 2, z, 2).transpose(0, 2, 4, 1, 3, 5).reshape(x, y, z, 8)


def commonest(values, eligible):
    share = np.bincount(values.ravel(), minlength=256) / values.size
    best, chosen = np.full(values.shape[:3], -1.0), np.zeros(values.shape[:3], np.uint8)
    for value in np.unique(values):
        count = ((values == value) & eligible).sum(-1) + 0.5 * (1 - share[value])
        count[~((values == value) & eligible).any(-1)] = -1
        better = count > best
        best[better], chosen[better] = count[better], value
    return chosen


label_blocks, tissue_blocks = blocks(labels[even]), blocks(tissue[even])
small = commonest(label_blocks, np.ones_like(label_blocks, bool))
small_tissue = commonest(tissue_blocks, label_blocks == small[..., None])

affine = labels_file.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
affine[:3, 3] = (labels_file.affine @ np.array([0.5, 0.5, 0.5, 1.0]))[:3]
for name, volume in (("labels", small), ("tissue", small_tissue)):
    image = nibabel.Nifti1Image(volume, affine)
    image.set_data_dtype(np.uint8)
    image.header.set_slope_inter(1, 0)
    with open(out / f"{name}.nii.gz", "wb") as file:
        file.write(gzip.compress(image.to_bytes(), 9, mtime=0))
(out / "tissues.csv").write_text((source / "tissues.csv").read_text())
for organ in range(1, 29):
    print(organ, "cm3 before", (labels == organ).sum() / 1000, "after", (small == organ).sum() * 8 / 1000)
