#!/usr/bin/env python3
"""What the healthy masks of the BraTS inpainting challenge are like, told by the challenge's own program.

It makes a cohort of ellipsoids, writes it as the challenge's folders, runs the program of the challenge
on it (`dataset/include.py` of github.com/BraTS-inpainting/2023_challenge, given by its path and never
copied), and writes masks.json beside itself: the cohort, the bank's table, quantiles of the masks with a
bootstrap tolerance, some attempts step by step, and small volumes with what scipy makes of them. Nothing
here repeats a step of the method.

    pip install numpy scipy pandas nibabel tqdm
    git clone https://github.com/BraTS-inpainting/2023_challenge
    python3 masks.py 2023_challenge/dataset/include.py

masks.json names the file's digest, the versions and the seed it was made with. The program is changed in
two ways from outside: its fixed shape of volumes is that of the cohort, and what it saves is looked at
instead. A brain for which it draws an index past the end of its places, and fails, gets the next seed.
"""

import hashlib
import importlib.util
import json
import multiprocessing
import os
import pathlib
import sys
import tempfile
import types

import nibabel as nib
import numpy as np
import scipy
from scipy import ndimage

SEED = 2023
DIMS = (96, 112, 80)
CASES = 60
DRAWS = 30
CORNERS = np.ones((3, 3, 3))
LEVELS = [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95]
# The columns of the bootstrapped table.
STATISTICS = ["fraction", "distance", "away", "inside"]
RESAMPLES = 2000
# Attempts kept of each brain and verdict (0 accepted, 1 to 5 why not).
KEPT = 2
# The most attempts for a mask; beyond 1,000 ours shrinks the shape, so the cohort must be easier.
ATTEMPTS = 900


def ellipsoid(volume, body, value):
    """Sets the voxels with sum(((x - c) / r)^2) <= 1, decided in integers."""
    cx, cy, cz, rx, ry, rz = body
    x, y, z = np.ogrid[: volume.shape[0], : volume.shape[1], : volume.shape[2]]
    left = (x - cx) ** 2 * (ry * rz) ** 2 + (y - cy) ** 2 * (rx * rz) ** 2 + (z - cz) ** 2 * (rx * ry) ** 2
    volume[left <= (rx * ry * rz) ** 2] = value


