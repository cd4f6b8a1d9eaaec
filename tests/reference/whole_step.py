"""Writes tests/reference/whole_step.json: one whole training step of the `starter` preset as PyTorch computes it in float64.

    python3 tests/reference/whole_step.py

Trunk, anchor targets, refinement of pooled proposals and two mask boxes form one graph with one backward pass; Oarlock
goes through its forward, refinement, mask and backbone graphs with the choice of boxes between them. Anchor targets are
worked out here a second time. Of each gradient the file holds its Euclidean norm and its products with four hashed
tensors. Printed besides: how far PyTorch's own float32 lies from its float64 by the same measure.

A gradient jumps where the input of a ReLU passes zero. So that rounding is compared and not such jumps, the image is the
first of the hashed ones for which no input of any ReLU lies within MARGIN of zero.
"""
import itertools
import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

import uanet_numbers as net

SIDES = (32, 32, 48)
PRODUCTS = 4
BOXES_MM = [(22, 20, 20), (24, 42, 24), (24, 30, 40), (36, 36, 36), (48, 42, 72), (66, 46, 44), (72, 60, 46), (72, 80, 76),
            (72, 110, 56), (90, 110, 125), (110, 40, 44), (230, 40, 40)]
SPACING = (3.0, 2.5, 2.5)
# Class, first and last voxel + 1 of each organ, in class order.
ORGANS = [(11, (20, 22, 8), (23, 27, 12)), (12, (8, 4, 10), (20, 20, 34)), (17, (12, 10, 30), (24, 24, 44))]
# Proposals of the refinement: box and which organ it is of; None: background.
PROPOSALS = [((13.5, 11.5, 21.5, 16.0, 20.0, 28.0), 1), ((14.0, 12.5, 20.0, 14.0, 19.0, 30.0), 1),
             ((17.0, 16.0, 37.0, 15.0, 17.0, 17.0), 2), ((26.0, 27.0, 40.0, 9.0, 8.0, 12.0), None)]
ROWS = 6
# Some times what float32 rounds a normalised value by.
MARGIN = 3e-6
# Which organ, and the box that the mask head sees.
MASKS = [(1, (8, 0, 8), (24, 24, 40)), (0, (16, 16, 0), (24, 32, 16))]


def true_boxes():
    """Bounding boxes as centre and sides, enlarged by four voxels."""
    lows, highs = (np.array([organ[i] for organ in ORGANS], float) for i in (1, 2))
    return np.concatenate([(lows + highs - 1) / 2, highs - lows + 4], 1)


def encode(box, target):
    return np.concatenate([10 * (target[:3] - box[:3]) / box[3:], 5 * np.log(target[3:] / box[3:])])


def overlap(a, b):
    low = np.maximum(a[:, None, :3] - a[:, None, 3:] / 2, b[None, :, :3] - b[None, :, 3:] / 2)
    high = np.minimum(a[:, None, :3] + a[:, None, 3:] / 2, b[None, :, :3] + b[None, :, 3:] / 2)
    both = np.maximum(high - low, 0).prod(2)
    return both / (a[:, None, 3:].prod(2) + b[None, :, 3:].prod(2) - both)


