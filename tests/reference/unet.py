#!/usr/bin/env python3
"""The U-Net once more, in PyTorch, and the golden outputs and gradients of the site agent's own.

    pip install torch numpy safetensors
    python tests/reference/unet.py site-agent/tests/fixtures/model/unet.safetensors

Written from the description of guided-diffusion's network (Dhariwal and Nichol 2021, arXiv 2105.05233) with
the condition embedding concatenated or added, in f64 on one thread. Weights and inputs are formulas of
their names and positions, so only results are in the file. For every variant V:

    V.out          [2, 1 or 2, s, s]   the network's output
    V.grad.NAME    [at most 256]       dL/dNAME at the flat positions 7919 k mod n, k = 0, 1, ...
    V.norm.NAME    [1]                 the norm of all of dL/dNAME

with L = sum_i cos(0.1 i) out_i^2 over the flat positions i from 1. It also prints what the file's first
variant comes to, to be held against numbers that are known from elsewhere.
"""

import math
import sys

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn
from torch.nn import functional as F

TINY = dict(size=32, channels=16, mult=(1, 2, 2), res=1, attention=(4,), heads=("dim", 16), groups=8,
            add=False, sigma=False)
VARIANTS = {
    "concat": TINY,
    "add": {**TINY, "add": True},
    "sigma": {**TINY, "sigma": True},
    "null": {**TINY, "withheld": (0.0, 1.0)},
    "other": dict(size=16, channels=16, mult=(1, 2, 3), res=2, attention=(2, 4), heads=("count", 4),
                  groups=4, add=True, sigma=True, withheld=(1.0, 0.0)),
}
TIMES = {"other": (0.0, 999.0)}
PLANES, CONDITIONS, NAMED, STRIDE = 9, 6, 256, 7919
NULL = "null_cls_embed"
GRADIENTS = """
    time_embed.0.weight time_embed.2.bias label_emb.0.weight label_emb.2.weight input_blocks.0.0.weight
    input_blocks.1.0.in_layers.0.weight input_blocks.1.0.emb_layers.1.weight input_blocks.2.0.op.weight
    input_blocks.3.0.skip_connection.weight input_blocks.5.1.qkv.weight input_blocks.5.1.norm.bias
    middle_block.0.out_layers.3.weight middle_block.1.proj_out.weight middle_block.2.out_layers.0.bias
    output_blocks.0.0.in_layers.2.weight output_blocks.1.2.conv.weight output_blocks.3.1.conv.bias
    output_blocks.5.0.emb_layers.1.bias out.0.weight out.2.weight
""".split()


def conv(inputs, outputs, stride=1):
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)


class Residual(nn.Module):
    def __init__(self, inputs, outputs, embedding, groups):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(groups, inputs), nn.SiLU(), conv(inputs, outputs))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * outputs))
        self.out_layers = nn.Sequential(nn.GroupNorm(groups, outputs), nn.SiLU(), nn.Dropout(0.0),
                                        conv(outputs, outputs))
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x, embedding):
        scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.out_layers[0](self.in_layers(x)) * (1 + scale) + shift
        return self.skip_connection(x) + self.out_layers[1:](h)


