#!/usr/bin/env python3
"""How many floating-point operations the network of each preset is, as PyTorch counts them.

    pip install torch numpy safetensors
    python tests/reference/flops.py site-agent/tests/fixtures/model/flops.json

One slice through the network of unet.py, forward and with its backward pass, without computing anything
(device meta), counted by torch.utils.flop_counter: two for each multiplication and addition of
convolutions, linear maps and matrix products.
"""

import json
import sys

import torch
from torch.utils.flop_counter import FlopCounterMode

from unet import CONDITIONS, PLANES, Unet

PRESETS = {
    "tiny": dict(size=32, channels=16, mult=(1, 2, 2), res=1, attention=(4,), heads=("dim", 16), groups=8),
    "small": dict(size=64, channels=32, mult=(1, 2, 4, 4), res=2, attention=(8,), heads=("dim", 32), groups=32),
    "base": dict(size=128, channels=64, mult=(1, 1, 2, 3, 4), res=2, attention=(8, 16), heads=("dim", 64),
                 groups=32),
    "mayo": dict(size=256, channels=128, mult=(1, 1, 2, 2, 4, 4), res=2, attention=(8, 16, 32),
                 heads=("count", 4), groups=32),
}


def count(options):
    """Operations forward, and forward and backward."""
    with torch.device("meta"):
        net = Unet(add=False, sigma=False, **options)
        x = torch.zeros(1, PLANES, options["size"], options["size"])
        t, y = torch.zeros(1), torch.zeros(1, CONDITIONS)
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            net(x, t, y)
        with FlopCounterMode(display=False) as training:
            net(x, t, y).sum().backward()
    return {"forward": forward.get_total_flops(), "training": training.get_total_flops()}


def main():
    counts = [{"preset": preset, **count(options)} for preset, options in PRESETS.items()]
    with open(sys.argv[1], "w") as file:
        file.write(json.dumps(counts, indent=1) + "\n")


if __name__ == "__main__":
    main()
