"""Writes small.zip.pth and small.old.pth, which src/learning/model/import reads in its tests.

Made with PyTorch 2: `python make.py`.
"""

from collections import OrderedDict

import torch

state = OrderedDict(
    a=torch.arange(6.0).reshape(2, 3) - 2.5,
    b=torch.tensor([1.5, -2.25], dtype=torch.float16),
    n=torch.tensor(9),
)
state["c"] = state["a"][1]  # shares the storage of a
checkpoint = {"epoch": 1, "out_dir": "o", "state_dict": state, "optimizer": {}}
torch.save(checkpoint, "small.zip.pth")
torch.save(checkpoint, "small.old.pth", _use_new_zipfile_serialization=False)
