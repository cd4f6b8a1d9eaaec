"""28 organs of 512 x 512 x 200 in two label maps: `oarlock compare` beside MONAI on the same masks, in turn.

    target/release/oarlock phantom --kind bodies --slices 200 --size 512 512 --spacing 2.5 0.98 0.98 -o PHANTOM
    PYTHON tests/bench/compare.py target/release/oarlock PHANTOM/ct WORK_DIR [--rounds N]

PYTHON has numpy, SimpleITK, torch and monai. Oarlock's figure is that of the whole program, which reads the CT's headers and
both label maps; MONAI's is its own work only, with the masks in memory: DSC, 95 % HD, and surface DSC at 1, 2 and 3 mm, on
each organ's two masks as they are (whole) and cut to the box round both (cut), as a careful user would. Two threads for both.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import SimpleITK as sitk

SPACING = (2.5, 0.98, 0.98)
TOLERANCES = (1.0, 2.0, 3.0)


def make(ct, work):
    """28 bodies, eye to temporal lobe in size and one long cord; B is A moved, swollen and dented a little."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(ct)))
    image = reader.Execute()
    width, height, depth = image.GetSize()
    z, y, x = np.ogrid[:depth, :height, :width]
    for name, moved in (("a", 0), ("b", 1)):
        labels = np.zeros((depth, height, width), np.uint8)
        for n in range(28):
            cz, cy, cx = 16 + 44 * (n % 5) + moved, 100 + 75 * (n // 5 % 5) + moved * (n % 3), 90 + 55 * (n * 3 % 7) - moved * (n % 4)
            rz, ry, rx = 6 + n % 15, 12 + 5 * n % 26, 11 + 7 * n % 25
            body = ((z - cz) / (rz + moved)) ** 2 + ((y - cy) / ry) ** 2 + ((x - cx) / (rx + moved * (n % 2))) ** 2 < 1
            if n == 27:
                body = ((y - 256 - 20 * np.sin(z / 30)) / (9 + moved)) ** 2 + ((x - 250) / 9) ** 2 < 1
            labels[body & (labels == 0)] = n + 1
        out = sitk.GetImageFromArray(labels)
        out.CopyInformation(image)
        sitk.WriteImage(out, str(work / f"{name}.nii.gz"))


def used():
    mine = resource.getrusage(resource.RUSAGE_SELF)
    return mine.ru_utime + mine.ru_stime


def monai(work, cut):
    warnings.simplefilter("ignore")
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

    torch.set_num_threads(2)
    a, b = (sitk.GetArrayFromImage(sitk.ReadImage(str(work / f"{name}.nii.gz"))) for name in "ab")
    found, began, cpu = {}, time.perf_counter(), used()
    for n in range(1, 29):
        mask_a, mask_b = a == n, b == n
        if cut:
            both = mask_a | mask_b
            box = tuple(slice(max(i.min() - 1, 0), i.max() + 2) for i in (np.flatnonzero(both.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))))
            mask_a, mask_b = mask_a[box], mask_b[box]
        truth, predicted = (torch.from_numpy(np.ascontiguousarray(m[None, None])).float() for m in (mask_a, mask_b))
        found[f"Label_{n}"] = {
            "dice": float(compute_dice(predicted, truth, include_background=True)),
            "hd95_mm": float(compute_hausdorff_distance(predicted, truth, include_background=True, percentile=95, spacing=SPACING)),
            "surface_dice": [float(compute_surface_dice(predicted, truth, [mm], include_background=True, spacing=SPACING, use_subvoxels=True)) for mm in TOLERANCES],
        }
    print(json.dumps({"wall": time.perf_counter() - began, "cpu": used() - cpu,
                      "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "found": found}))


def oarlock(program, ct, work):
    out = work / "oarlock.json"
    began = time.perf_counter()
    with open(out, "wb") as file:
        child = subprocess.Popen([program, "compare", work / "a.nii.gz", work / "b.nii.gz", "--ct", ct, "--json"], stdout=file,
                                 env={**os.environ, "RAYON_NUM_THREADS": "2"})
        _, status, u = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"oarlock failed with {status}")
    return {"wall": time.perf_counter() - began, "cpu": u.ru_utime + u.ru_stime, "mb": u.ru_maxrss / 1024,
            "found": json.loads(out.read_text())["rois"]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=Path)
    parser.add_argument("ct", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--monai", choices=["whole", "cut"])
    parser.add_argument("--make", action="store_true")
    args = parser.parse_args()
    if args.monai:
        return monai(args.work, args.monai == "cut")
    if args.make:
        return make(args.ct, args.work)
    args.work.mkdir(parents=True, exist_ok=True)
    # In a process of its own: a child's peak memory is never said to be less than what its parent held when it began.
    subprocess.run([sys.executable, __file__, args.program, args.ct, args.work, "--make"], check=True)
    best = {}
    for _ in range(args.rounds):
        runs = {"Oarlock, whole program": oarlock(args.program, args.ct, args.work)}
        for how in ("cut", "whole"):
            said = subprocess.run([sys.executable, __file__, args.program, args.ct, args.work, "--monai", how],
                                  check=True, capture_output=True, text=True)
            runs[f"MONAI, {how}"] = json.loads(said.stdout.splitlines()[-1])
        for name, run in runs.items():
            print(f"{name:24} {run['wall']:8.2f} s {run['cpu']:8.2f} CPU s {run['mb']:7.0f} MB", flush=True)
            if name not in best or run["cpu"] < best[name]["cpu"]:
                best[name] = run
    ours = best["Oarlock, whole program"]
    for how in ("cut", "whole"):
        theirs = best[f"MONAI, {how}"]
        print(f"of MONAI, {how}: {ours['cpu'] / theirs['cpu']:.3f} of the CPU seconds, {ours['wall'] / theirs['wall']:.3f} of the time")
        off = {"dice": 0.0, "hd95_mm": 0.0, "surface_dice": 0.0}
        for name, wanted in theirs["found"].items():
            got = ours["found"][name]
            for key in ("dice", "hd95_mm"):
                off[key] = max(off[key], abs(got[key] - wanted[key]))
            for n, mm in enumerate(TOLERANCES):
                off["surface_dice"] = max(off["surface_dice"], abs(got["surface_dice"][f"{mm:.0f}_mm"] - wanted["surface_dice"][n]))
        print(f"  {len(theirs['found'])} organs, largest difference: {off}")


main()
