#!/usr/bin/env python3
"""An independent reference for the healthy masks of the BraTS inpainting challenge.

Written with numpy and scipy from a description of the method (the one in
site-agent/src/data/mask/official.rs is written from the same), never from the challenge's code. It
writes masks.json beside itself: a cohort of ellipsoids, quantiles of what the masks of that cohort are
like, and small volumes with what scipy makes of them.

    pip install numpy scipy && python3 masks.py

Reading of the description where it leaves a choice: the distance map is the Euclidean distance to the
tumour less 5, so a place must be more than 10 voxels away; the box that must lie within the volume is
that of the rotated array; the dilation is by faces, 5 times.
"""

import json
import pathlib

import numpy as np
from scipy import ndimage

DIMS = (96, 112, 80)
CASES = 60
DRAWS = 20
CORNERS = np.ones((3, 3, 3))
LEVELS = [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95]


def ellipsoid(volume, body, value):
    """Sets the voxels with sum(((x - c) / r)^2) <= 1, decided in integers."""
    cx, cy, cz, rx, ry, rz = body
    x, y, z = np.ogrid[: volume.shape[0], : volume.shape[1], : volume.shape[2]]
    left = (x - cx) ** 2 * (ry * rz) ** 2 + (y - cy) ** 2 * (rx * rz) ** 2 + (z - cz) ** 2 * (rx * ry) ** 2
    volume[left <= (rx * ry * rz) ** 2] = value


