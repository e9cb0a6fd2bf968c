#!/usr/bin/env python3
"""The operations of a training step on the processor, in PyTorch: the goldens of the site agent's kernels.

    pip install torch numpy safetensors
    python tests/reference/cpu_ops.py site-agent/tests/fixtures/model/cpu_ops.safetensors

Inputs are drawn in f32; everything is computed in f64 on one thread and written in f32. Activations are
written channels-last, [batch, height, width, channels] or [batch, pixels, channels]; parameters as PyTorch
has them. For every case C, its inputs and, with the gradient `C.dy` of its output, its gradients:

    norm.{plain,silu,film}   GroupNorm (eps 1e-5), then FiLM, then SiLU: x gamma beta film -> y
                             (film is [batch, 2, channels], scale and then shift; C.groups is [1])
    attention.{even,odd}     heads first, then query, key, value in each: qkv -> out, log_sums
                             (log_sums is [batch, heads, pixels]; C.heads is [1])
    conv.{s1,s2,odd,odd_s2}  3x3, padding 1: x weight bias -> y
    conv.pointwise           1x1: x weight bias -> y
    conv.up                  nearest neighbour times two, then 3x3: x weight bias -> y
    linear                   x weight bias -> y
    adamw                    five steps with clipping to norm 1 and an average of decay 0.9:
                             weight.{a,b}, gradient.{0..4}.{a,b} -> after.{0..4}.{a,b}, average.{a,b}, norms
                             (rate 0.01, weight decay 0.1, the rest PyTorch's defaults)
"""

import math
import sys

import numpy as np
import torch
from safetensors.numpy import save_file
from torch.nn import functional as F

tensors = {}


def draw(*shape):
    return torch.randn(*shape).double().requires_grad_()


def last(x):
    """[batch, channels, ...] to [batch, ..., channels]"""
    return x.movedim(1, -1) if x is not None and x.dim() > 2 else x


def keep(name, x):
    tensors[name] = np.ascontiguousarray(x.detach().numpy().astype(np.float32))


def case(name, out, result, inputs, weights):
    """Keeps a case whose `inputs` and result are channels-last, and whose weights are not."""
    dy = torch.randn_like(result).float().double()
    result.backward(dy)
    keep(f"{name}.{out}", last(result))
    keep(f"{name}.d{out}", last(dy))
    for key, x in inputs.items():
        keep(f"{name}.{key}", last(x))
        keep(f"{name}.d{key}", last(x.grad))
    for key, x in weights.items():
        keep(f"{name}.{key}", x)
        keep(f"{name}.d{key}", x.grad)


def norm(name, channels, groups, size, film, silu):
    x, gamma, beta = draw(2, channels, *size), draw(channels), draw(channels)
    weights = {"gamma": gamma, "beta": beta}
    y = F.group_norm(x, groups, gamma, beta, eps=1e-5)
    if film:
        weights["film"] = draw(2, 2, channels)
        scale, shift = weights["film"][..., None, None].unbind(1)
        y = y * (1 + scale) + shift
    keep(f"{name}.groups", torch.tensor([groups]))
    case(name, "y", F.silu(y) if silu else y, {"x": x}, weights)


def attention(name, heads, dim, pixels):
    qkv = draw(2, heads * 3 * dim, pixels)
    q, k, v = qkv.reshape(2, heads, 3, dim, pixels).unbind(2)
    scores = torch.einsum("bhcq,bhck->bhqk", q, k) / math.sqrt(dim)
    out = torch.einsum("bhqk,bhck->bhcq", scores.softmax(-1), v).reshape(2, heads * dim, pixels)
    keep(f"{name}.log_sums", scores.logsumexp(-1))
    keep(f"{name}.heads", torch.tensor([heads]))
    case(name, "out", out, {"qkv": qkv}, {})


def conv(name, channels, out, size, kernel=3, stride=1, up=False):
    x, weight, bias = draw(2, channels, *size), draw(out, channels, kernel, kernel), draw(out)
    h = F.interpolate(x, scale_factor=2, mode="nearest") if up else x
    y = F.conv2d(h, weight, bias, stride=stride, padding=kernel // 2)
    case(name, "y", y, {"x": x}, {"weight": weight, "bias": bias})


def linear(name):
    x, weight, bias = draw(3, 20), draw(10, 20), draw(10)
    case(name, "y", F.linear(x, weight, bias), {"x": x}, {"weight": weight, "bias": bias})


def adamw(name):
    weights = {"a": draw(5, 7), "b": draw(40)}
    average = {key: w.detach().clone() for key, w in weights.items()}
    for key, w in weights.items():
        keep(f"{name}.weight.{key}", w)
    optimiser = torch.optim.AdamW(weights.values(), lr=0.01, weight_decay=0.1)
    norms = []
    for step in range(5):
        for key, w in weights.items():
            # One step has a norm below 1, which is not clipped.
            w.grad = draw(*w.shape).detach() * (0.05 if step == 3 else 1)
            w.grad = w.grad.float().double()
            keep(f"{name}.gradient.{step}.{key}", w.grad)
        norms.append(torch.nn.utils.clip_grad_norm_(weights.values(), 1.0))
        optimiser.step()
        for key, w in weights.items():
            average[key] = 0.9 * average[key] + 0.1 * w.detach()
            keep(f"{name}.after.{step}.{key}", w)
    keep(f"{name}.norms", torch.stack(norms))
    for key, w in average.items():
        keep(f"{name}.average.{key}", w)


def main():
    torch.manual_seed(7)
    torch.set_num_threads(1)
    norm("norm.plain", 12, 3, (5, 3), film=False, silu=False)
    norm("norm.silu", 32, 4, (3, 3), film=False, silu=True)
    norm("norm.film", 32, 8, (4, 3), film=True, silu=True)
    attention("attention.even", 2, 16, 6)
    attention("attention.odd", 3, 5, 11)
    conv("conv.s1", 4, 16, (4, 5))
    conv("conv.s2", 4, 6, (6, 4), stride=2)
    conv("conv.odd", 3, 5, (5, 3))
    conv("conv.odd_s2", 3, 5, (5, 7), stride=2)
    conv("conv.pointwise", 6, 9, (4, 3), kernel=1)
    conv("conv.up", 3, 4, (3, 4), up=True)
    linear("linear")
    adamw("adamw")
    save_file(tensors, sys.argv[1])
    print(len(tensors), "tensors,", sum(t.nbytes for t in tensors.values()), "bytes")


if __name__ == "__main__":
    main()