def anchor_targets():
    """Weights as organ and as background, box targets and their weights, channels before places."""
    coarse = [side // 8 for side in SIDES]
    places = np.stack(np.meshgrid(*[3.5 + 8 * np.arange(n) for n in coarse], indexing="ij"), -1).reshape(-1, 3)
    sides = np.array(BOXES_MM, float) / SPACING
    anchors = np.concatenate([np.repeat(places, 12, 0), np.tile(sides, (len(places), 1))], 1)
    boxes = true_boxes()
    iou = overlap(anchors, boxes)
    owner, best = iou.argmax(1), iou.max(1)
    positive = np.where(best >= 0.5, owner, -1)
    for number in range(len(boxes)):
        positive[iou[:, number].argmax()] = number
    negative = (best < 0.1) & (positive < 0)
    targets, weights = np.zeros((len(anchors), 6)), np.zeros((len(anchors), 6))
    for at in np.flatnonzero(positive >= 0):
        targets[at], weights[at] = encode(anchors[at], boxes[positive[at]]), 1
    n_positive, n_negative = (positive >= 0).sum(), negative.sum()
    assert n_positive >= 3 and n_negative > 20, (n_positive, n_negative)

    def shaped(values, per_anchor):
        values = values.reshape(*coarse, 12 * per_anchor)
        return torch.tensor(np.ascontiguousarray(np.moveaxis(values, -1, 0)))[None]

    return (shaped((positive >= 0) * 1.0, 1), shaped(negative * n_positive / n_negative, 1), shaped(targets, 6),
            shaped(weights, 6))


def pooled(f8):
    cells = []
    for box, _ in PROPOSALS:
        part = f8
        for axis in range(3):
            low, high = (box[axis] + sign * box[axis + 3] / 2 for sign in (-1, 1))
            low = min(max(int(np.floor(low / 8)), 0), f8.shape[axis + 2] - 1)
            high = max(min(int(np.ceil(high / 8)), f8.shape[axis + 2]), low + 1)
            part = part.narrow(axis + 2, low, high - low)
        cells.append(F.adaptive_max_pool3d(part, 6).reshape(1, -1))
    return torch.cat(cells)


class TooNear(Exception):
    pass


def checked_relu(x, plain=F.relu):
    if x.dtype == torch.float64 and x.detach().abs().min() < MARGIN:
        raise TooNear
    return plain(x)


def step(dtype, number):
    """Losses, and gradient and running statistic of every weight, on the image of a number."""
    image = net.hashed(f"whole image {number}", (1, 1) + SIDES).to(dtype)
    running = {}
    out = net.trunk(image, True, running)
    positive, negative, targets, weights = (t.to(dtype) for t in anchor_targets())
    p = torch.sigmoid(out["logits"]).detach()
    focal = positive * (1 - p) ** 2 * F.softplus(-out["logits"]) + negative * p**2 * F.softplus(out["logits"])
    losses = {"rpn_class": focal.sum() / (positive + negative).sum(), "rpn_box": net.box_loss(out["deltas"], targets, weights)}

    logits, deltas = net.refinement(pooled(out["f8"]))
    boxes = true_boxes()
    classes = [0 if organ is None else ORGANS[organ][0] for _, organ in PROPOSALS]
    inverse = torch.tensor([1 / classes.count(c) for c in classes], dtype=dtype)
    row_weights = inverse / inverse.mean()
    each = F.cross_entropy(logits, torch.tensor(classes), reduction="none")
    losses["class"] = (row_weights * each).sum() / row_weights.sum()
    box_targets, box_weights = torch.zeros(len(classes), 174, dtype=dtype), torch.zeros(len(classes), 174, dtype=dtype)
    for row, (box, organ) in enumerate(PROPOSALS):
        if organ is not None:
            place = slice(6 * classes[row], 6 * classes[row] + 6)
            box_targets[row, place] = torch.tensor(encode(np.array(box), boxes[organ]))
            box_weights[row, place] = 1
    losses["box"] = net.box_loss(deltas, box_targets, box_weights)

    losses["mask"] = 0
    for organ, low, high in MASKS:
        def cut(t, scale):
            return t[(slice(None), slice(None)) + tuple(slice(a // scale, b // scale) for a, b in zip(low, high))]

        net.CLASS = ORGANS[organ][0] - 1
        probability = torch.sigmoid(net.mask(cut(image, 1), cut(out["f2"], 2), cut(out["f4"], 4), cut(out["f8"], 8)))
        truth = torch.zeros((1, 1) + SIDES, dtype=dtype)
        truth[(0, 0) + tuple(slice(a, b) for a, b in zip(*ORGANS[organ][1:]))] = 1
        truth = cut(truth, 1)
        hit = (probability * truth).sum()
        losses["mask"] = losses["mask"] + 1 - hit / (
            hit + 0.5 * (probability.sum() - hit) + 0.5 * (truth.sum() - hit) + 1e-6)
    sum(losses.values()).backward()
    found = {f"loss.{name}": value.detach().reshape(1) for name, value in losses.items()}
    found |= {f"grad.{name}": w.grad.clone() for name, w in net.weights.items() if w.grad is not None}
    return found | {f"running.{name}": value.detach() for name, value in running.items()}


def measures(name, value):
    value = value.to(torch.float64)
    along = [(value * net.hashed(f"whole {n} {name}", list(value.shape))).sum() for n in range(PRODUCTS)]
    return [float(value.norm())] + [float(a) for a in along]


def main():
    F.relu = checked_relu
    for number in itertools.count():
        try:
            exact = step(torch.float64, number)
            break
        except TooNear:
            continue
    exact = {name: measures(name, value) for name, value in exact.items()}
    for name, w in net.weights.items():
        w.grad, w.data = None, w.data.to(torch.float32)
    # Where PyTorch itself lies in the precision that Oarlock computes with.
    rough = {name: measures(name, value) for name, value in step(torch.float32, number).items()}
    off = {name: max(abs(a - b) for a, b in zip(exact[name], rough[name])) / exact[name][0] for name in exact}
    worst = max((name for name in off if name.startswith("grad.")), key=off.get)
    print(f"image {number}, {len(off)} tensors; PyTorch's float32 lies up to {off[worst]:.1e} from float64 ({worst})")
    made_by = f"tests/reference/whole_step.py, PyTorch {torch.__version__}, NumPy {np.__version__}, float64"
    lines = ",\n".join(f'  "{name}": [{", ".join(f"{v:.9g}" for v in values)}]' for name, values in sorted(exact.items()))
    target = pathlib.Path(__file__).with_suffix(".json")
    target.write_text("{\n" + f'  "made by": "{made_by}",\n  "image": {number},\n{lines}\n}}\n')
    json.loads(target.read_text())


main()
