"""Writes tests/reference/uanet_numbers.json: the network's outputs, losses and gradients as PyTorch computes them in float64.

    python3 tests/reference/uanet_numbers.py

Weights and inputs come from an integer hash that the test computes too, so nothing but results is stored: of each tensor
its Euclidean norm and its product with another hashed tensor, which no permutation of elements leaves as it is.
"""
import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
CHANNELS = dict(stem=12, stage2=16, stage4=32, stage8=32, stage16=32, rise=32, merge8=64)
BLOCKS = dict(stage2=2, stage4=2, stage8=3, stage16=3, merge8=3)
MASK, FULL, SIDES, BOX, ROWS, CLASS = 24, 128, (32, 32, 48), (16, 8, 24), 5, 11


def name_seed(name):
    seed = 2166136261
    for byte in name.encode():
        seed = (seed ^ byte) * 16777619 % 2**32
    return seed


def hashed(name, shape):
    """Numbers in -1..1 that depend on name and place only."""
    x = (np.arange(int(np.prod(shape)), dtype=np.uint64) + 1) * 2654435761 + name_seed(name) & 0xFFFFFFFF
    x = (x ^ (x >> 15)) * 2246822519 & 0xFFFFFFFF
    x = (x ^ (x >> 13)) * 3266489917 & 0xFFFFFFFF
    x = x ^ (x >> 16)
    return torch.from_numpy((x >> 8).astype(np.float64) / 2**23 - 1).reshape(shape)


weights = {}


def weight(name, shape):
    if name not in weights:
        value = hashed(name, shape)
        if name.endswith("weight"):
            fan_in = {"rise.conv.weight": shape[0], "mask.organs.weight": shape[1]}.get(name, int(np.prod(shape[1:])))
            value = value * float(np.float32(np.sqrt(6 / fan_in)))
        elif name.endswith(("scale", "variance")):
            value = 1 + 0.25 * value
        else:
            value = 0.25 * value
        weights[name] = value.requires_grad_(not name.endswith(("norm.mean", "norm.variance")))
    return weights[name]


def norm(x, name, training, running):
    c = [x.shape[1]]
    mean, variance = weight(f"{name}.mean", c), weight(f"{name}.variance", c)
    if training:
        mean, variance = mean.clone(), variance.clone()
        running[f"{name}.mean"], running[f"{name}.variance"] = mean, variance
    return F.batch_norm(x, mean, variance, weight(f"{name}.scale", c), weight(f"{name}.shift", c), training, 0.1, 1e-5)


