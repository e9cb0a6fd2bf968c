#!/usr/bin/env python3
"""An independent reference for the noise schedules and their posteriors.

Written with numpy (float64) from the papers: Ho et al. 2020 (arXiv 2006.11239, eq. 4 to 7), Nichol and
Dhariwal 2021 (arXiv 2102.09672, eq. 17 and section 3.2), Lin et al. 2024 (arXiv 2305.08891, algorithm
1). It writes ../../site-agent/tests/fixtures/model/schedules.json: for every schedule, with and without
zero-terminal SNR, over all steps and over an evenly spaced part of them, one row per step of

    t, beta, alpha_bar, posterior variance, clipped log variance, coefficient of x_0, of x_t

where beta is that of the step to the one before in the list. The first step's variance is 0; its
clipped log variance is that of the second step.

    pip install numpy && python3 schedules.py
"""

import json
import pathlib

import numpy as np

OUT = pathlib.Path(__file__).parents[2] / "site-agent/tests/fixtures/model/schedules.json"


def linear(count):
    """Betas from 1e-4 to 0.02 for 1,000 steps, as many times steeper as there are fewer steps."""
    steeper = 1000 / count
    return np.linspace(1e-4 * steeper, 0.02 * steeper, count, dtype=np.float64)


def cosine(count):
    """Betas whose products follow a squared cosine, at most 0.999."""
    edges = np.arange(count + 1, dtype=np.float64) / count
    kept = np.cos((edges + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - kept[1:] / kept[:-1], 0.999)


def zero_terminal(betas):
    """The schedule shifted and scaled so that nothing is left of the signal at its end."""
    root = np.sqrt(np.cumprod(1 - betas))
    shifted = (root - root[-1]) * root[0] / (root[0] - root[-1])
    kept = shifted**2
    return 1 - np.concatenate([kept[:1], kept[1:] / kept[:-1]])


def spaced(count, total):
    """`count` whole steps, evenly from 0 to `total` - 1; a half goes to the even neighbour."""
    return [total - 1] if count == 1 else np.rint(np.arange(count) * (total - 1) / (count - 1)).astype(int).tolist()


def rows(betas, steps):
    """One row per step of the process that visits `steps` alone."""
    kept = np.cumprod(1 - betas)
    whole = len(steps) == len(betas)
    here = kept[steps]
    before = np.concatenate([[1.0], here[:-1]])
    beta = betas if whole else 1 - here / before
    variance = beta * (1 - before) / (1 - here)
    clipped = np.log(np.concatenate([variance[1:2], variance[1:]]))
    of_sample = beta * np.sqrt(before) / (1 - here)
    of_noisy = (1 - before) * np.sqrt(1 - beta) / (1 - here)
    table = np.stack([beta, here, variance, clipped, of_sample, of_noisy], axis=1)
    return [[t, *map(float, row)] for t, row in zip(steps, table)]


def main():
    """Writes every table, thinned to a few dozen rows."""
    tables = []
    for name, make in [("linear", linear), ("cosine", cosine)]:
        for zero in [False, True]:
            for total, count in [(1000, 1000), (100, 100), (25, 25), (1000, 25), (1000, 10), (100, 7)]:
                betas = zero_terminal(make(total)) if zero else make(total)
                table = rows(betas, spaced(count, total))
                keep = {int(i) for i in np.rint(np.linspace(0, count - 1, 20))} | {1, 2, count - 2}
                table = [table[i] for i in sorted(keep)]
                tables.append({"schedule": name, "zero_terminal_snr": zero, "timesteps": total,
                               "trained": count, "rows": table})
    text = ",\n".join(json.dumps(table) for table in tables)
    OUT.write_text(f"[\n{text}\n]\n")


main()