class Attention(nn.Module):
    def __init__(self, width, heads, groups):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x, _):
        batch, width, *space = x.shape
        flat = x.reshape(batch, width, -1)
        # Heads first; within each its own queries, keys and values.
        qkv = self.qkv(self.norm(flat)).reshape(batch, self.heads, 3, width // self.heads, -1)
        mixed = self.mix(*qkv.unbind(dim=2)).reshape(batch, width, -1)
        return (flat + self.proj_out(mixed)).reshape(x.shape)

    def mix(self, query, key, value):
        """Every value weighted by how its key answers the query, each [batch, heads, channels, pixels]."""
        weight = torch.softmax(torch.einsum("bhcq,bhck->bhqk", query, key) / math.sqrt(query.shape[2]), -1)
        return torch.einsum("bhqk,bhck->bhcq", weight, value)


class Down(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.op = conv(width, width, 2)

    def forward(self, x, _):
        return self.op(x)


class Up(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = conv(width, width)

    def forward(self, x, _):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Stem(nn.Conv2d):
    def forward(self, x, _):
        return super().forward(x)


class Unet(nn.Module):
    def __init__(self, size, channels, mult, res, attention, heads, groups, add, sigma, withheld=None):
        super().__init__()
        wide = 4 * channels
        joint = wide if add else 2 * wide
        self.channels, self.add, self.withheld = channels, add, withheld
        mlp = lambda n: nn.Sequential(nn.Linear(n, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.time_embed, self.label_emb = mlp(channels), mlp(CONDITIONS)
        attend = lambda width: Attention(width, heads[1] if heads[0] == "count" else width // heads[1], groups)

        def stage(inputs, outputs, level):
            blocks = [Residual(inputs, outputs, joint, groups)]
            return blocks + ([attend(outputs)] if 2 ** level in attention else [])

        width = mult[0] * channels
        kept, self.input_blocks = [width], nn.ModuleList([nn.ModuleList([Stem(PLANES, width, 3, padding=1)])])
        for level, m in enumerate(mult):
            for _ in range(res):
                self.input_blocks.append(nn.ModuleList(stage(width, m * channels, level)))
                width = m * channels
                kept.append(width)
            if level < len(mult) - 1:
                self.input_blocks.append(nn.ModuleList([Down(width)]))
                kept.append(width)
        residual = lambda: Residual(width, width, joint, groups)
        self.middle_block = nn.ModuleList([residual(), attend(width), residual()])
        self.output_blocks = nn.ModuleList()
        for level, m in reversed(list(enumerate(mult))):
            for i in range(res + 1):
                blocks = stage(width + kept.pop(), m * channels, level)
                width = m * channels
                if level > 0 and i == res:
                    blocks.append(Up(width))
                self.output_blocks.append(nn.ModuleList(blocks))
        self.out = nn.Sequential(nn.GroupNorm(groups, width), nn.SiLU(), conv(width, 2 if sigma else 1))
        if withheld is not None:
            self.null_cls_embed = nn.Parameter(torch.zeros(wide))

    def forward(self, x, t, y):
        half = self.channels // 2
        # As exact as t is: a step of 999 turns the error of an f32 frequency into 1e-4 of an angle.
        angle = t[:, None] * torch.exp(-math.log(10000.0) * torch.arange(half, dtype=t.dtype) / half)[None]
        time = self.time_embed(torch.cat([angle.cos(), angle.sin()], dim=1).to(x.dtype))
        label = self.label_emb(y)
        if self.withheld is not None:
            withheld = torch.as_tensor(self.withheld)
            label = torch.where(withheld[:, None] > 0, self.null_cls_embed[None], label)
        embedding = time + label if self.add else torch.cat([time, label], dim=1)
        kept = []
        for stage in self.input_blocks:
            for block in stage:
                x = block(x, embedding)
            kept.append(x)
        for block in self.middle_block:
            x = block(x, embedding)
        for stage in self.output_blocks:
            x = torch.cat([x, kept.pop()], dim=1)
            for block in stage:
                x = block(x, embedding)
        return self.out(x)


def formula(name, shape):
    """The value of every weight, as the f32 that a model file holds."""
    j = np.arange(1, math.prod(shape) + 1)
    s = np.sin(0.7 * j + (sum(name.encode()) % 97) / 10)
    if name == NULL:
        value = s
    elif name.endswith("bias"):
        value = 0.02 * s
    elif len(shape) == 1:
        value = 1 + 0.1 * s
    else:
        value = s / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(value.astype(np.float32).astype(np.float64)).reshape(shape)


def run(name, options):
    """The golden tensors of one variant."""
    net = Unet(**options)
    with torch.no_grad():
        for weight, values in net.named_parameters():
            values.copy_(formula(weight, values.shape))
    size = options["size"]
    x = np.sin(0.05 * np.arange(1, 2 * PLANES * size * size + 1)).astype(np.float32).astype(np.float64)
    x = torch.from_numpy(x).reshape(2, PLANES, size, size)
    t = torch.tensor(TIMES.get(name, (7.0, 500.0)))
    y = torch.tensor([[1, 0, 0, 0, 0.25, 0], [0, 0, 0, 1, 0.5, 1]])
    out = net(x, t, y)
    weight = torch.cos(0.1 * torch.arange(1, out.numel() + 1)).reshape(out.shape)
    (weight * out.square()).sum().backward()
    gradients = {weight: values.grad.numpy().reshape(-1) for weight, values in net.named_parameters()}
    names = list(gradients)
    chosen = GRADIENTS if name != "other" else [names[round(k * (len(names) - 1) / 19)] for k in range(20)]
    chosen = chosen + [NULL] * (NULL in gradients and NULL not in chosen)
    golden = {f"{name}.out": out.detach().numpy().astype(np.float32)}
    for weight in chosen:
        gradient = gradients[weight]
        places = np.arange(min(len(gradient), NAMED)) * STRIDE % len(gradient)
        assert len(set(places)) == len(places)
        golden[f"{name}.grad.{weight}"] = gradient[places].astype(np.float32)
        golden[f"{name}.norm.{weight}"] = np.array([np.linalg.norm(gradient)], dtype=np.float32)
    parameters = sum(values.numel() for values in net.parameters())
    print(f"{name}: {parameters} parameters, {len(names)} tensors, {len(chosen)} gradients, sum {out.sum():.10f}, "
          f"mean |.| {out.abs().mean():.10f}, sum of squares {out.square().sum():.8f}")
    return golden


def main():
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    golden = {}
    for name, options in VARIANTS.items():
        golden.update(run(name, options))
    save_file(golden, sys.argv[1])


if __name__ == "__main__":
    main()
