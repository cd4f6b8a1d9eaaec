"""What the published packages say about pairs of masks, as JSON: DeepMind's surface-distance, MedPy, and MONAI where it is
installed. `tests/it/peers_evaluate.rs` calls it.

    python evaluate.py MASKS.bin DEPTH HEIGHT WIDTH SPACING_Z SPACING_Y SPACING_X

MASKS.bin holds pairs of masks, one byte a voxel, x fastest.
"""
import json
import sys
import warnings

import numpy as np

warnings.simplefilter("ignore")
# surface-distance is of 2018 and uses a name that NumPy 2 has no more.
np.Inf = np.inf
import surface_distance
from medpy.metric import binary as medpy
from scipy.ndimage import binary_erosion, generate_binary_structure

try:
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice
except ImportError:
    torch = None

path, shape, spacing = sys.argv[1], [int(n) for n in sys.argv[2:5]], [float(mm) for mm in sys.argv[5:8]]
pairs = np.fromfile(path, np.uint8).reshape(-1, 2, *shape).astype(bool)


def border_count(mask):
    return int((mask & ~binary_erosion(mask, generate_binary_structure(3, 1), border_value=0)).sum())


out = []
for a, b in pairs:
    surfaces = surface_distance.compute_surface_distances(a, b, spacing)
    n_a, n_b = border_count(a), border_count(b)
    mean = n_a * medpy.asd(a, b, spacing) + n_b * medpy.asd(b, a, spacing)
    found = {
        "surface_dice": [float(surface_distance.compute_surface_dice_at_tolerance(surfaces, mm)) for mm in (1, 2, 3)],
        "dice": float(medpy.dc(a, b)),
        "hd_mm": float(medpy.hd(a, b, spacing)),
        "mean_mm": float(mean / (n_a + n_b)),
    }
    if torch:
        tensors = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (b, a)]
        found["monai_hd95_mm"] = float(
            compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=spacing))
        found["monai_surface_dice"] = [
            float(compute_surface_dice(*tensors, [mm], include_background=True, spacing=spacing, use_subvoxels=True))
            for mm in (1.0, 2.0, 3.0)]
    out.append(found)
json.dump(out, sys.stdout)
