#!/usr/bin/env python3
"""What a model loses because it does not know where the organs are: DSC of its mask head in the boxes it found, in the same
boxes grown by eight voxels on every face, and in the boxes that a perfect detection would give.

    target/peers/python/bin/python tests/bench/boxes.py target/release/oarlock starter FOLDER_OF_THE_MODEL \
        ../shared/data/openkbp/validation --skip 6

FOLDER_OF_THE_MODEL holds NAME.mask.onnx (`onnx` for the shipped one). OpenKBP layout; patients whose spinal cord or brain
stem is drawn in bone and cords of more than 90 cm3 are left out, as `oarlock evaluate` does. Network grid of `starter`.
"""

import argparse
import csv
import gzip
import pathlib
import struct
import subprocess
import tempfile

import numpy as np
import onnxruntime

SPACING = np.array([3.0, 2.5, 2.5])
LARGEST = [176, 128, 160]
# Bit of the drawing and class of the network.
ORGANS = {"brain stem": (0, 2), "spinal cord": (1, 21), "parotid R": (2, 18), "parotid L": (3, 17), "mandible": (4, 12), "larynx": (5, 9)}


def nifti(path):
    raw = gzip.decompress(path.read_bytes())
    sides = struct.unpack("<8h", raw[40:56])
    kind = {2: np.uint8, 4: np.int16, 512: np.uint16}[struct.unpack("<h", raw[70:72])[0]]
    spacing = struct.unpack("<8f", raw[76:108])
    start = int(struct.unpack("<f", raw[108:112])[0])
    values = np.frombuffer(raw, kind, offset=start, count=int(np.prod(sides[1:4])))
    return values.reshape(sides[3], sides[2], sides[1]), np.array(spacing[3:0:-1])


def on_grid(volume, spacing, shape, linear):
    """On the network's grid about the same centre; air outside."""
    out = volume
    for axis in range(3):
        at = (np.arange(shape[axis]) - (shape[axis] - 1) / 2) * SPACING[axis] / spacing[axis] + (volume.shape[axis] - 1) / 2
        inside = (at >= -0.5) & (at <= volume.shape[axis] - 0.5)
        sides = [1, 1, 1]
        sides[axis] = -1
        low = np.clip(np.floor(at) if linear else np.rint(at), 0, volume.shape[axis] - 1).astype(int)
        moved = np.take(out, low, axis)
        if linear:
            share = np.clip(at - low, 0, 1).reshape(sides)
            moved = moved * (1 - share) + np.take(out, np.minimum(low + 1, volume.shape[axis] - 1), axis) * share
        out = np.where(inside.reshape(sides), moved, -1024 if linear else 0)
    return out


def patients(part, skip):
    rows = [row for row in csv.DictReader(open(part / "manifest.csv")) if row["z_lo"] != "-1"]
    for row in rows[skip:]:
        ct, spacing = nifti(part / row["patient"] / "ct_raw.nii.gz")
        drawn, _ = nifti(part / row["patient"] / "labels.nii.gz")
        planes = slice(int(row["z_lo"]), int(row["z_hi"]) + 1)
        ct, drawn = ct[planes].astype(np.float32) - 1024, drawn[planes]
        body = (ct > -1024).any(0)
        ys, xs = (slice(np.where(body.any(axis))[0].min(), np.where(body.any(axis))[0].max() + 1) for axis in (1, 0))
        ct, drawn = ct[:, ys, xs], drawn[:, ys, xs]
        if any((drawn & bit).any() and np.median(ct[(drawn & bit) > 0]) > 150 for bit in (1, 2)):
            continue
        needed = [int(np.ceil(ct.shape[a] * spacing[a] / SPACING[a] / 16) * 16) for a in range(3)]
        shape = [min(side, most) for side, most in zip(needed, LARGEST)]
        yield on_grid(ct, spacing, shape, True).clip(-1024, 3071).round(), on_grid(drawn, spacing, shape, False)


def main():
    arguments = argparse.ArgumentParser()
    for name in ("oarlock", "model", "folder", "part"):
        arguments.add_argument(name)
    arguments.add_argument("--skip", type=int, default=0)
    given = arguments.parse_args()
    head = onnxruntime.InferenceSession(str(pathlib.Path(given.folder) / f"{given.model}.mask.onnx"))
    dice = {}
    for hu, drawn in patients(pathlib.Path(given.part), given.skip):
        with tempfile.TemporaryDirectory() as folder:
            into, out = pathlib.Path(folder) / "in.npz", pathlib.Path(folder) / "out.npz"
            np.savez(into, volume_hu=hu.astype(np.int16))
            run = [given.oarlock, "model", "verify", given.model, "--expected", str(into), "--write", str(out)]
            subprocess.run(run, check=True, capture_output=True)
            found = dict(np.load(out))
        image = (2 * (hu + 1024) / 4100 - 1).astype(np.float32)
        sides = np.array(image.shape)

        def overlap(start, end, number, truth):
            def part(scale):
                return tuple(slice(int(low) // scale, int(high) // scale) for low, high in zip(start, end))

            maps = {f"f{k}": found[f"f{k}"][(slice(None), slice(None)) + part(k)] for k in (2, 4, 8)}
            logit = head.run(None, {"image": image[part(1)][None, None], "class": np.array([number - 1]), **maps})[0][0, 0]
            predicted = logit > 0
            return 2 * (predicted & truth[part(1)]).sum() / (predicted.sum() + truth.sum())

        boxes = {int(row[-1]): row[1:7].astype(int).reshape(2, 3) for row in found["crop_boxes"]}
        for organ, (bit, number) in ORGANS.items():
            truth = (drawn.astype(int) >> bit & 1) > 0
            cm3 = truth.sum() * SPACING.prod() / 1000
            if truth.sum() < 20 or (organ == "spinal cord" and cm3 > 90):
                continue
            places = np.where(truth)
            low, high = (np.array([f(axis) for axis in places]) for f in (np.min, np.max))
            results = dice.setdefault(organ, {"found": [], "grown": [], "perfect": []})
            perfect = np.maximum((low - 2) // 8 * 8, 0), np.minimum(-(-(high + 3) // 8) * 8, sides)
            results["perfect"].append(overlap(*perfect, number, truth))
            if number not in boxes:
                results["found"].append(0.0)
                results["grown"].append(0.0)
                continue
            start, end = boxes[number]
            results["found"].append(overlap(start, end, number, truth))
            results["grown"].append(overlap(np.maximum(start - 8, 0), np.minimum(end + 8, sides), number, truth))
    kinds = ("found", "grown", "perfect")
    print(f"{'organ':<14}{'cases':>6}" + "".join(f"{kind:>10}" for kind in kinds))
    for organ, results in dice.items():
        print(f"{organ:<14}{len(results['found']):>6}" + "".join(f"{np.mean(results[kind]):>10.3f}" for kind in kinds))
    print(f"{'mean':<20}" + "".join(f"{np.mean([np.mean(r[kind]) for r in dice.values()]):>10.3f}" for kind in kinds))


if __name__ == "__main__":
    main()
