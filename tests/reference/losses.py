#!/usr/bin/env python3
"""An independent reference for the loss of a network that learns the variance of its reverse steps.

Written with PyTorch (float64) from Nichol and Dhariwal 2021 (arXiv 2102.09672, eq. 4, 14 to 16) and Ho
et al. 2020 (arXiv 2006.11239, eq. 13): per pixel the divergence, in bits, of the reverse step from the
true posterior, whose mean comes from the network's prediction without its gradient; at the first step
the negative log likelihood of the grey level, of which [-1, 1] has 255 steps, under the normal
distribution whose cumulative is approximated by a tanh. Where the squared error is weighted by the signal-
to-noise ratio (Hang et al. 2023, arXiv 2303.09556, eq. 6), the bits are not. It writes
../../site-agent/tests/fixtures/model/losses.json: per case the process, the truth, the noise and both
channels of a prediction at every slice and pixel, how much a slice's squared error counts, the squared
error, the bits, and the gradient of the sum of both with respect to both channels.

    pip install numpy torch && python3 losses.py
"""

import json
import math
import pathlib

import numpy as np
import torch

OUT = pathlib.Path(__file__).parents[2] / "site-agent/tests/fixtures/model/losses.json"
PIXELS = 16


def process(total, count):
    """Cosine betas of the evenly spaced steps, and the products of what they keep."""
    edges = np.arange(total + 1, dtype=np.float64) / total
    kept = np.cos((edges + 0.008) / 1.008 * np.pi / 2) ** 2
    whole = np.cumprod(1 - np.minimum(1 - kept[1:] / kept[:-1], 0.999))
    steps = np.rint(np.arange(count) * (total - 1) / (count - 1)).astype(int)
    here = whole[steps]
    before = np.concatenate([[1.0], here[:-1]])
    return steps, 1 - here / before, here, before


def normal_cdf(x):
    """The approximation of the cumulative normal distribution that the published code uses."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def grey_level_nll(truth, mean, log_variance):
    """-ln of what the normal distribution gives to the grey level of `truth`."""
    deviation = torch.exp(0.5 * log_variance)
    above = normal_cdf((truth - mean + 1 / 255) / deviation)
    below = normal_cdf((truth - mean - 1 / 255) / deviation)
    above = torch.where(truth > 0.999, torch.ones_like(above), above)
    below = torch.where(truth < -0.999, torch.zeros_like(below), below)
    return -torch.log(torch.clamp(above - below, min=1e-12))


def divergence(mean, log_variance, other_mean, other_log_variance):
    """KL of one normal distribution from another."""
    ratio = torch.exp(log_variance - other_log_variance)
    apart = (mean - other_mean) ** 2 * torch.exp(-other_log_variance)
    return 0.5 * (other_log_variance - log_variance + ratio + apart - 1)


def min_snr(prediction, kept):
    """What makes an error of the prediction count as one of x_0 does at min(SNR, 5)."""
    snr = kept / (1 - kept)
    of_clean = torch.clamp(snr, max=5.0)
    return {"sample": of_clean, "epsilon": of_clean / snr, "v": of_clean / (snr + 1)}[prediction]


def case(prediction, total, count, places, seed, loss_weight="uniform"):
    """One batch with a slice at each of the process's `places`."""
    rng = np.random.default_rng(seed)
    steps, betas, here, before = process(total, count)
    truth = torch.tensor(rng.uniform(-1, 1, (len(places), PIXELS)))
    truth[:, 0], truth[:, 1], truth[:, 2] = -1.0, 1.0, -0.9995
    noise = torch.tensor(rng.standard_normal((len(places), PIXELS)))
    column = lambda values: torch.tensor(values[places])[:, None]
    beta, kept, kept_before = column(betas), column(here), column(before)
    a, s = kept.sqrt(), (1 - kept).sqrt()
    noisy = a * truth + s * noise
    target = {"v": a * noise - s * truth, "epsilon": noise, "sample": truth}[prediction]
    size = 0.02 if prediction != "epsilon" else 0.3
    said = (target + size * torch.tensor(rng.standard_normal(target.shape))).requires_grad_()
    fraction = torch.tensor(rng.uniform(-1.3, 1.3, target.shape)).requires_grad_()
    squared = (said - target) ** 2
    fixed = said.detach()
    clean = {"v": a * noisy - s * fixed, "epsilon": (noisy - s * fixed) / a, "sample": fixed}[prediction]
    of_clean = beta * kept_before.sqrt() / (1 - kept)
    of_noisy = (1 - kept_before) * (1 - beta).sqrt() / (1 - kept)
    variance = beta * (1 - kept_before) / (1 - kept)
    second = betas[1] * (1 - before[1]) / (1 - here[1])
    low = torch.log(torch.where(variance > 0, variance, torch.tensor(second)))
    high = torch.log(beta)
    share = (fraction + 1) / 2
    log_variance = share * high + (1 - share) * low
    mean = of_clean * clean + of_noisy * noisy
    true_mean = of_clean * truth + of_noisy * noisy
    first = torch.tensor([place == 0 for place in places])[:, None]
    nats = torch.where(first, grey_level_nll(truth, mean, log_variance),
                       divergence(true_mean, low, mean, log_variance))
    bits = nats / math.log(2)
    weight = min_snr(prediction, kept) if loss_weight == "min_snr" else torch.ones_like(kept)
    (weight * squared + count / 1000 * bits).sum().backward()
    rows = lambda tensor: [[float(f"{value:.9g}") for value in row] for row in tensor.detach().tolist()]
    return {"prediction": prediction, "timesteps": total, "trained": count,
            "loss_weight": loss_weight, "weight": [float(f"{value:.12g}") for [value] in weight.tolist()],
            "t": [int(steps[place]) for place in places], "truth": rows(truth), "target": rows(target),
            "said": rows(said), "fraction": rows(fraction), "squared": rows(squared), "bits": rows(bits),
            "said_gradient": rows(said.grad), "fraction_gradient": rows(fraction.grad)}


def main():
    """Writes every case."""
    torch.set_num_threads(1)
    cases = [
        case("v", 1000, 1000, [0, 1, 10, 250, 999], 1),
        case("epsilon", 1000, 1000, [0, 1, 10, 500, 900], 2),
        case("sample", 1000, 10, [0, 1, 5, 9], 3),
        case("v", 1000, 1000, [0, 10, 250, 500, 999], 4, "min_snr"),
        case("epsilon", 1000, 1000, [0, 1, 10, 500], 5, "min_snr"),
        case("sample", 1000, 10, [1, 5, 9], 6, "min_snr"),
    ]
    OUT.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in cases) + "\n]\n")


main()
