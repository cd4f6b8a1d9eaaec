"""Reference numbers for learning/evaluate: scipy's distance transform, checked against SimpleITK's and, where it is
installed, MONAI's 95 % Hausdorff distance; surface DSC and the areas of surface elements by DeepMind's package.

    python3 tests/reference/evaluation.py > tests/reference/evaluation.json
"""

import json
import sys

import numpy as np
import scipy
import SimpleITK
from scipy.ndimage import binary_erosion, distance_transform_edt, generate_binary_structure

SHAPE, SPACING = (30, 36, 52), (2.5, 0.9, 1.3)
Z, Y, X = np.indices(SHAPE)


def ellipsoid(z, y, x):
    return 900 * (Z - z) ** 2 + 400 * (Y - y) ** 2 + 225 * (X - x) ** 2 <= 32400


def border(mask):
    return mask & ~binary_erosion(mask, generate_binary_structure(3, 1), border_value=0)


def itk_distance(mask):
    # Maurer's transform is exact; SimpleITK's Danielsson map is not, and differs by 0.25 mm on "cut".
    image = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(SPACING[::-1])
    field = SimpleITK.SignedMaurerDistanceMap(image, False, False, True)
    return np.maximum(SimpleITK.GetArrayFromImage(field), 0)


def directed(of, to):
    field = distance_transform_edt(~to, sampling=SPACING)
    itk = itk_distance(to)
    off = float(np.abs(field[of] - itk[of]).max())
    return field[of], off


def outline(mask):
    return mask & ~binary_erosion(mask, generate_binary_structure(3, 1) & (np.indices((3, 3, 3))[0] == 1), border_value=0)


def rank_95(values):
    return float(np.sort(values)[max(int(np.floor(0.95 * len(values))) - 1, 0)])


truth = ellipsoid(9, 14, 17)
ball = (Z - 26) ** 2 + (Y - 6) ** 2 + (X - 44) ** 2 <= 9
cases = {
    "moved": ellipsoid(10, 16, 18),
    "cut": truth & (Z <= 11),
    "far ball": truth | ball,
    "at the edge": (Z <= 2) & (Y <= 3) & (X >= 11) & (X < 15),
}
# The package is of 2018 and uses a name that NumPy 2 has no more.
np.Inf = np.inf
import surface_distance
from surface_distance import lookup_tables

try:
    import monai
    import torch
    from monai.metrics import compute_hausdorff_distance
except ImportError:
    monai = None

out = {"made_by": {"numpy": np.__version__, "scipy": scipy.__version__, "SimpleITK": SimpleITK.__version__,
                   "surface-distance": "0.1"},
       "cases": {}}
if monai:
    out["made_by"]["monai"] = monai.__version__
for name, predicted in cases.items():
    a, b = border(truth), border(predicted)
    (from_a, off_a), (from_b, off_b) = directed(a, b), directed(b, a)
    assert max(off_a, off_b) < 1e-4, (name, off_a, off_b)
    hd95 = max(np.percentile(from_a, 95), np.percentile(from_b, 95))
    if monai:
        tensors = [torch.from_numpy(m[None, None].astype(np.float32)) for m in (predicted, truth)]
        theirs = float(compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=SPACING))
        assert abs(theirs - hd95) < 1e-4, (name, theirs, hd95)
    surfaces = surface_distance.compute_surface_distances(truth, predicted, SPACING)
    outline_a, outline_b = outline(truth), outline(predicted)
    (outline_from_a, _), (outline_from_b, _) = directed(outline_a, outline_b), directed(outline_b, outline_a)
    out["cases"][name] = {
        "n_truth": int(truth.sum()),
        "n_predicted": int(predicted.sum()),
        "hd95_mm": float(hd95),
        "largest_mm": float(max(from_a.max(), from_b.max())),
        "mean_mm": float(np.concatenate([from_a, from_b]).mean()),
        "outline_hd95_mm": max(rank_95(outline_from_a), rank_95(outline_from_b)),
        "surface_dice": [float(surface_distance.compute_surface_dice_at_tolerance(surfaces, mm)) for mm in (1, 2, 3)],
        "added_path_voxels": int((outline_a & ~outline_b).sum()),
    }
out["surfel_areas_mm2"] = [float(a) for a in lookup_tables.create_table_neighbour_code_to_surface_area(SPACING)]
json.dump(out, sys.stdout, indent=1)
print()
