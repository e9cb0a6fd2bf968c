#!/usr/bin/env python3
"""Golden scores for the metrics, from the BraTS inpainting challenge's own package.

Writes site-agent/tests/fixtures/model/metrics.json: five small cases, given by formulas that the Rust
test repeats, and what the package `inpainting` and torchmetrics say about them. Both are external
oracles; none of their code is here or in the program. `inpainting` is AGPL-3.0.

    pip install torch torchmetrics nibabel numpy inpainting==0.0.12 && python3 metrics.py

Every case is scored twice: `single` as the package does it, whose SSIM is in f64 (its percentiles are,
and the volumes follow) but whose sums are in f32, good for 7 digits; `double` by the same package with
sums in f64. `ssim_3d` is torchmetrics' SSIM on the 5-D tensor [1, 1, x, y, z]
of the same normalised volumes, as the challenge's older evaluation fed it, averaged over the mask.
`stored_y_first` and `stored_z_first` are `double` of the same volumes whose files have another order of
axes: the package takes voxels as they are stored, and its 2-D windows leave out the first axis.
"""

import json
import pathlib

import numpy as np
import torch
from inpainting import challenge_metrics_2023 as official
from torchmetrics.image import StructuralSimilarityIndexMeasure

torch.set_num_threads(1)
OUT = pathlib.Path(__file__).parents[2] / "site-agent/tests/fixtures/model/metrics.json"
KEYS = ["ssim", "ssim_3d", "mse", "rmse", "mae", "msle", "psnr", "psnr_01"]


def axes(dims):
    return np.meshgrid(*[np.arange(n, dtype=np.float64) for n in dims], indexing="ij")


def ball(x, y, z, at, radius_squared):
    return (x - at[0]) ** 2 + (y - at[1]) ** 2 + (z - at[2]) ** 2 <= radius_squared


def smooth():
    """A smooth brain, the mask within it, a lesion beside it."""
    x, y, z = axes((20, 24, 18))
    brain = (x - 9.5) ** 2 / 81 + (y - 11.5) ** 2 / 121 + (z - 8.5) ** 2 / 64 <= 1
    truth = (
        600
        + 250 * np.sin(0.4 * x) * np.cos(0.3 * y)
        + 120 * np.sin(0.5 * z)
        + ((7 * x + 13 * y + 29 * z) % 17) * 12
    ) * brain
    healthy = ball(x, y, z, (7, 12, 9), 16)
    hidden = healthy | ball(x, y, z, (14, 10, 9), 6.25)
    wrong = ((3 * x + 5 * y + 11 * z) % 7 - 3) * 20
    return truth, np.where(hidden, 0.93 * truth + wrong + 15, truth), np.where(hidden, 0, truth), healthy


def border():
    """The mask fills a corner of the volume, so that windows hang over three borders."""
    x, y, z = axes((16, 15, 13))
    truth = 100 + (5 * x + 3 * y + 7 * z) % 23 * 20 + x * y
    healthy = (x < 6) & (y < 7) & (z < 5)
    prediction = 0.9 * truth + (2 * x + 7 * y + z) % 5 * 15
    return truth, prediction, np.where(healthy, 0, truth), healthy


def two_blobs():
    """Two places at once, and a prediction that leaves the window at both ends."""
    x, y, z = axes((24, 20, 22))
    truth = 400 + (11 * x + 5 * y + 3 * z) % 31 * 10 - 8 * np.abs(x - 12)
    healthy = ball(x, y, z, (6, 6, 7), 14) | ball(x, y, z, (17, 14, 15), 20)
    prediction = truth + ((x + 2 * y + 3 * z) % 9 - 4) * 180
    return truth, prediction, np.where(healthy, 0, truth), healthy


def near_constant():
    """A truth that hardly varies in the mask: a variance next to nothing."""
    x, y, z = axes((18, 18, 18))
    healthy = ball(x, y, z, (9, 8, 9), 30)
    truth = np.where(healthy, 700 + (x + y + z) % 2 * 0.5, 200 + (x + 3 * y + 5 * z) % 41 * 18)
    prediction = np.where(healthy, 702 + (x + 2 * y) % 3 * 0.25, truth)
    return truth, prediction, np.where(healthy, 0, truth), healthy


def flat():
    """As thin along z as a window allows, and a window of intensities that starts above 0."""
    x, y, z = axes((31, 9, 6))
    truth = 90 + (13 * x + 17 * y + 19 * z) % 29 * 25
    healthy = (x > 10) & (x < 23) & (np.abs(y - 4) + np.abs(z - 2) < 4)
    prediction = truth + ((5 * x + y + 2 * z) % 6 - 2.5) * 30
    return truth, prediction, np.where(healthy, 120, truth), healthy


def ssim_3d(prediction, truth, voided, mask):
    def normalised(volume):
        return official._normalize_with_percentiles(volume * mask, normalization_tensor=voided)

    metric = StructuralSimilarityIndexMeasure(return_full_image=True)
    _, full = metric(preds=normalised(prediction)[None], target=normalised(truth)[None])
    return full[0][mask].mean().item()


def scores(case, dtype, first_axis=0):
    # torchmetrics sums in the default type.
    case = [np.ascontiguousarray(np.moveaxis(v, first_axis, 0)) for v in case]
    truth, prediction, voided, healthy = case
    # The program reads f32 voxels, whatever it computes in.
    tensors = [torch.tensor(v.astype(np.float32))[None] for v in (prediction, truth, voided)]
    mask = torch.tensor(healthy)[None]
    torch.set_default_dtype(dtype)
    found = official.generate_metrics(*tensors, mask)
    found["ssim_3d"] = ssim_3d(*tensors, mask)
    return {key: found[key] for key in KEYS}


def main():
    golden = {}
    for make in (smooth, border, two_blobs, near_constant, flat):
        case = make()
        golden[make.__name__] = {
            "voxels": int(case[3].sum()),
            "single": scores(case, torch.float32),
            "double": scores(case, torch.float64),
            "stored_y_first": scores(case, torch.float64, 1),
            "stored_z_first": scores(case, torch.float64, 2),
        }
    OUT.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