def make_case(rng):
    """A brain with a ventricle and a speck outside; a tumour of one to three lobes, perhaps a second
    one, perhaps with a hollow core, and a speck of less than 800 voxels."""
    half = [int(rng.integers(low, high)) for low, high in ((37, 43), (44, 51), (32, 38))]
    middle = [n // 2 for n in DIMS]
    brain = [middle + half]
    size = int(np.round(np.exp(rng.uniform(np.log(6.5), np.log(17)))))
    at = [int(c + rng.integers(-h // 3, h // 3 + 1)) for c, h in zip(middle, half)]
    tumour, hollow = [], []
    for lobe in range(int(rng.integers(1, 4))):
        radii = [int(max(5, np.round(size * rng.uniform(0.7, 1.15)))) for _ in range(3)]
        shift = [0, 0, 0] if lobe == 0 else [int(rng.integers(-size // 2, size // 2 + 1)) for _ in range(3)]
        tumour.append([a + s for a, s in zip(at, shift)] + radii)
    if size >= 9:
        hollow.append(at + [3, 2, 3])
    if rng.random() < 0.3:
        other = [2 * c - a for c, a in zip(middle, at)]
        tumour.append(other + [7, 7, 6])
    tumour.append([middle[0], middle[1] + half[1] - 8, middle[2], 3, 3, 3])
    return {
        "brain": brain + [[4, 4, 4, 2, 2, 2]],
        "ventricles": [[middle[0] - 6, middle[1], middle[2], 3, 9, 4]],
        "tumour": tumour,
        "hollow": hollow,
    }


def largest(volume):
    labels, count = ndimage.label(volume, CORNERS)
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1 : count + 1])


def without_small(volume, least):
    labels, _ = ndimage.label(volume, CORNERS)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return sizes[labels] >= least


class Brain:
    def __init__(self, case):
        brain, tumour = np.zeros(DIMS, bool), np.zeros(DIMS, bool)
        for body in case["brain"]:
            ellipsoid(brain, body, True)
        for body in case["ventricles"]:
            ellipsoid(brain, body, False)
        for body in case["tumour"]:
            ellipsoid(tumour, body, True)
        for body in case["hollow"]:
            ellipsoid(tumour, body, False)
        self.brain = ndimage.binary_fill_holes(largest(brain))
        self.tumour = ndimage.binary_fill_holes(without_small(tumour, 800))
        self.voxels = int(self.brain.sum())
        self.own = self.tumour.sum() / self.voxels
        self.distance = ndimage.distance_transform_edt(~self.tumour)
        self.dilated = ndimage.binary_dilation(self.tumour, iterations=5)
        self.places = np.argwhere(self.brain & (self.distance - 5.0 > 5.0))

    def shapes(self):
        labels, count = ndimage.label(self.tumour, CORNERS)
        boxes = ndimage.find_objects(labels)
        parts = [labels[box] == i + 1 for i, box in enumerate(boxes)]
        assert count == len(parts)
        return [(part.sum() / self.voxels, part) for part in parts]

    def place(self, rng):
        found = []
        while len(found) < 2:
            index = round(rng.random() * len(self.places))
            if index < len(self.places):
                found.append(tuple(self.places[index]))
        return max(found, key=lambda at: self.distance[at])

    def draw(self, table, rng):
        ranked = sorted(p for p, _ in table)
        count = len(table)
        target = min(count - int(np.searchsorted(ranked, self.own)), count - 1)
        half = max(1, round(0.05 * count))
        for _ in range(1000):
            at = self.place(rng)
            low, high = max(0, target - half), min(count - 1, target + half)
            part = table[int(rng.integers(low, high + 1))][1]
            for axis in range(3):
                if rng.random() < 0.5:
                    part = np.flip(part, axis)
            for axes in ((0, 1), (1, 2)):
                part = ndimage.rotate(part.astype(np.uint8), rng.uniform(0, 360), axes, order=0, reshape=True)
            part = part > 0
            corner = [a - n // 2 for a, n in zip(at, part.shape)]
            if any(c < 0 or c + n > d for c, n, d in zip(corner, part.shape, DIMS)):
                continue
            box = tuple(slice(c, c + n) for c, n in zip(corner, part.shape))
            voxels = part.sum()
            if voxels < 8 or self.dilated[box][part].any():
                continue
            inside = self.brain[box][part].sum() / voxels
            nearest = self.distance[box][part].min()
            if inside >= 0.75 and nearest >= 5:
                return voxels / self.voxels, nearest, inside
        raise RuntimeError("no room: choose an easier cohort")


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
        edt = ndimage.distance_transform_edt(~volume, sampling=spacing)
        facts.append(
            {
                "dims": dims,
                "spacing": spacing,
                "set": hexed(volume),
                "component_sizes": sorted(np.bincount(labels.ravel())[1 : count + 1].tolist()),
                "largest": hexed(largest(volume)),
                "filled": hexed(ndimage.binary_fill_holes(volume)),
                "dilated_by_faces": hexed(ndimage.binary_dilation(volume, iterations=2)),
                "distance": np.round(edt.ravel(order="F"), 4).tolist(),
            }
        )
    body = np.zeros((13, 10, 8), bool)
    ellipsoid(body, (5, 4, 4, 5, 4, 3), True)
    ellipsoid(body, (10, 7, 2, 2, 2, 2), True)
    turns = []
    for axes, degrees in (((0, 1), 33.7), ((1, 2), 201.3), ((0, 1), 318.9), ((1, 2), 97.1)):
        turned = ndimage.rotate(body.astype(np.uint8), degrees, axes, order=0, reshape=True) > 0
        turns.append({"axes": axes, "degrees": degrees, "dims": turned.shape, "set": hexed(turned)})
    return {"volumes": facts, "body": {"dims": body.shape, "set": hexed(body)}, "turns": turns}


def main():
    rng = np.random.default_rng(2023)
    cases = [make_case(rng) for _ in range(CASES)]
    brains = [Brain(case) for case in cases]
    table = [shape for brain in brains for shape in brain.shapes()]
    drawn = np.array([[(brain.own, *brain.draw(table, rng)) for _ in range(DRAWS)] for brain in brains])
    drawn = drawn.reshape(-1, 4)
    quantiles = {
        name: np.quantile(drawn[:, column], LEVELS).tolist()
        for column, name in ((1, "fraction"), (2, "distance"), (3, "inside"))
    }
    result = {
        "dims": DIMS,
        "cases": cases,
        "shapes": len(table),
        "own_fractions": [round(float(brain.own), 8) for brain in brains],
        "places": [len(brain.places) for brain in brains],
        "draws": DRAWS,
        "levels": LEVELS,
        "quantiles": quantiles,
        "correlation": float(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]),
        "scipy": scipy_facts(rng),
    }
    path = pathlib.Path(__file__).with_name("masks.json")
    path.write_text(json.dumps(result, separators=(",", ":")) + "\n")
    print(path.stat().st_size, "bytes", result["quantiles"], result["correlation"])


if __name__ == "__main__":
    main()
