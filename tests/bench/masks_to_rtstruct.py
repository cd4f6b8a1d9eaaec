"""28 masks of 512 x 512 x 200 to an RTSTRUCT: Oarlock beside plastimatch and rt-utils, one after the other on this machine.

    target/release/oarlock phantom --kind bodies --slices 200 --size 512 512 --spacing 2.5 0.98 0.98 -o PHANTOM
    target/peers/python/bin/python tests/bench/masks_to_rtstruct.py target/release/oarlock PHANTOM/ct WORK_DIR

Oarlock and plastimatch read the masks from files (a label map for Oarlock, and for both a folder of 28 MHA files); rt-utils
gets them as arrays, and only its own work is timed. Wall time of the whole program, and its peak memory. Then Oarlock's file
is turned back into a label map, which must be the one that went in, voxel by voxel.
"""
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk


def make(ct, work):
    """28 bodies that touch, some with holes, some in two pieces; nothing symmetric."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(ct)))
    image = reader.Execute()
    width, height, depth = image.GetSize()
    labels = np.zeros((depth, height, width), np.uint8)
    z, y, x = np.ogrid[:depth, :height, :width]
    for n in range(28):
        cz, cy, cx = 20 + 6 * n, 120 + 61 * n % 260, 110 + 97 * n % 290
        rz, ry, rx = 8 + 3 * n % 25, 14 + 5 * n % 40, 12 + 7 * n % 45
        r = ((z - cz) / rz) ** 2 + ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2
        body = (r < 1) & ~((r < 0.15) if n % 3 == 0 else np.zeros_like(r, bool))
        labels[body & (labels == 0)] = n + 1
    volume = sitk.GetImageFromArray(labels)
    volume.CopyInformation(image)
    sitk.WriteImage(volume, str(work / "labels.nii.gz"))
    (work / "masks").mkdir(exist_ok=True)
    for n in range(28):
        one = sitk.GetImageFromArray((labels == n + 1).astype(np.uint8))
        one.CopyInformation(image)
        sitk.WriteImage(one, str(work / "masks" / f"organ_{n + 1:02}.mha"), True)
    return labels


def timed(name, command):
    """Wall time and peak memory of a program."""
    start = time.perf_counter()
    pid = os.spawnvp(os.P_NOWAIT, command[0], [str(part) for part in command])
    _, status, used = os.wait4(pid, 0)
    if status:
        sys.exit(f"{name}: {command} failed with {status}")
    seconds = time.perf_counter() - start
    print(f"{name:32} {seconds:8.2f} s  {used.ru_utime + used.ru_stime:8.2f} CPU s  {used.ru_maxrss / 1024:7.0f} MB", flush=True)
    return seconds


def rt_utils(ct, work):
    from rt_utils import RTStructBuilder

    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(work / "labels.nii.gz")))
    masks = [np.ascontiguousarray((labels == n + 1).transpose(1, 2, 0)) for n in range(28)]
    start = time.perf_counter()
    builder = RTStructBuilder.create_new(dicom_series_path=str(ct))
    for n, mask in enumerate(masks):
        builder.add_roi(mask=mask, name=f"organ_{n + 1:02}")
    builder.save(str(work / "rt_utils.dcm"))
    print(f"{'rt-utils, its own work':32} {time.perf_counter() - start:8.2f} s  {'':14}  "
          f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:7.0f} MB", flush=True)


def main():
    oarlock, ct, work = (Path(argument) for argument in sys.argv[1:4])
    if sys.argv[4:] == ["rt-utils"]:
        rt_utils(ct, work)
        return
    work.mkdir(parents=True, exist_ok=True)
    labels = make(ct, work)
    out = work / "oarlock.dcm"
    for source in ("labels.nii.gz", "masks"):
        for _ in range(2):
            timed(f"Oarlock, {source}", [oarlock, "convert", work / source, "--ct", ct, "-o", out])
    timed("plastimatch, masks", ["plastimatch", "convert", "--input-prefix", work / "masks", "--referenced-ct", ct,
                                 "--output-dicom", work / "plastimatch"])
    subprocess.run([sys.executable, __file__, oarlock, ct, work, "rt-utils"], check=True, stderr=subprocess.DEVNULL)
    timed("Oarlock, the way back", [oarlock, "convert", out, "--ct", ct, "-o", work / "back.nii.gz"])
    back = sitk.GetArrayFromImage(sitk.ReadImage(str(work / "back.nii.gz")))
    exact = sum(np.array_equal(back == n + 1, labels == n + 1) for n in range(28))
    print(f"{exact} of 28 masks are exact on the way back")


main()