def make_case(rng):
    """A brain with a ventricle and a speck outside; a tumour of one to three lobes, perhaps with a hollow
    core, perhaps with a second one far away or at the corner of its box; a speck of less than 800 voxels."""
    half = [int(rng.integers(low, high)) for low, high in ((39, 43), (46, 51), (34, 38))]
    middle = [n // 2 for n in DIMS]
    size = int(np.round(np.exp(rng.uniform(np.log(6.5), np.log(13)))))
    at = [int(c + rng.integers(-h // 3, h // 3 + 1)) for c, h in zip(middle, half)]
    tumour, hollow = [], []
    for lobe in range(int(rng.integers(1, 4))):
        radii = [int(max(6, np.round(size * rng.uniform(0.7, 1.15)))) for _ in range(3)]
        shift = [0, 0, 0] if lobe == 0 else [int(rng.integers(-size // 2, size // 2 + 1)) for _ in range(3)]
        tumour.append([a + s for a, s in zip(at, shift)] + radii)
    if size >= 9:
        hollow.append(at + [3, 2, 3])
    other = rng.random()
    if other < 0.2:
        tumour.append([2 * c - a for c, a in zip(middle, at)] + [7, 7, 6])
    elif other < 0.5:
        tumour = [at + [9, 9, 9], [a + 10 if a < c else a - 10 for a, c in zip(at, middle)] + [6, 6, 6]]
    tumour.append([middle[0], middle[1] + half[1] - 8, middle[2], 3, 3, 3])
    return {
        "brain": [middle + half, [4, 4, 4, 2, 2, 2]],
        "ventricles": [[middle[0] - 6, middle[1], middle[2], 3, 9, 4]],
        "tumour": tumour,
        "hollow": hollow,
    }


def name(index):
    return f"BraTS-GLI-{index:05}-000"


def write_case(case, folder):
    """The case as the challenge's input: an image of ones, a segmentation whose lobes have labels 1 to 3."""
    image, segmentation = np.zeros(DIMS, np.float32), np.zeros(DIMS, np.uint8)
    for body in case["brain"]:
        ellipsoid(image, body, 1)
    for body in case["ventricles"]:
        ellipsoid(image, body, 0)
    for lobe, body in enumerate(case["tumour"]):
        ellipsoid(segmentation, body, 1 + lobe % 3)
    for body in case["hollow"]:
        ellipsoid(segmentation, body, 0)
    folder.mkdir(parents=True)
    for kind, voxels in (("t1n", image), ("seg", segmentation)):
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / f"{folder.name}-{kind}.nii.gz")


def load(path):
    """The challenge's program, for volumes of the cohort's shape."""
    spec = importlib.util.spec_from_file_location("challenge", path)
    program = importlib.util.module_from_spec(spec)
    # Its pools find their functions by the module's name.
    sys.modules["challenge"] = program
    spec.loader.exec_module(program)
    program.niftiShape = np.array(DIMS)
    program.Pool = multiprocessing.get_context("fork").Pool
    return program


class Dice:
    """A generator that remembers what it gave."""

    def __init__(self, rng):
        self.rng, self.given = rng, []

    def random(self, *size):
        found = self.rng.random(*size)
        self.given.extend(np.atleast_1d(found).tolist())
        return found


class Table:
    """The bank's table, which remembers the row asked for last."""

    def __init__(self, rows):
        self.rows, self.loc, self.last = rows, self, None

    def __getitem__(self, key):
        (self.last,) = key
        return self.rows.loc[key]


class Watch:
    """Puts itself before the steps of the program and notes what each decided."""

    def __init__(self, program, case):
        self.case, self.attempts, self.saved = case, [], {}
        location, compartment, valid = program.sampleLocation, program.sampleCompartment, program.validSampling

        def sample_location(*given):
            self.at = location(*given)
            return self.at

        def sample_compartment(table, ranked, own, tolerance, rng):
            dice = Dice(rng)
            self.shape = compartment(table, ranked, own, tolerance, dice)
            self.row, self.dice = table.last, dice.given
            return self.shape

        def valid_sampling(*given):
            verdict, mask = valid(*given)
            self.note(verdict)
            return verdict, mask

        program.sampleLocation, program.sampleCompartment = sample_location, sample_compartment
        program.validSampling = valid_sampling
        save = lambda image, path: self.saved.update({pathlib.Path(path).name: np.asarray(image.dataobj)})
        program.nib = types.SimpleNamespace(load=nib.load, Nifti1Image=nib.Nifti1Image, save=save)

    def note(self, verdict):
        index, *rest = self.dice
        self.attempts.append(
            {
                "case": self.case,
                "at": [int(x) for x in self.at],
                "random": index,
                "row": int(self.row),
                "is_mirrored": [value < 0.5 for value in rest[:3]],
                "degrees": [value * 360 for value in rest[3:]],
                "dims": self.shape.shape,
                "voxels": int(self.shape.sum()),
                "verdict": int(verdict),
            }
        )


def draw(job):
    """The masks of one brain, by the program's worker, and what they are like."""
    path, index, root, segmentations, compartments, seed = job
    row = segmentations.loc[name(index)]
    unpack = lambda packed: np.unpackbits(packed).reshape(DIMS).astype(bool)
    tumour, brain = unpack(row["tumorSegmentation"]), unpack(row["brainMask"])
    ranked = np.sort(np.array(compartments.p))
    out = root.with_name("out")
    # The values of the challenge's notebook.
    general = (root, out, Table(compartments), ranked, 5, 5.0, 0.1, 2, 0.75, DRAWS)
    for seed in range(seed, seed + 100):
        program = load(path)
        watch = Watch(program, index)
        own = (name(index), tumour.copy(), row["tumorSegmentation_p"], brain.copy(), seed)
        try:
            _, packed = program.process_getHealthyMasks((general, own))
            break
        except IndexError:
            continue
    ends = [i for i, attempt in enumerate(watch.attempts) if attempt["verdict"] == 0]
    if max(np.diff([-1] + ends)) > ATTEMPTS:
        raise RuntimeError("choose an easier cohort")
    unhealthy = watch.saved[f"{name(index)}-mask-unhealthy.nii.gz"].astype(bool)
    to_unhealthy = ndimage.distance_transform_edt(~unhealthy)
    to_tumour = ndimage.distance_transform_edt(~tumour)
    masks = [unpack(mask) for mask in packed]
    like = [
        (m.sum() / brain.sum(), to_unhealthy[m].min(), to_tumour[m].mean(), (m & brain).sum() / m.sum())
        for m in masks
    ]
    kept = [a for v in range(6) for a in [b for b in watch.attempts if b["verdict"] == v][:KEPT]]
    print(index, len(watch.attempts), flush=True)
    facts = {
        "own_fraction": round(float(row["tumorSegmentation_p"]), 8),
        "places": int((brain & (to_tumour > 10)).sum()),
        "unhealthy": int(unhealthy.sum()),
    }
    return facts, like, kept, len(watch.attempts)


def quantiles(like, rng):
    """Quantiles of each statistic, and how far those of as many masks of the same brains may be from them:
    half the width of the interval that holds 99.9 % of the resamples within brains, times the square root
    of 2, for both samples vary."""
    levels, found = np.array(LEVELS), {}
    for column, statistic in enumerate(STATISTICS):
        values = like[:, :, column]
        again = [
            np.quantile(np.take_along_axis(values, rng.integers(0, DRAWS, values.shape), 1), levels)
            for _ in range(RESAMPLES)
        ]
        low, high = np.quantile(again, [0.0005, 0.9995], axis=0)
        found[statistic] = {
            "values": np.round(np.quantile(values, levels), 8).tolist(),
            "tolerances": np.round((high - low) / 2 * np.sqrt(2), 8).tolist(),
        }
    return found


def hexed(volume):
    """Bits, x fastest, as hexadecimal bytes, the first voxel lowest."""
    return np.packbits(volume.ravel(order="F"), bitorder="little").tobytes().hex()


def scipy_facts(rng):
    facts = []
    for dims, density, spacing in (((14, 11, 9), 0.08, (1, 1, 1)), ((17, 9, 8), 0.3, (1, 0.75, 3)), ((9, 12, 7), 0.55, (2, 1, 1.5))):
        volume = rng.random(dims) < density
        if density > 0.5:
            ellipsoid(volume, (4, 5, 3, 4, 5, 3), True)
            ellipsoid(volume, (4, 5, 3, 2, 3, 1), False)
        labels, count = ndimage.label(volume, CORNERS)
        sizes = np.bincount(labels.ravel())[1 : count + 1]
        edt = ndimage.distance_transform_edt(~volume, sampling=spacing)
        facts.append(
            {
                "dims": dims,
                "spacing": spacing,
                "set": hexed(volume),
                "component_sizes": sorted(sizes.tolist()),
                "largest": hexed(labels == 1 + np.argmax(sizes)),
                "filled": hexed(ndimage.binary_fill_holes(volume)),
                "distance": np.round(edt.ravel(order="F"), 4).tolist(),
            }
        )
    body = np.zeros((13, 10, 8), bool)
    ellipsoid(body, (5, 4, 4, 5, 4, 3), True)
    ellipsoid(body, (10, 7, 2, 2, 2, 2), True)
    turns = []
    for axes, degrees in (((0, 1), 33.7), ((1, 2), 201.3), ((0, 1), 318.9), ((1, 2), 97.1)):
        turned = ndimage.rotate(body, degrees, axes, order=0, reshape=True, mode="grid-constant", prefilter=False)
        turns.append({"axes": axes, "degrees": degrees, "dims": turned.shape, "set": hexed(turned)})
    return {"volumes": facts, "body": {"dims": body.shape, "set": hexed(body)}, "turns": turns}


def main():
    path = pathlib.Path(sys.argv[1]).resolve()
    here = pathlib.Path(__file__).resolve().with_name("masks.json")
    rng = np.random.default_rng(SEED)
    cases = [make_case(rng) for _ in range(CASES)]
    with tempfile.TemporaryDirectory() as folder:
        # The program keeps its tables in the working directory.
        os.chdir(folder)
        root = pathlib.Path(folder) / "in"
        for index, case in enumerate(cases):
            write_case(case, root / name(index))
        (root.with_name("out")).mkdir()
        program = load(path)
        segmentations = program.generateBinarySegmentationMasks(root, threads=2)
        compartments = program.getTumorCompartments(segmentations, threads=2)
        jobs = [(path, i, root, segmentations, compartments, SEED + 100 * i) for i in range(CASES)]
        with multiprocessing.get_context("fork").Pool(2) as pool:
            facts, like, kept, attempts = zip(*pool.map(draw, jobs, chunksize=1))
        os.chdir(here.parent)
    like = np.array(like)
    brain_voxels = segmentations["brainMask_V"]
    table = [
        {"case": int(row.brainFolder[10:15]), "voxels": round(row.p * int(brain_voxels[row.brainFolder])), "dims": row.compartmentShape}
        for row in compartments.itertuples()
    ]
    own = np.repeat([fact["own_fraction"] for fact in facts], DRAWS)
    result = {
        "made_with": {
            "program": "dataset/include.py of github.com/BraTS-inpainting/2023_challenge",
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "seed": SEED,
            "masks": like.shape[0] * DRAWS,
            "attempts": sum(attempts),
        },
        "dims": DIMS,
        "cases": cases,
        "facts": facts,
        "table": table,
        "draws": DRAWS,
        "levels": LEVELS,
        "quantiles": quantiles(like, rng),
        "correlation": float(np.corrcoef(own, like[:, :, 0].ravel())[0, 1]),
        "attempts": [attempt for attempts in kept for attempt in attempts],
        "scipy": scipy_facts(rng),
    }
    # The attempts of all brains are more than the test needs.
    result["attempts"] = result["attempts"][::2]
    integer = lambda value: value.item()
    here.write_text(json.dumps(result, separators=(",", ":"), default=integer) + "\n")
    print(here.stat().st_size, "bytes", result["made_with"], result["quantiles"], result["correlation"])


if __name__ == "__main__":
    main()
