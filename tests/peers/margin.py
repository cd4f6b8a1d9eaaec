"""Distance in mm of every voxel of a grid to a mask, by SciPy: each voxel is divided into 3 x 3 x 3, and the exact Euclidean
distance to the nearest part inside is taken at the voxel's centre. `tests/it/structures.rs` calls it.

    python margin.py MASK.bin DEPTH HEIGHT WIDTH SPACING_Z SPACING_Y SPACING_X DISTANCES.bin

MASK.bin is one byte a voxel, x fastest; DISTANCES.bin is float32 in the same order.
"""
import sys

import numpy as np
from scipy.ndimage import distance_transform_edt

mask_path, shape, spacing, out = sys.argv[1], [int(n) for n in sys.argv[2:5]], [float(s) for s in sys.argv[5:8]], sys.argv[8]
mask = np.fromfile(mask_path, np.uint8).reshape(shape).astype(bool)
for axis in range(3):
    mask = np.repeat(mask, 3, axis)
distance = distance_transform_edt(~mask, sampling=[s / 3 for s in spacing])
distance[1::3, 1::3, 1::3].astype(np.float32).tofile(out)
