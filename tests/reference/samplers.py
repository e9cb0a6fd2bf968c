#!/usr/bin/env python3
"""An independent reference for the samplers: walks of every one on a toy.

Written with numpy alone, in double precision, from the papers' formulas (DDPM 2006.11239, DDIM
2010.02502, DPM-Solver++ 2211.01095, RePaint 2201.09865, zero terminal SNR 2305.08891); it shares no
code with the program. It writes site-agent/tests/fixtures/model/samplers.json: for each walk the noise
that it is given, x_t at each call of the network, and the end.

    pip install numpy && python3 samplers.py

The toy: x_0 is Gaussian, N(0.5, 0.04), and the network is the best there can be, E[x_0 | x_t] =
(0.04 sqrt(ab) x + (1 - ab) 0.5) / (0.04 ab + 1 - ab), written as x_0, noise or velocity. A mask of 0
is known: x_0 is overwritten there at each step, but for RePaint, which noises what is known and puts it
into x_t. RePaint draws the noise of the known part first, then that of the step.
"""

import json
import pathlib

import numpy as np

T = 1000
OUT = pathlib.Path(__file__).parents[2] / "site-agent/tests/fixtures/model/samplers.json"


def alpha_bar(schedule, zero_snr):
    if schedule == "linear":
        beta = np.linspace(1e-4, 0.02, T)
    else:
        f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
        beta = np.minimum(1 - f[1:] / f[:-1], 0.999)
    bar = np.cumprod(1 - beta)
    if zero_snr:
        root = np.sqrt(bar)
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        bar = root**2
    return bar


class Toy:
    """The diffusion, the network, and a record of what it was shown."""

    def __init__(self, walk):
        self.bar = alpha_bar(walk["schedule"], walk["zero_terminal_snr"])
        self.prediction = walk["prediction"]
        self.known, self.mask = np.array(walk["known"]), np.array(walk["mask"])
        self.noise = iter([np.array(z) for z in walk["noise"]])
        self.range = np.array(walk["range"])
        self.seen = []

    def clean(self, x, t, replace=True):
        """x_0 through the prediction that the network makes, clipped, the known part put in."""
        self.seen.append(x.tolist())
        a, s = np.sqrt(self.bar[t]), np.sqrt(1 - self.bar[t])
        mean = (0.04 * a * x + s**2 * 0.5) / (0.04 * a**2 + s**2)
        e = (x - a * mean) / s
        if self.prediction == "v":
            x0 = a * x - s * (a * e - s * mean)
        elif self.prediction == "epsilon":
            x0 = x / a - np.sqrt(1 / self.bar[t] - 1) * e
        else:
            x0 = mean
        x0 = np.clip(x0, -1, 1)
        return np.where(self.mask > 0.5, x0, self.known) if replace else x0

    def reverse(self, x, x0, t, p):
        """A draw from q(x_p | x_t, x_0), with the variance as learnt where it is."""
        bar, before = self.bar[t], self.bar[p]
        beta = 1 - bar / before
        mean = beta * np.sqrt(before) / (1 - bar) * x0 + (1 - before) * np.sqrt(1 - beta) / (1 - bar) * x
        log = np.log(beta * (1 - before) / (1 - bar))
        if self.range.size:
            v = (self.range + 1) / 2
            log = v * np.log(beta) + (1 - v) * log
        return mean + np.exp(0.5 * log) * next(self.noise)


def ddpm(toy, walk, x):
    steps = walk["timesteps"]
    for t, p in zip(steps, steps[1:] + [None]):
        x0 = toy.clean(x, t)
        x = x0 if p is None else toy.reverse(x, x0, t, p)
    return x


def ddim(toy, walk, x):
    steps, eta = walk["timesteps"], walk["eta"]
    for t, p in zip(steps, steps[1:] + [None]):
        x0 = toy.clean(x, t)
        if p is None:
            return x0
        bar, before = toy.bar[t], toy.bar[p]
        e = (x - np.sqrt(bar) * x0) / np.sqrt(1 - bar)
        sigma = eta * np.sqrt((1 - before) / (1 - bar)) * np.sqrt(1 - bar / before)
        x = np.sqrt(before) * x0 + np.sqrt(1 - before - sigma**2) * e
        if eta > 0:
            x = x + sigma * next(toy.noise)


