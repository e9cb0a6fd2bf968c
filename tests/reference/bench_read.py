"""Times nibabel and numpy reading and normalising one case, for `cargo bench ... -- read`.

    OMP_NUM_THREADS=1 python3 bench_read.py FOLDER REPETITIONS

For every .nii.gz of FOLDER: load, nearest RAS+ axes, f32, negative voxels to 0, percentiles 0.5 and
99.5 over all voxels, clip, scale to -1 ... 1. Prints the seconds of each repetition and, to show that
both do the same work, each file's window and the mean of its result, as JSON.
"""

import json
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np


def normalised(path):
    """One scan in the model's range, and its window."""
    image = nib.as_closest_canonical(nib.load(path))
    voxels = image.get_fdata(dtype=np.float32, caching="unchanged")
    np.maximum(voxels, 0, out=voxels)
    low, high = np.percentile(voxels, [0.5, 99.5])
    np.clip(voxels, low, high, out=voxels)
    voxels -= low
    voxels *= 2 / (high - low)
    voxels -= 1
    return voxels, low, high


def main():
    files = sorted(Path(sys.argv[1]).glob("*.nii.gz"))
    seconds = []
    for _ in range(int(sys.argv[2])):
        start = time.perf_counter()
        for path in files:
            normalised(path)
        seconds.append(time.perf_counter() - start)
    results = {}
    for path in files:
        voxels, low, high = normalised(path)
        results[path.name] = {"low": float(low), "high": float(high), "mean": float(voxels.mean(dtype=float))}
    print(json.dumps({"seconds": seconds, "files": results, "nibabel": nib.__version__, "numpy": np.__version__}))


main()
