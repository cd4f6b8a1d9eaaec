"""The forward pass on a processor: Oarlock's graphs through ONNX Runtime beside the same network in PyTorch.

    for preset in reference starter; do oarlock model graphs --preset $preset --output FOLDER; done
    python3 tests/bench/forward.py FOLDER [--rounds 5] [--threads 2]

Each form runs in a process of its own, one after the other in every round, so that a busy machine slows all alike. Printed
are the least CPU seconds of a round, the least wall time, and the peak memory of the process (which holds the library, the
weights and one input). Needs torch, onnxruntime, numpy; prints their versions.
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

CASES = {  # preset, sides of the input (z, y, x), sides of one box, both in voxels
    "reference": ((160, 240, 240), (40, 96, 72)),
    "starter": ((112, 128, 128), (40, 96, 72)),
}
CHANNELS = {
    "reference": dict(stem=24, stage2=32, stage4=64, stage8=64, stage16=64, rise=64, merge8=128, proposal=64, mask=64),
    "starter": dict(stem=12, stage2=16, stage4=32, stage8=32, stage16=32, rise=32, merge8=64, proposal=32, mask=24),
}
BLOCKS = dict(stage2=2, stage4=2, stage8=3, stage16=3, merge8=3)


def torch_form(preset, part):
    """The network with batch norm folded, as one would deploy it in PyTorch."""
    import torch
    import torch.nn.functional as F

    channels, weights = CHANNELS[preset], {}
    torch.manual_seed(1)

    def weight(name, *shape):
        if name not in weights:
            weights[name] = torch.randn(shape) * 0.05
        return weights[name]

    def conv(x, name, to, kernel=3, stride=1):
        filters = weight(name, to, x.shape[1], kernel, kernel, kernel)
        return F.conv3d(x, filters, weight(name + ".bias", to), stride=stride, padding=kernel // 2)

    def stage(x, name):
        for block in range(BLOCKS[name]):
            place, to = f"{name}.{block}", channels[name]
            y = conv(torch.relu_(conv(x, place + ".first", to)), place + ".second", to)
            y += x if x.shape[1] == to else conv(x, place + ".skip", to, 1)
            x = torch.relu_(y)
        return x

    def trunk(image):
        x = torch.relu_(conv(image, "stem.1", channels["stem"], stride=2))
        f2 = stage(torch.relu_(conv(x, "stem.2", channels["stem"])), "stage2")
        f4 = stage(F.max_pool3d(f2, 2), "stage4")
        down = stage(F.max_pool3d(f4, 2), "stage8")
        x = stage(F.max_pool3d(down, 2), "stage16")
        rise = weight("rise", x.shape[1], channels["rise"], 2, 2, 2)
        x = torch.relu_(F.conv_transpose3d(x, rise, weight("rise.bias", channels["rise"]), stride=2))
        f8 = stage(torch.cat([x, down], 1), "merge8")
        x = torch.relu_(conv(f8, "shared", channels["proposal"], 1))
        return f2, f4, f8, conv(x, "logits", 12, 1), conv(x, "deltas", 72, 1)

    def mask(image, f2, f4, f8, chosen):
        def unit(x, name):
            to = channels["mask"]
            x = F.conv3d(x, weight(name, to, x.shape[1], 3, 3, 3), padding=1)
            scale, shift = weight(name + ".scale", to), weight(name + ".shift", to)
            return torch.relu_(F.instance_norm(x, weight=scale, bias=shift))

        x = f8
        for name, finer in (("8", f4), ("4", f2), ("2", image)):
            x = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
            x = unit(torch.cat([unit(x, "up" + name), finer], 1), "merge" + name)
        filters = weight("organs", 28, channels["mask"])
        return F.conv3d(x, filters[chosen].reshape(1, -1, 1, 1, 1), weight("organs.bias", 28)[chosen])

    return trunk if part == "trunk" else mask


def inputs(preset, part):
    import numpy

    sides, box = CASES[preset]
    random, channels = numpy.random.default_rng(1), CHANNELS[preset]
    doors = [("image", 1, 1)]
    if part == "mask":
        sides = box
        doors += [("f2", channels["stage2"], 2), ("f4", channels["stage4"], 4), ("f8", channels["merge8"], 8)]
    feed = {}
    for name, count, scale in doors:
        feed[name] = random.standard_normal([1, count] + [side // scale for side in sides]).astype("f4")
    if part == "mask":
        feed["class"] = numpy.array([5])
    return feed


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def one(folder, preset, part, form, threads):
    """One run to warm up and one that counts, in this process."""
    feed = inputs(preset, part)
    if form == "torch":
        import torch

        torch.set_num_threads(threads)
        network = torch_form(preset, part)
        values = [torch.from_numpy(value) for value in feed.values()]

        def run():
            with torch.inference_mode():
                return network(*values)
    else:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = str(folder / f"{preset}-untrained.{part}{'.flat' * (form == 'flat')}.onnx")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        def run():
            return session.run(None, feed)

    run()
    cpu, wall = cpu_seconds(), time.perf_counter()
    run()
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    return dict(cpu=cpu, wall=wall, peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--one", nargs=3)
    given = arguments.parse_args()
    if given.one:
        print(json.dumps(one(given.folder, *given.one, given.threads)))
        return
    # The libraries stay out of this process: its peak memory would count for its children.
    version = importlib.metadata.version
    print(f"ONNX Runtime {version('onnxruntime')}, PyTorch {version('torch')}, {given.threads} threads, "
          f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, best of {given.rounds}")
    for preset, (sides, box) in CASES.items():
        for part, shape in (("trunk", sides), ("mask", box)):
            best = {}
            for _ in range(given.rounds):
                for form in ("torch", "plain", "flat"):
                    command = [sys.executable, __file__, str(given.folder), "--threads", str(given.threads)]
                    out = subprocess.run(command + ["--one", preset, part, form], check=True, capture_output=True)
                    found = json.loads(out.stdout)
                    before = best.get(form, found)
                    best[form] = {key: min(before[key], found[key]) for key in found}
            for form, found in best.items():
                print(f"{preset} {part} {shape} {form:5}: {found['cpu']:7.3f} CPU s ({found['cpu'] / best['torch']['cpu']:.2f}"
                      f" of PyTorch), {found['wall']:.3f} s, peak {found['peak']:.0f} MB", flush=True)


main()