def trunk(image, training, running):
    def conv(x, name, channels, kernel=3, stride=1):
        w = weight(f"{name}.conv.weight", [channels, x.shape[1]] + [kernel] * 3)
        return norm(F.conv3d(x, w, stride=stride, padding=kernel // 2), f"{name}.norm", training, running)

    def residual(x, name, channels):
        y = conv(F.relu(conv(x, f"{name}.first", channels)), f"{name}.second", channels)
        return F.relu(y + (x if x.shape[1] == channels else conv(x, f"{name}.skip", channels, 1)))

    def stage(x, name):
        for block in range(BLOCKS[name]):
            x = residual(x, f"{name}.{block + 1}", CHANNELS[name])
        return x

    x = F.relu(conv(image, "stem.1", CHANNELS["stem"], stride=2))
    f2 = stage(F.relu(conv(x, "stem.2", CHANNELS["stem"])), "stage2")
    f4 = stage(F.max_pool3d(f2, 2), "stage4")
    down = stage(F.max_pool3d(f4, 2), "stage8")
    x = stage(F.max_pool3d(down, 2), "stage16")
    x = F.conv_transpose3d(x, weight("rise.conv.weight", [x.shape[1], CHANNELS["rise"], 2, 2, 2]), stride=2)
    f8 = stage(torch.cat([F.relu(norm(x, "rise.norm", training, running)), down], 1), "merge8")

    def point(x, name, channels):
        return F.conv3d(x, weight(f"{name}.weight", [channels, x.shape[1], 1, 1, 1]), weight(f"{name}.bias", [channels]))

    x = F.relu(point(f8, "proposal.shared", 32))
    return dict(f2=f2, f4=f4, f8=f8, logits=point(x, "proposal.logits", 12), deltas=point(x, "proposal.deltas", 72))


def refinement(x):
    def full(x, name, channels):
        return F.linear(x, weight(f"{name}.weight", [channels, x.shape[1]]), weight(f"{name}.bias", [channels]))

    x = F.relu(full(F.relu(full(x, "refinement.first", FULL)), "refinement.second", FULL))
    return full(x, "refinement.classes", 29), full(x, "refinement.boxes", 174)


def mask(image, f2, f4, f8):
    def unit(x, name):
        x = F.conv3d(x, weight(f"{name}.conv.weight", [MASK, x.shape[1], 3, 3, 3]), padding=1)
        return F.relu(F.instance_norm(x, weight=weight(f"{name}.norm.scale", [MASK]), bias=weight(f"{name}.norm.shift", [MASK])))

    x = f8
    for up, merge, finer in (("up8", "merge4", f4), ("up4", "merge2", f2), ("up2", "merge1", image)):
        x = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
        x = unit(torch.cat([unit(x, f"mask.{up}"), finer], 1), f"mask.{merge}")
    w, b = weight("mask.organs.weight", [28, MASK]), weight("mask.organs.bias", [28, 1])
    return F.conv3d(x, w[CLASS].reshape(1, MASK, 1, 1, 1), b[CLASS])


found = {}


def keep(name, value):
    value = value.detach()
    found[name] = [float(value.norm()), float((value * hashed("project " + name, list(value.shape))).sum())]


def keep_gradients(step, others):
    for name, value in list(weights.items()) + others:
        if value.grad is not None:
            keep(f"{step} grad.{name}", value.grad)
            value.grad = None


def box_loss(deltas, targets, w):
    return (F.smooth_l1_loss(deltas, targets, reduction="none") * w).sum() / (w.sum() / 6)


def some(name, shape, above):
    return (hashed(name, shape) > above).to(torch.float64)


def main():
    d, h, w = SIDES
    coarse = [d // 8, h // 8, w // 8]
    image = hashed("image", [1, 1, d, h, w])
    for name, value in trunk(image, False, {}).items():
        keep(f"trunk {name}", value)

    running = {}
    out = trunk(image, True, running)
    for name, value in out.items():
        keep(f"forward {name}", value)
    positive, negative = some("positive", [1, 12] + coarse, 0.7), 0.3 * some("negative", [1, 12] + coarse, 0.0)
    chosen = positive.reshape(1, 12, 1, *coarse).expand(1, 12, 6, *coarse).reshape(1, 72, *coarse)
    p = torch.sigmoid(out["logits"]).detach()
    losses = positive * (1 - p) ** 2 * F.softplus(-out["logits"]) + negative * p**2 * F.softplus(out["logits"])
    class_loss = losses.sum() / (positive + negative).sum()
    boxes = box_loss(out["deltas"], 2 * hashed("box_targets", [1, 72] + coarse), chosen)
    heads = sum((out[f] * 0.01 * hashed("d" + f, list(out[f].shape))).sum() for f in ("f2", "f4", "f8"))
    (class_loss + boxes + heads).backward()
    keep("backbone_step loss.rpn_class", class_loss)
    keep("backbone_step loss.rpn_box", boxes)
    for name, value in running.items():
        keep(f"backbone_step running.{name}", value)
    keep_gradients("backbone_step", [])

    pooled = hashed("pooled", [ROWS, 64 * 216]).requires_grad_()
    logits, deltas = refinement(pooled)
    keep("refinement class_logits", logits)
    keep("refinement box_deltas", deltas)
    allowed = torch.zeros(ROWS, 29)
    for row, classes in enumerate(([3], [0, 5, 28], [28], [0], [])):
        allowed[row, classes] = 1
    row_weights = torch.tensor([[1.0], [0.5], [2.0], [0.25], [0.0]])
    box_weights = torch.zeros(ROWS, 174)
    box_weights[0, 18:24] = 1
    box_weights[2, 168:174] = 1
    rows = row_weights[:, 0] > 0
    each = torch.logsumexp(logits, 1) - torch.logsumexp(logits.masked_fill(allowed == 0, -1e30), 1)
    class_loss = (each * row_weights[:, 0])[rows].sum() / row_weights.sum()
    boxes = box_loss(deltas, 2 * hashed("row_targets", [ROWS, 174]), box_weights)
    (class_loss + boxes).backward()
    keep("refinement_step loss.class", class_loss)
    keep("refinement_step loss.box", boxes)
    keep_gradients("refinement_step", [("pooled", pooled)])

    d, h, w = BOX
    crop = hashed("crop", [1, 1, d, h, w])
    maps = [(f, hashed("crop " + f, [1, c, d // s, h // s, w // s]).requires_grad_()) for f, c, s in (("f2", 16, 2), ("f4", 32, 4), ("f8", 64, 8))]
    logit = mask(crop, *(m for _, m in maps))
    keep("mask logit", logit)
    truth, valid = some("truth", [1, 1, d, h, w], 0.4), some("valid", [1, 1, d, h, w], -0.8)

    def mask_loss(logit):
        p, g = torch.sigmoid(logit) * valid, truth * valid
        hit = (p * g).sum()
        return 1 - hit / (hit + 0.5 * (p.sum() - hit) + 0.5 * (g.sum() - hit) + 1e-6)

    loss = mask_loss(logit)
    loss.backward()
    keep("mask_step loss.mask", loss)
    keep_gradients("mask_step", maps)

    # Weights after many steps are no measure: Adam walks those whose gradient is nearly nothing by rounding. Losses are,
    # and so is Adam by itself, on gradients from the hash.
    own = {name: value for name, value in weights.items() if name.startswith("mask.")}
    alone = own["mask.up8.conv.weight"].detach().clone().requires_grad_()
    adam, losses = torch.optim.Adam(own.values(), lr=1e-3, weight_decay=1e-4), []
    for _ in range(20):
        adam.zero_grad()
        loss = mask_loss(mask(crop, *(m.detach() for _, m in maps)))
        loss.backward()
        adam.step()
        losses.append(loss.detach())
    keep("adam losses", torch.stack(losses))
    adam = torch.optim.Adam([alone], lr=1e-3, weight_decay=1e-1)
    for step in range(20):
        alone.grad = hashed(f"gradient {step}", list(alone.shape))
        adam.step()
    keep("adam alone", alone)

    made_by = f"tests/reference/uanet_numbers.py, PyTorch {torch.__version__}, NumPy {np.__version__}, float64"
    lines = ",\n".join(f'  "{name}": [{n:.9g}, {p:.9g}]' for name, (n, p) in sorted(found.items()))
    target = pathlib.Path(__file__).with_suffix(".json")
    target.write_text("{\n" + f'  "made by": "{made_by}",\n{lines}\n}}\n')
    json.loads(target.read_text())


if __name__ == "__main__":
    main()
