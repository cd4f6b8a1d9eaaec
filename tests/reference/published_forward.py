"""A network with the published names and shapes in PyTorch (float64), its checkpoint and its numbers, for `model verify`.

    python3 published_forward.py reference-parameters.json OUT [--narrow]

writes OUT/random.zip.pth, OUT/random.old.pth and OUT/expected.npz. Written from the description of the method alone.
With --narrow it is a descendant of few channels and three organs, small enough to be kept: tests/reference/narrow.
"""
import json
import pathlib
import sys
from collections import OrderedDict

import numpy as np
import torch
import torch.nn.functional as F

torch.manual_seed(11)
shapes = json.load(open(sys.argv[1]))
out = pathlib.Path(sys.argv[2])
out.mkdir(exist_ok=True)
narrow = sys.argv[3:] == ["--narrow"]
# Widths of the narrow descendant, and its organs (classes 1 to 3): see tests/it/published.rs.
STEM, F2, F4, RISE, RPN, FC1, FC2, MASK, ORGANS = 4, 5, 6, 5, 7, 16, 12, 9, 3


def narrowed(name, shape):
    """The sides that a tensor of the published network has in the narrow one."""
    part, rest = name.split(".")[0], name[name.index(".") + 1 :]
    if part == "mask_head" and rest.startswith("logits"):
        widths = (1, MASK) if int(rest[6:].split(".")[0]) <= ORGANS else None
    elif part == "mask_head":
        block = rest.split(".")[0]
        inner = {"up1": F4 + RISE, "back1": MASK + F4, "back2": MASK + F2, "back3": MASK + 1}
        widths = (MASK, inner.get(block, MASK))
    elif part == "rcnn_head":
        layer = rest.split(".")[0]
        widths = {"fc1": (FC1, (F4 + RISE) * 216), "fc2": (FC2, FC1), "logit": (1 + ORGANS, FC2), "delta": (6 * (1 + ORGANS), FC2)}[layer]
    elif part == "rpn":
        widths = {"conv": (RPN, F4 + RISE), "logits": (12, RPN), "deltas": (72, RPN)}[rest.split(".")[0]]
    else:
        stage, index = rest.split(".")[:2]
        first = index == "0" and ("conv1" in rest or "shortcut" in rest)
        widths = {
            "preBlock": (STEM, 1 if index == "0" else STEM),
            "forw1": (F2, STEM if first else F2),
            "forw2": (F4, F2 if first else F4),
            "forw3": (F4, F4),
            "forw4": (F4, F4),
            "back3": (F4 + RISE, F4 + RISE),
            "path1": (F4, RISE) if rest == "path1.0.weight" else (RISE, RISE),
        }.get(stage, (1, 1))
    return widths and [*widths[: len(shape)], *shape[2:]]


if narrow:
    shapes = {name: narrowed(name, shape) for name, shape in shapes.items()}
    shapes = {name: shape for name, shape in shapes.items() if shape is not None}
state = OrderedDict()
for name, shape in shapes.items():
    if name.endswith("num_batches_tracked"):
        state[name] = torch.tensor(5)
    elif name.endswith("running_var"):
        state[name] = torch.rand(shape) + 0.5
    elif len(shape) >= 2:
        state[name] = torch.randn(shape) * (2 / np.prod(shape[1:])) ** 0.5
    else:
        state[name] = torch.randn(shape) * 0.1 + (name.endswith("weight") and len(shape) == 1)
state["rpn.deltas.weight"] *= 0.3
w = {name: value.double() for name, value in state.items()}


def conv(x, name, **more):
    return F.conv3d(x, w[f"{name}.weight"], w[f"{name}.bias"], **more)


