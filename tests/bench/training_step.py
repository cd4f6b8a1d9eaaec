"""One training step on a processor: Oarlock beside the same step in PyTorch.

    cargo run --example bench_training_graphs -- FOLDER [starter|reference]
    python3 tests/bench/training_step.py FOLDER [--preset starter|reference] [--rounds 5] [--threads 2] [--release]

The whole step of a preset on a crop: trunk, 64 pooled proposals through the refinement, six mask boxes, all five losses and
all gradients, Adam with weight decay. PyTorch does it as one graph with one backward pass; Oarlock's side is the step of
`oarlock train` itself (`src/learning/train/step/timed.rs`, built as a test): the trunk's way out, the heads, and its way back
with the heads' gradients. Shapes, counts and weights' sizes are the same; that both compute the same is what
`a_whole_step_is_that_of_pytorch` shows. Each side runs in a process of its own, alternating, one step to warm up and two that
count; of all rounds the least time and the most memory are printed. Needs torch and numpy, and Linux.
"""
import argparse
import importlib.metadata
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

import numpy

BLOCKS = dict(stage2=2, stage4=2, stage8=3, stage16=3, merge8=3)
STARTER = dict(stage2=16, stage4=32, stage8=32, stage16=32, merge8=64)
REFERENCE = dict(stage2=32, stage4=64, stage8=64, stage16=64, merge8=128)
# Channels, crop.
PRESETS = dict(starter=(STARTER, (96, 80, 96)), reference=(REFERENCE, (64, 96, 96)))
ROWS = 64
# First voxel and sides of the mask boxes with the organ's class less one: those of a parotid, a brain stem, an eye, a
# submandibular gland, an optic nerve and a lens.
BOXES = [
    ((16, 16, 40), (32, 64, 48), 16), ((24, 32, 24), (32, 48, 48), 1), ((48, 8, 16), (16, 40, 40), 5),
    ((8, 40, 56), (16, 40, 32), 18), ((40, 24, 48), (16, 40, 24), 13), ((48, 8, 40), (16, 24, 24), 9)]
# Of several rounds the least time, but the most memory.
MEASURES = dict(cpu=min, wall=min, peak_mb=max)
RATE, DECAY, BETAS, EPSILON = 1e-3, 1e-4, (0.9, 0.999), 1e-8


def weights_of(path):
    """Tensors of a file in the safetensors layout."""
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, body = json.loads(whole[8:8 + length]), whole[8 + length:]
    header.pop("__metadata__")
    return {
        name: numpy.frombuffer(body[entry["data_offsets"][0]:entry["data_offsets"][1]], "<f4").reshape(entry["shape"]).copy()
        for name, entry in header.items()
    }


