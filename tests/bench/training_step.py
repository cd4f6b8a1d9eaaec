"""One training step on a processor: Oarlock's graph through ONNX Runtime beside the same step in PyTorch.

    cargo run --example bench_training_graphs -- FOLDER
    python3 tests/bench/training_step.py FOLDER [--rounds 5] [--threads 2]

The `starter` trunk on a crop of 96 x 80 x 96: forward pass, focal and box loss, gradients, running statistics, Adam with
weight decay. Weights are the graph's inputs, so both sides start from the same numbers; the first losses are compared.
Oarlock's Adam is written in Rust; here numpy stands for it, which is no faster. Each side runs in a process of its own,
alternating, one step to warm up and two that count; the least of all rounds is printed. Needs torch, onnxruntime, numpy.
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

CHANNELS = dict(stem=12, stage2=16, stage4=32, stage8=32, stage16=32, rise=32, merge8=64)
BLOCKS = dict(stage2=2, stage4=2, stage8=3, stage16=3, merge8=3)
SIDES = (96, 80, 96)
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


def inputs():
    """Image, targets and the heads' gradients: the same on both sides."""
    random = numpy.random.default_rng(1)

    def shape(channels, scale):
        return [1, channels] + [side // scale for side in SIDES]

    positive = (random.random(shape(12, 8)) > 0.99).astype("f4")
    values = dict(
        image=random.standard_normal(shape(1, 1)).astype("f4"),
        positive=positive,
        negative=((1 - positive) * 0.01).astype("f4"),
        box_targets=random.standard_normal(shape(72, 8)).astype("f4"),
        box_weights=numpy.repeat(positive, 6, 1),
    )
    for name, channels, scale in (("df2", 16, 2), ("df4", 32, 4), ("df8", 64, 8)):
        values[name] = (1e-3 * random.standard_normal(shape(channels, scale))).astype("f4")
    return values


def with_onnxruntime(folder, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    path = str(folder / "starter.backbone_step.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    known, fixed = weights_of(folder / "starter.safetensors"), inputs()
    weights = {door.name: known[door.name] for door in session.get_inputs() if door.name in known}
    names = [door.name for door in session.get_outputs()]
    moments, count = {}, 0

    def step():
        nonlocal count
        count += 1
        out = dict(zip(names, session.run(names, {**fixed, **weights})))
        for name, value in out.items():
            if name.startswith("running."):
                weights[name[len("running."):]] = value
            elif name.startswith("grad."):
                name = name[len("grad."):]
                weight = weights[name]
                first, second = moments.setdefault(name, (numpy.zeros_like(weight), numpy.zeros_like(weight)))
                value = value + DECAY * weight
                first += (1 - BETAS[0]) * (value - first)
                second += (1 - BETAS[1]) * (value * value - second)
                root = numpy.sqrt(second / (1 - BETAS[1]**count)) + EPSILON
                weight -= RATE / (1 - BETAS[0]**count) * first / root
        return float(out["loss.rpn_class"]), float(out["loss.rpn_box"])

    return step


def with_torch(folder, threads):
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    tensors = {name: torch.from_numpy(value) for name, value in weights_of(folder / "starter.safetensors").items()}
    fixed = {name: torch.from_numpy(value) for name, value in inputs().items()}
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
            x = torch.relu_(y + (x if x.shape[1] == CHANNELS[name] else conv(x, place + ".skip")))
        return x

    def point(x, name):
        return F.conv3d(x, weight(f"{name}.weight"), weight(f"{name}.bias"))

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
        boxes = F.smooth_l1_loss(deltas, fixed["box_targets"], reduction="none") * fixed["box_weights"]
        heads = sum((map_ * fixed["d" + name]).sum() for name, map_ in (("f2", f2), ("f4", f4), ("f8", f8)))
        return focal.sum() / (up + down).sum(), boxes.sum() / (fixed["box_weights"].sum() / 6), heads

    optimizer = None

    def step():
        nonlocal optimizer
        class_loss, box_loss, heads = losses()
        if optimizer is None:
            trained = [value for value in used.values() if value.requires_grad]
            optimizer = torch.optim.Adam(trained, lr=RATE, betas=BETAS, eps=EPSILON, weight_decay=DECAY)
        optimizer.zero_grad()
        (class_loss + box_loss + heads).backward()
        optimizer.step()
        return float(class_loss), float(box_loss)

    return step


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def one(folder, side, threads):
    step = (with_torch if side == "torch" else with_onnxruntime)(folder, threads)
    losses = step()
    cpu, wall = cpu_seconds(), time.perf_counter()
    step(), step()
    found = dict(cpu=(cpu_seconds() - cpu) / 2, wall=(time.perf_counter() - wall) / 2)
    return {**found, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "losses": losses}


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--one")
    given = arguments.parse_args()
    if given.one:
        print(json.dumps(one(given.folder, given.one, given.threads)))
        return
    version = importlib.metadata.version
    print(f"ONNX Runtime {version('onnxruntime')}, PyTorch {version('torch')}, {given.threads} threads, "
          f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, best of {given.rounds}")
    best, losses = {}, {}
    for _ in range(given.rounds):
        for side in ("torch", "oarlock"):
            command = [sys.executable, __file__, str(given.folder), "--threads", str(given.threads), "--one", side]
            found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            losses[side] = found.pop("losses")
            before = best.get(side, found)
            best[side] = {key: min(before[key], found[key]) for key in found}
    for side, found in best.items():
        print(f"{side:7}: {found['cpu']:.3f} CPU s ({found['cpu'] / best['torch']['cpu']:.2f} of PyTorch), {found['wall']:.3f} s, "
              f"peak {found['peak']:.0f} MB, losses of the first step {losses[side]}")
    for ours, theirs in zip(losses["oarlock"], losses["torch"]):
        assert abs(ours - theirs) < 1e-4 * abs(theirs), "the two sides compute different things"


main()