def norm(x, name):
    of = [w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(x, *of, False, 0.1, 1e-5)


def residual(x, name):
    y = F.relu(norm(conv(x, f"{name}.conv1", padding=1), f"{name}.bn1"))
    y = norm(conv(y, f"{name}.conv2", padding=1), f"{name}.bn2")
    if f"{name}.shortcut.0.weight" in w:
        x = norm(conv(x, f"{name}.shortcut.0"), f"{name}.shortcut.1")
    return F.relu(x + y)


def stage(x, name, blocks):
    for block in range(blocks):
        x = residual(x, f"feature_net.{name}.{block}")
    return x


def trunk(x):
    net = "feature_net."
    x = F.relu(norm(conv(x, net + "preBlock.0", stride=2, padding=1), net + "preBlock.1"))
    x = F.relu(norm(conv(x, net + "preBlock.3", padding=1), net + "preBlock.4"))
    f2 = stage(x, "forw1", 2)
    f4 = stage(F.max_pool3d(f2, 2), "forw2", 2)
    down = stage(F.max_pool3d(f4, 2), "forw3", 3)
    x = stage(F.max_pool3d(down, 2), "forw4", 3)
    x = F.conv_transpose3d(x, w[net + "path1.0.weight"], w[net + "path1.0.bias"], stride=2)
    f8 = stage(torch.cat([F.relu(norm(x, net + "path1.1")), down], 1), "back3", 3)
    x = F.relu(conv(f8, "rpn.conv.0"))
    return f2, f4, f8, conv(x, "rpn.logits"), conv(x, "rpn.deltas")


def decode(anchor, delta, sides):
    size = anchor[3:] * np.exp(delta[3:] / 5)
    centre = np.clip(anchor[:3] + delta[:3] / 10 * anchor[3:], 0, np.array(sides) - 1)
    return np.concatenate([centre, size])


def iou(a, b):
    low = np.maximum(a[:3] - a[3:] / 2, b[:3] - b[3:] / 2)
    high = np.minimum(a[:3] + a[3:] / 2, b[:3] + b[3:] / 2)
    both = np.prod(np.clip(high - low, 0, None))
    return both / (np.prod(a[3:]) + np.prod(b[3:]) - both)


def proposals(logits, deltas, sides):
    anchors = [np.array(aspect) * base for base in (7, 15, 30, 50) for aspect in ((1, 2.5, 2.5), (1, 2.5, 5), (1, 5, 2.5))]
    found = []
    _, nz, ny, nx = logits.shape
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                for a in range(12):
                    if logits[a, z, y, x] > 0:
                        anchor = np.concatenate([3.5 + 8 * np.array([z, y, x]), anchors[a]])
                        found.append((logits[a, z, y, x], decode(anchor, deltas[6 * a : 6 * a + 6, z, y, x], sides)))
    found.sort(key=lambda one: -one[0])
    kept = []
    for logit, box in found:
        if all(iou(box, other) < 0.5 for _, other in kept):
            kept.append((logit, box))
    return kept


def pooled(f8, box):
    low, high = (box[:3] - box[3:] / 2) / 8, (box[:3] + box[3:] / 2) / 8
    limits = np.array(f8.shape[2:])
    low = np.clip(np.floor(low), 0, limits - 1).astype(int)
    high = np.clip(np.ceil(high), low + 1, limits).astype(int)
    part = f8[:, :, low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    return F.adaptive_max_pool3d(part, 6).reshape(-1)


def mask(image, f2, f4, f8, label):
    def unit(x, name, number):
        x = conv(x, f"mask_head.{name}.{number}", padding=1)
        of = f"mask_head.{name}.{number + 1}"
        return F.relu(F.instance_norm(x, weight=w[of + ".weight"], bias=w[of + ".bias"]))

    x = f8
    for level, finer in ((1, f4), (2, f2), (3, image)):
        x = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
        x = unit(torch.cat([unit(x, f"up{level}", 1), finer], 1), f"back{level}", 0)
    return conv(x, f"mask_head.logits{label}")


with torch.no_grad():
    rng = np.random.default_rng(3)
    sides = (32, 48, 64) if narrow else (48, 80, 96)
    smooth = F.interpolate(torch.from_numpy(rng.normal(0, 400, (1, 1, 6, 10, 12))), size=sides, mode="trilinear")
    hu = (smooth[0, 0].numpy() + rng.normal(0, 60, sides)).clip(-1024, 3000).astype(np.int16)
    image = torch.from_numpy(2 * (hu.astype(float) + 1024) / 4100 - 1)[None, None]
    # As in a trained network, few anchors fire (one in a hundred) and boxes stay near their anchors.
    def scaled(name, factor):
        for part in (f"{name}.weight", f"{name}.bias"):
            state[part] *= float(factor)
            w[part] = state[part].double()

    first = trunk(image)
    scaled("rpn.logits", 1 / first[3].std())
    scaled("rpn.deltas", 1 / first[4].std())
    state["rpn.logits.bias"] -= float(np.quantile(trunk(image)[3].numpy(), 0.95 if narrow else 0.99))
    w["rpn.logits.bias"] = state["rpn.logits.bias"].double()
    f2, f4, f8, logits, deltas = trunk(image)
    kept = proposals(logits[0].numpy(), deltas[0].numpy(), sides)
    print(len(kept), "proposals")
    cells = torch.stack([pooled(f8, box) for _, box in kept])
    full = lambda x, name: F.linear(x, w[f"rcnn_head.{name}.weight"], w[f"rcnn_head.{name}.bias"])
    x = F.relu(full(F.relu(full(cells, "fc1")), "fc2"))
    scaled("rcnn_head.logit", 3 / full(x, "logit").std())
    scaled("rcnn_head.delta", 1 / full(x, "delta").std())
    classes, boxes = full(x, "logit"), full(x, "delta")
    probabilities = torch.softmax(classes, 1).numpy()
    best = {}
    for row, (_, box) in enumerate(kept):
        label = int(probabilities[row].argmax())
        if label and (label not in best or probabilities[row, label] > best[label][0]):
            best[label] = (probabilities[row, label], decode(box, boxes[row, 6 * label : 6 * label + 6].numpy(), sides))
    detections, crops, masks = [], [], {}
    for label, (probability, box) in sorted(best.items()):
        detections.append([0, probability, *box, label])
        low = np.clip(np.trunc(np.clip(box[:3] - box[3:] / 2, 0, sides)), 0, sides)
        high = np.clip(np.trunc(np.clip(box[:3] + box[3:] / 2, 0, sides)), 0, sides)
        low = np.minimum(low // 8 * 8, np.array(sides) - 8).astype(int)
        high = np.clip(-(-high // 8) * 8, low + 8, sides).astype(int)
        crops.append([0, *low, *high, label])
        part = lambda m, s: m[:, :, low[0] // s : high[0] // s, low[1] // s : high[1] // s, low[2] // s : high[2] // s]
        logit = mask(part(image, 1), part(f2, 2), part(f4, 4), part(f8, 8), label)
        masks[f"mask_logits_{len(crops) - 1}"] = logit[0, 0].numpy().astype(np.float32)
    print(len(detections), "detections")
    table = [[0, 1 / (1 + np.exp(-logit)), *box] for logit, box in kept]
    f32 = lambda t: np.asarray(t, dtype=np.float32)
    # Kept in the repository, so the largest arrays have three digits only.
    large = lambda t: np.asarray(t, dtype=np.float16 if narrow else np.float32)
    np.savez_compressed(
        out / "expected.npz", volume_hu=hu, f2=large(f2), f4=f32(f4), f8=f32(f8), rpn_logits=f32(logits), rpn_deltas=f32(deltas),
        proposals=f32(table), rcnn_logits=f32(classes), rcnn_deltas=f32(boxes), detections=f32(detections), crop_boxes=f32(crops),
        **{name: large(mask) for name, mask in masks.items()},
    )
    checkpoint = {"epoch": 7, "out_dir": "x", "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}
    torch.save(checkpoint, out / "random.zip.pth")
    torch.save(checkpoint, out / "random.old.pth", _use_new_zipfile_serialization=False)
