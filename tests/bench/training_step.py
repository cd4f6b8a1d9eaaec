"""One training step on a processor: Oarlock's graphs through ONNX Runtime beside the same step in PyTorch.

    cargo run --release --example bench_training_graphs -- FOLDER [starter|reference]
    python3 tests/bench/training_step.py FOLDER [--preset starter|reference] [--rounds 5] [--threads 2]

`starter`: the trunk on a crop of 96 x 80 x 96: forward pass, focal and box loss, gradients, running statistics, Adam with
weight decay.
`reference`: the whole step on a crop of 64 x 96 x 96: trunk, 64 pooled proposals through the refinement, six mask boxes, all
five losses and all gradients, Adam. PyTorch does it as one graph with one backward pass, Oarlock as its program does: the
trunk forward, the heads, and the trunk once more with the heads' gradients.

Weights are the graphs' inputs, so both sides start from the same numbers; proposals, boxes and targets are the same fixed
ones, and the first losses are compared. Oarlock's Adam, pooling and adding up of gradients are written in Rust; here
numpy stands for them, which is no faster and needs no less memory. Each side runs in a process of its own, alternating, one step to warm up and
two that count; the least of all rounds is printed. Needs torch, onnxruntime, numpy.
"""
import argparse
import concurrent.futures
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
# Channels, crop, rows of the refinement, first voxel and sides of the mask boxes with the organ's class less one.
PRESETS = dict(
    starter=(STARTER, (96, 80, 96), 0, []),
    reference=(REFERENCE, (64, 96, 96), 64, [
        ((16, 16, 40), (32, 64, 48), 16), ((24, 32, 24), (32, 48, 48), 1), ((48, 8, 16), (16, 40, 40), 5),
        ((8, 40, 56), (16, 40, 32), 18), ((40, 24, 48), (16, 40, 24), 13), ((48, 8, 40), (16, 24, 24), 9)]),
)
RATE, DECAY, BETAS, EPSILON = 1e-3, 1e-4, (0.9, 0.999), 1e-8
# Inputs that are one where nobody sets them.
UNSET = ("one", "loss_scale")
MAPS = (("f2", "stage2", 2), ("f4", "stage4", 4), ("f8", "merge8", 8))


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
    """Image and targets: the same on both sides."""
    channels, sides, rows, boxes = PRESETS[preset]
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
    if not rows:
        for name, stage, scale in MAPS:
            values["d" + name] = (1e-3 * random.standard_normal(shape(channels[stage], scale))).astype("f4")
        return values, None, None
    # Proposals of three to six positions of f8 along each axis, some foreground, some background.
    coarse = numpy.array(sides) // 8
    long = random.integers(3, 7, (rows, 3))
    first = (random.random((rows, 3)) * (coarse - long + 1)).astype(int)
    classes = numpy.where(numpy.arange(rows) < 40, random.integers(1, 29, rows), 0)
    weights = numpy.zeros((rows, 29, 6), "f4")
    weights[numpy.flatnonzero(classes), classes[classes > 0]] = 1
    counts = numpy.bincount(classes, minlength=29)
    row_weights = 1 / counts[classes]
    refinement = dict(
        allowed=numpy.eye(29, dtype="f4")[classes],
        row_weights=(row_weights / row_weights.mean()).astype("f4")[:, None],
        box_targets=random.standard_normal((rows, 174)).astype("f4"),
        box_weights=weights.reshape(rows, 174),
    )
    masks = []
    for _, box, _ in boxes:
        truth = numpy.zeros((1, 1) + box, "f4")
        truth[(0, 0) + tuple(slice(side // 4, side - side // 5) for side in box)] = 1
        masks.append(truth)
    return values, (numpy.stack([first, first + long], 2), refinement), masks


class Graph:
    """A training graph as Oarlock loads it: it gives its memory back after each run, its outputs lie aside."""

    def __init__(self, path, threads):
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.loaded = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.takes = [door.name for door in self.loaded.get_inputs()]
        self.options = onnxruntime.RunOptions()
        self.options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self.places = {door.name: numpy.empty(door.shape, "f4") for door in self.loaded.get_outputs()}

    def run(self, feed):
        binding = self.loaded.io_binding()
        for name, value in feed.items():
            binding.bind_cpu_input(name, value)
        for name, place in self.places.items():
            binding.bind_output(name, "cpu", 0, numpy.float32, place.shape, place.ctypes.data)
        self.loaded.run_with_iobinding(binding, self.options)
        return self.places


def cells(ranges, coarse):
    """For each cell of each proposal the places of f8, in C order, that it covers; filled up to eight."""
    places = []
    for proposal in ranges:
        axes = [[range(a + i * (b - a) // 6, a + -((-(i + 1) * (b - a)) // 6)) for i in range(6)] for a, b in proposal]
        for z in axes[0]:
            for y in axes[1]:
                for x in axes[2]:
                    own = [(iz * coarse[1] + iy) * coarse[2] + ix for iz in z for iy in y for ix in x]
                    places.append(own + own[:1] * (8 - len(own)))
    return numpy.array(places)


def with_onnxruntime(folder, preset, threads):
    channels, sides, rows, boxes = PRESETS[preset]
    weights = weights_of(folder / f"{preset}.safetensors")
    fixed, refinement, masks = inputs(preset)
    moments, count = {}, 0
    graphs = {}

    def run(name, given):
        if name not in graphs:
            graphs[name] = Graph(folder / f"{preset}.{name}.onnx", threads)
        graph = graphs[name]
        feed = {door: given[door] if door in given else weights[door] for door in graph.takes if door not in UNSET}
        return graph.run(feed)

    def accumulate(total, found):
        for name, value in found.items():
            if name.startswith("running."):
                weights[name[len("running."):]][...] = value
            elif name.startswith("grad.") and name[len("grad."):] in weights:
                name = name[len("grad."):]
                if name in total:
                    total[name] += value
                else:
                    total[name] = value.copy()

    workers = concurrent.futures.ThreadPoolExecutor(threads)

    def stretch(weight, first, second, value):
        value = value + DECAY * weight
        first += (1 - BETAS[0]) * (value - first)
        second += (1 - BETAS[1]) * (value * value - second)
        root = numpy.sqrt(second / (1 - BETAS[1]**count)) + EPSILON
        weight -= RATE / (1 - BETAS[0]**count) * first / root

    def adam(*arrays):
        """In place, a stretch at a time on all threads, as Oarlock's."""
        starts = range(0, arrays[0].size, 1 << 16)
        list(workers.map(lambda at: stretch(*(array[at:at + (1 << 16)] for array in arrays)), starts))

    if rows:
        coarse = [side // 8 for side in sides]
        covered = cells(refinement[0], coarse)

    def heads(losses, total):
        """Refinement and masks on the maps of the forward pass; returns the gradients of the maps."""
        maps = run("forward", fixed)
        backward = {name: numpy.zeros_like(maps[name]) for name, _, _ in MAPS}
        flat = maps["f8"].reshape(channels["merge8"], -1)
        candidates = flat[:, covered]
        winner = candidates.argmax(2)
        pooled = numpy.take_along_axis(candidates, winner[..., None], 2)[..., 0].reshape(-1, rows, 216)
        del candidates
        out = run("refinement_step", dict(refinement[1], pooled=pooled.swapaxes(0, 1).reshape(rows, -1)))
        losses += [out["loss.class"], out["loss.box"]]
        back = out["grad.pooled"].reshape(rows, -1, 216).swapaxes(0, 1).reshape(channels["merge8"], -1)
        target = covered[numpy.arange(len(covered)), winner]
        for channel, (at, value) in enumerate(zip(target, back)):
            backward["f8"].reshape(channels["merge8"], -1)[channel] += numpy.bincount(at, value, flat.shape[1])
        accumulate(total, out)
        mask_loss = 0
        for (start, box, organ), truth in zip(boxes, masks):
            def under(scale):
                return (slice(None), slice(None)) + tuple(slice(a // scale, (a + n) // scale) for a, n in zip(start, box))

            crops = {name: numpy.ascontiguousarray(maps[name][under(scale)]) for name, _, scale in MAPS}
            crops |= dict(image=numpy.ascontiguousarray(fixed["image"][under(1)]), truth=truth, valid=numpy.ones_like(truth))
            crops["class"] = numpy.array([organ])
            out = run("mask_step.{}x{}x{}".format(*box), crops)
            mask_loss += out["loss.mask"]
            for name, _, scale in MAPS:
                backward[name][under(scale)] += out["grad." + name]
            accumulate(total, out)
        losses.append(mask_loss)
        return {"d" + name: value for name, value in backward.items()}

    def step():
        nonlocal count
        count += 1
        losses, total = [], {}
        back = heads(losses, total) if rows else {}
        out = run("backbone_step", {**fixed, **back})
        losses = [out["loss.rpn_class"], out["loss.rpn_box"]] + losses
        accumulate(total, out)
        for name, value in total.items():
            weight = weights[name]
            first, second = moments.setdefault(name, (numpy.zeros_like(weight), numpy.zeros_like(weight)))
            adam(*(array.reshape(-1) for array in (weight, first, second, value)))
        return [float(loss) for loss in losses]

    return step


def with_torch(folder, preset, threads):
    import torch
    import torch.nn.functional as F

    channels, sides, rows, boxes = PRESETS[preset]
    torch.set_num_threads(threads)
    tensors = {name: torch.from_numpy(value) for name, value in weights_of(folder / f"{preset}.safetensors").items()}
    fixed, refinement, masks = inputs(preset)
    fixed = {name: torch.from_numpy(value) for name, value in fixed.items()}
    if rows:
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
        for (start, box, organ), truth in zip(boxes, masks):
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
        if rows:
            found += heads(f2, f4, f8)
            return found, sum(found)
        return found, sum(found) + sum((m * fixed["d" + name]).sum() for name, m in (("f2", f2), ("f4", f4), ("f8", f8)))

    optimizer = None

    def step():
        nonlocal optimizer
        found, total = losses()
        if optimizer is None:
            trained = [value for value in used.values() if value.requires_grad]
            optimizer = torch.optim.Adam(trained, lr=RATE, betas=BETAS, eps=EPSILON, weight_decay=DECAY)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return [float(loss) for loss in found]

    return step


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def one(folder, preset, side, threads):
    step = (with_torch if side == "torch" else with_onnxruntime)(folder, preset, threads)
    losses = step()
    cpu, wall = cpu_seconds(), time.perf_counter()
    step(), step()
    found = dict(cpu=(cpu_seconds() - cpu) / 2, wall=(time.perf_counter() - wall) / 2)
    return {**found, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "losses": losses}


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("--preset", choices=sorted(PRESETS), default="starter")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--one")
    given = arguments.parse_args()
    if given.one:
        print(json.dumps(one(given.folder, given.preset, given.one, given.threads)))
        return
    version = importlib.metadata.version
    print(f"{given.preset}, ONNX Runtime {version('onnxruntime')}, PyTorch {version('torch')}, {given.threads} threads, "
          f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, best of {given.rounds}")
    best, losses = {}, {}
    passed = ["--preset", given.preset, "--threads", str(given.threads)]
    for _ in range(given.rounds):
        for side in ("torch", "oarlock"):
            command = [sys.executable, __file__, str(given.folder), *passed, "--one", side]
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