def inputs(preset):
    """Image and targets."""
    _, sides = PRESETS[preset]
    random = numpy.random.default_rng(1)

    def shape(channels, scale):
        return [1, channels] + [side // scale for side in sides]

    positive = (random.random(shape(12, 8)) > 0.99).astype("f4")
    values = dict(
        image=random.standard_normal(shape(1, 1)).astype("f4"),
        positive=positive,
        negative=((1 - positive) * 0.01).astype("f4"),
        box_targets=random.standard_normal(shape(72, 8)).astype("f4"),
        box_weights=numpy.repeat(positive, 6, 1),
    )
    # Proposals of three to six positions of f8 along each axis, some foreground, some background.
    coarse = numpy.array(sides) // 8
    long = random.integers(3, 7, (ROWS, 3))
    first = (random.random((ROWS, 3)) * (coarse - long + 1)).astype(int)
    classes = numpy.where(numpy.arange(ROWS) < 40, random.integers(1, 29, ROWS), 0)
    weights = numpy.zeros((ROWS, 29, 6), "f4")
    weights[numpy.flatnonzero(classes), classes[classes > 0]] = 1
    counts = numpy.bincount(classes, minlength=29)
    row_weights = 1 / counts[classes]
    refinement = dict(
        allowed=numpy.eye(29, dtype="f4")[classes],
        row_weights=(row_weights / row_weights.mean()).astype("f4")[:, None],
        box_targets=random.standard_normal((ROWS, 174)).astype("f4"),
        box_weights=weights.reshape(ROWS, 174),
    )
    masks = []
    for _, box, _ in BOXES:
        truth = numpy.zeros((1, 1) + box, "f4")
        truth[(0, 0) + tuple(slice(side // 4, side - side // 5) for side in box)] = 1
        masks.append(truth)
    return values, (numpy.stack([first, first + long], 2), refinement), masks


def with_torch(folder, preset, threads):
    import torch
    import torch.nn.functional as F

    channels, _ = PRESETS[preset]
    torch.set_num_threads(threads)
    tensors = {name: torch.from_numpy(value) for name, value in weights_of(folder / f"{preset}.safetensors").items()}
    fixed, refinement, masks = inputs(preset)
    fixed = {name: torch.from_numpy(value) for name, value in fixed.items()}
    ranges, of_rows = refinement[0].tolist(), {name: torch.from_numpy(v) for name, v in refinement[1].items()}
    masks = [torch.from_numpy(truth) for truth in masks]
    classes = of_rows["allowed"].argmax(1)
    used = {}

    def weight(name):
        if name not in used:
            used[name] = tensors[name].requires_grad_(not name.endswith(("norm.mean", "norm.variance")))
        return used[name]

    def norm(x, name):
        mean, variance, scale, shift = (weight(f"{name}.{part}") for part in ("mean", "variance", "scale", "shift"))
        return F.batch_norm(x, mean, variance, scale, shift, True, 0.1, 1e-5)

    def conv(x, name, stride=1):
        filters = weight(f"{name}.conv.weight")
        return norm(F.conv3d(x, filters, stride=stride, padding=filters.shape[-1] // 2), f"{name}.norm")

    def stage(x, name):
        for block in range(1, BLOCKS[name] + 1):
            place = f"{name}.{block}"
            y = conv(torch.relu_(conv(x, place + ".first")), place + ".second")
            x = torch.relu_(y + (x if x.shape[1] == channels[name] else conv(x, place + ".skip")))
        return x

    def point(x, name):
        return F.conv3d(x, weight(f"{name}.weight"), weight(f"{name}.bias"))

    def full(x, name):
        return F.linear(x, weight(f"{name}.weight"), weight(f"{name}.bias"))

    def unit(x, name):
        x = F.conv3d(x, weight(f"mask.{name}.conv.weight"), padding=1)
        return torch.relu_(F.instance_norm(
            x, weight=weight(f"mask.{name}.norm.scale"), bias=weight(f"mask.{name}.norm.shift")))

    def heads(f2, f4, f8):
        parts = []
        for (z0, z1), (y0, y1), (x0, x1) in ranges:
            parts.append(F.adaptive_max_pool3d(f8[:, :, z0:z1, y0:y1, x0:x1], 6).reshape(1, -1))
        x = torch.relu_(full(torch.relu_(full(torch.cat(parts), "refinement.first")), "refinement.second"))
        each = F.cross_entropy(full(x, "refinement.classes"), classes, reduction="none")
        row_weights = of_rows["row_weights"][:, 0]
        deltas = F.smooth_l1_loss(full(x, "refinement.boxes"), of_rows["box_targets"], reduction="none")
        losses = [(each * row_weights).sum() / row_weights.sum(),
                  (deltas * of_rows["box_weights"]).sum() / (of_rows["box_weights"].sum() / 6)]
        mask_loss = 0
        for (start, box, organ), truth in zip(BOXES, masks):
            def cut(t, scale):
                return t[(slice(None), slice(None)) + tuple(slice(a // scale, (a + n) // scale) for a, n in zip(start, box))]

            x = cut(f8, 8)
            for up, merge, finer in (("up8", "merge4", cut(f4, 4)), ("up4", "merge2", cut(f2, 2)),
                                     ("up2", "merge1", cut(fixed["image"], 1))):
                x = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
                x = unit(torch.cat([unit(x, up), finer], 1), merge)
            filters, bias = weight("mask.organs.weight"), weight("mask.organs.bias")
            p = torch.sigmoid(F.conv3d(x, filters[organ].reshape(1, -1, 1, 1, 1), bias[organ].reshape(1)))
            hit = (p * truth).sum()
            mask_loss = mask_loss + 1 - hit / (hit + 0.5 * (p.sum() - hit) + 0.5 * (truth.sum() - hit) + 1e-6)
        return losses + [mask_loss]

    def losses():
        x = torch.relu_(conv(fixed["image"], "stem.1", 2))
        f2 = stage(torch.relu_(conv(x, "stem.2")), "stage2")
        f4 = stage(F.max_pool3d(f2, 2), "stage4")
        down = stage(F.max_pool3d(f4, 2), "stage8")
        x = stage(F.max_pool3d(down, 2), "stage16")
        x = torch.relu_(norm(F.conv_transpose3d(x, weight("rise.conv.weight"), stride=2), "rise.norm"))
        f8 = stage(torch.cat([x, down], 1), "merge8")
        x = torch.relu_(point(f8, "proposal.shared"))
        logits, deltas = point(x, "proposal.logits"), point(x, "proposal.deltas")
        p = torch.sigmoid(logits).detach()
        up, down = fixed["positive"], fixed["negative"]
        focal = up * (1 - p)**2 * F.softplus(-logits) + down * p**2 * F.softplus(logits)
        of_boxes = F.smooth_l1_loss(deltas, fixed["box_targets"], reduction="none") * fixed["box_weights"]
        found = [focal.sum() / (up + down).sum(), of_boxes.sum() / (fixed["box_weights"].sum() / 6)]
        found += heads(f2, f4, f8)
        return sum(found)

    optimizer = None

    def step():
        nonlocal optimizer
        total = losses()
        if optimizer is None:
            trained = [value for value in used.values() if value.requires_grad]
            optimizer = torch.optim.Adam(trained, lr=RATE, betas=BETAS, eps=EPSILON, weight_decay=DECAY)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    return step


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def torch_alone(folder, preset, threads):
    step = with_torch(folder, preset, threads)
    step()
    cpu, wall = cpu_seconds(), time.perf_counter()
    step(), step()
    found = dict(cpu=(cpu_seconds() - cpu) / 2, wall=(time.perf_counter() - wall) / 2)
    return {**found, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 * 1.024}


def test_program(release):
    """The library's tests, built."""
    command = ["cargo", "test", "--lib", "--no-run", "--message-format=json"] + ["--release"] * release
    built = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return next(message["executable"] for message in map(json.loads, built.splitlines()) if message.get("executable"))


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("--preset", choices=sorted(PRESETS), default="reference")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--release", action="store_true", help="Oarlock's side in the release profile")
    arguments.add_argument("--parts", action="store_true", help="print what Oarlock's parts of a step took")
    arguments.add_argument("--program", help="the library's tests, where they are built already")
    arguments.add_argument("--torch", action="store_true", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.torch:
        print(json.dumps(torch_alone(given.folder, given.preset, given.threads)))
        return
    print(f"{given.preset}, PyTorch {importlib.metadata.version('torch')}, {given.threads} threads, "
          f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, best of {given.rounds}")
    plan = dict(preset=given.preset, threads=given.threads, crop=PRESETS[given.preset][1], rows=ROWS, boxes=BOXES)
    # As `oarlock train` sets them for itself (src/platform.rs).
    heap = (
        "glibc.malloc.mmap_max=0:glibc.malloc.arena_max=1:glibc.malloc.tcache_count=0"
        ":glibc.malloc.trim_threshold=8589934592"
    )
    environments = dict(
        torch=dict(os.environ),
        oarlock={**os.environ, "ORT_DISABLE_TELEMETRY": "1", "OARLOCK_TIMED_STEP": json.dumps(plan), "GLIBC_TUNABLES": heap})
    passed = ["--preset", given.preset, "--threads", str(given.threads), "--torch"]
    program = given.program or test_program(given.release)
    commands = dict(
        torch=[sys.executable, __file__, str(given.folder), *passed],
        oarlock=[program, "a_step_is_timed_where_that_is_asked_for", "--nocapture"])
    best = {}
    for _ in range(given.rounds):
        for side, command in commands.items():
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                 env=environments[side], text=True)
            found = json.loads(next(line for line in run.stdout.splitlines() if line.startswith("{")))
            for name, seconds, _ in found.pop("parts", []) if given.parts else []:
                print(f"    {name}: {seconds:.3f} s")
            before = best.get(side, found)
            best[side] = {key: choose(before[key], found[key]) for key, choose in MEASURES.items()}
    theirs = best["torch"]
    for side, found in best.items():
        shares = {key: found[key] / theirs[key] for key in found}
        print(f"{side:7}: {found['cpu']:.3f} CPU s ({shares['cpu']:.2f} of PyTorch), {found['wall']:.3f} s ({shares['wall']:.2f}), "
              f"peak {found['peak_mb']:.0f} MB ({shares['peak_mb']:.2f})")


main()