def dpm_solver(toy, walk, x):
    steps = walk["timesteps"]
    with np.errstate(divide="ignore"):
        lam = 0.5 * (np.log(toy.bar) - np.log1p(-toy.bar))
    last, h_last = None, None
    for t, p in zip(steps, steps[1:] + [None]):
        m0 = toy.clean(x, t)
        if p is None:
            return m0
        h = lam[p] - lam[t]
        d = m0
        if last is not None:
            r = h_last / h
            d = m0 + (m0 - last) / r / 2
        x = np.sqrt((1 - toy.bar[p]) / (1 - toy.bar[t])) * x - np.sqrt(toy.bar[p]) * (np.exp(-h) - 1) * d
        last, h_last = m0, h


def course(n, length, samples):
    jumps = {j: samples - 1 for j in range(0, n - length, length)}
    t, out = n, []
    while t >= 1:
        t -= 1
        out.append(t)
        if jumps.get(t, 0) > 0:
            jumps[t] -= 1
            for _ in range(length):
                t += 1
                out.append(t)
    return out + [-1]


def repaint(toy, walk, x):
    steps = walk["timesteps"][::-1]
    way = course(len(steps), 2, 2)
    for cur, nxt in zip(way, way[1:]):
        t = steps[cur]
        if nxt > cur:
            beta = 1 - toy.bar[steps[nxt]] / toy.bar[t]
            x = np.sqrt(1 - beta) * x + np.sqrt(beta) * next(toy.noise)
            continue
        blurred = np.sqrt(toy.bar[t]) * toy.known + np.sqrt(1 - toy.bar[t]) * next(toy.noise)
        x = np.where(toy.mask > 0.5, x, blurred)
        x0 = toy.clean(x, t, replace=False)
        x = x0 if nxt < 0 else toy.reverse(x, x0, t, steps[nxt])
    return x


SAMPLERS = {"ddpm": ddpm, "ddim": ddim, "dpm-solver": dpm_solver, "repaint": repaint}


def main():
    even = [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]
    lam = [999, 921, 815, 700, 560, 390, 240, 110, 30, 0]
    of = lambda name, sampler, schedule, prediction, steps, **more: {
        "name": name, "sampler": sampler, "schedule": schedule, "prediction": prediction,
        "timesteps": steps, "zero_terminal_snr": False, "eta": 0.0, "range": [], **more,
    }
    walks = [
        of("ddpm", "ddpm", "linear", "sample", even),
        of("ddpm, cosine, v", "ddpm", "cosine", "v", even),
        of("ddpm, noise", "ddpm", "linear", "epsilon", even),
        of("ddpm, learnt range", "ddpm", "linear", "sample", even, range=[-1.0, 0.3, 1.2]),
        of("ddpm, zero snr", "ddpm", "cosine", "v", even, zero_terminal_snr=True),
        of("ddim", "ddim", "cosine", "v", even),
        of("ddim, eta 1", "ddim", "linear", "v", even, eta=1.0),
        of("ddim, eta 0.5, zero snr", "ddim", "linear", "v", even, eta=0.5, zero_terminal_snr=True),
        of("dpm-solver", "dpm-solver", "linear", "v", lam),
        of("dpm-solver, cosine", "dpm-solver", "cosine", "sample", lam),
        of("dpm-solver, zero snr", "dpm-solver", "cosine", "v", lam, zero_terminal_snr=True),
        of("repaint", "repaint", "linear", "v", even),
    ]
    rng = np.random.default_rng(20)
    for walk in walks:
        walk["known"], walk["mask"], walk["start"] = [0.9, 0.0, -0.4], [1.0, 1.0, 0.0], [1.0, -0.6, 0.3]
        stochastic = walk["sampler"] in ("ddpm", "repaint") or walk["eta"] > 0
        # Rounded to what single precision holds, as both read it.
        draws = rng.standard_normal((60 if stochastic else 0, 3)).astype(np.float32).astype(float)
        walk["noise"] = draws.tolist()
        toy = Toy(walk)
        end = SAMPLERS[walk["sampler"]](toy, walk, np.float32(walk["start"]).astype(float))
        left = len(list(toy.noise))
        walk["noise"] = walk["noise"][: len(walk["noise"]) - left]
        walk["trajectory"] = toy.seen + [end.tolist()]
        assert np.isfinite(walk["trajectory"]).all(), walk["name"]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text("[\n" + ",\n".join(json.dumps(walk) for walk in walks) + "\n]\n")


if __name__ == "__main__":
    main()
