"""Writes the NIfTI fixtures of the site agent's reader with nibabel, and what a reader must see.

    python3 make_nifti.py ../../site-agent/tests/fixtures/nifti ../../site-agent/fuzz/corpus/nifti

Beside the first folder, `cohort` gets a case in each layout of BraTS. The second folder gets some of them unpacked, as seeds of the fuzzer: in gzip nearly every change of a
byte is the same fault. Needs nibabel and numpy. Every file holds a few hundred bytes; `expected.json` holds for each file its
voxels in RAS+ (x fastest), and where nibabel says that they lie. The same run writes the same bytes.
"""

import gzip
import io
import itertools
import json
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

SHAPE = (5, 4, 3)
BRATS = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
RAS = np.array([[1.0, 0, 0, -90], [0, 1, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])
LAS = np.diag([-1.0, 1, 1, 1]) @ RAS
FIRST, SECOND = nib.Nifti1Image, nib.Nifti2Image


def turned(degrees, axis):
    """A rotation about one axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(4)
    a, b = [i for i in range(3) if i != axis]
    matrix[[a, a, b, b], [a, b, a, b]] = c, -s, s, c
    return matrix


def image(data, affine, kind=FIRST, order="<", sform=1, qform=0):
    """An image in memory."""
    header = kind.header_class(endianness=order)
    header.set_data_dtype(data.dtype.newbyteorder(order))
    made = kind(data, None, header)
    made.header.set_sform(affine if sform else None, sform)
    made.header.set_qform(affine if qform else None, qform)
    made.header.set_zooms(tuple(np.sqrt((affine[:3, :3] ** 2).sum(0))) + (1,) * (data.ndim - 3))
    return made


def write(folder, name, made, slope=None, edit=None):
    """Writes the file, always the same bytes. `slope` is (scl_slope, scl_inter), `edit` a lie."""
    raw = bytearray(made.to_bytes())
    if slope:
        # nibabel sets a scaling only when it chooses the stored values itself.
        two = isinstance(made, SECOND)
        at, dtype = (176, "f8") if two else (112, "f4")
        order = made.header.endianness
        raw[at : at + 2 * np.dtype(dtype).itemsize] = np.array(slope, order + dtype).tobytes()
    if edit:
        edit(raw)
    if name.endswith(".gz"):
        packed = io.BytesIO()
        with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as out:
            out.write(bytes(raw))
        raw = packed.getvalue()
    (folder / name).write_bytes(bytes(raw))


def seen(path):
    """What nibabel sees in a file: voxels in RAS+ and where they lie."""
    read = nib.load(path)
    stored = np.asanyarray(read.dataobj.get_unscaled())
    slope, inter = read.dataobj.slope, read.dataobj.inter
    plain = (slope, inter) == (1, 0)
    values = stored if plain else stored.astype(np.float64) * slope + inter
    values = values.astype(np.float32).reshape(read.shape[:3])
    ornt = io_orientation(read.affine)
    canonical = apply_orientation(values, ornt)
    affine = read.affine @ inv_ornt_aff(ornt, values.shape)
    return {
        "axes": "".join(nib.aff2axcodes(read.affine)),
        "dims": list(canonical.shape),
        "spacing_mm": [float(v) for v in np.sqrt((affine[:3, :3] ** 2).sum(0))],
        "affine": [[float(v) for v in row] for row in affine[:3]],
        "window": [float(v) for v in np.percentile(np.maximum(values.astype(float), 0), [0.5, 99.5])],
        "voxels": [float(v) for v in canonical.ravel(order="F")],
    }


def types(made):
    """Every voxel type in both byte orders and both versions, with its extremes."""
    for dtype in ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8"]:
        if dtype[0] == "f":
            data = np.linspace(-136.25, 1e6, 60).reshape(SHAPE).astype(dtype)
        else:
            info = np.iinfo(dtype)
            data = np.arange(60).reshape(SHAPE).astype(dtype)
            data[0, 0, 0], data[4, 3, 2] = info.min, info.max
        for order, kind in itertools.product("<>", [FIRST, SECOND]):
            one = 1 if kind is FIRST else 2
            name = f"type-{dtype}-{'le' if order == '<' else 'be'}-nifti{one}.nii.gz"
            made[name] = image(data, BRATS, kind, order), {}


def turns(made):
    """The same head in all 48 orders and directions of axes."""
    world = np.arange(60, dtype="i2").reshape(SHAPE)
    for order in itertools.permutations(range(3)):
        for flips in itertools.product([1, -1], repeat=3):
            # Column f of the file points along world axis order[f].
            affine, data = np.eye(4), world
            step = np.array([1.0, 2.0, 3.0])
            affine[:3, :3] = 0
            affine[:3, 3] = [-10, -20, -30]
            for f, axis in enumerate(order):
                affine[axis, f] = flips[f] * step[axis]
                if flips[f] < 0:
                    affine[axis, 3] += step[axis] * (SHAPE[axis] - 1)
            data = np.transpose(world, order)[tuple(slice(None, None, s) for s in flips)]
            codes = "".join(nib.aff2axcodes(affine))
            made[f"turn-{codes}.nii.gz"] = image(np.ascontiguousarray(data), affine), {}


def facts(made):
    """One file per fact that was met in real scans."""
    ramp = np.arange(60, dtype="i2").reshape(SHAPE)
    made["affine-brats-lps.nii.gz"] = image(ramp, BRATS, qform=1), {}
    made["affine-ras.nii.gz"] = image(ramp.astype("u1"), RAS), {}
    made["affine-las.nii.gz"] = image(ramp.astype("u1"), LAS), {}
    oblique = turned(12, 0) @ turned(-7, 2) @ LAS
    made["affine-oblique.nii.gz"] = image(ramp, oblique), {}
    made["affine-sform-over-qform.nii.gz"] = sform_and_qform(ramp), {}
    made["affine-qform-alone.nii.gz"] = image(ramp, oblique, sform=0, qform=1), {}
    made["affine-qform-alone-nifti2.nii.gz"] = image(ramp, oblique, SECOND, ">", 0, 1), {}
    made["affine-voxel-sizes-alone.nii.gz"] = image(ramp, RAS, sform=0), {}

    for name, slope in [("", (0.5, -3.0)), ("-negative", (-2.0, 10.0)), ("-zero", (0.0, 5.0))]:
        made[f"scaled{name}.nii.gz"] = image(ramp, BRATS), {"slope": slope}
    made["scaled-nan.nii.gz"] = image(ramp, BRATS), {"slope": (float("nan"), float("nan"))}
    made["scaled-nifti2-be.nii.gz"] = image(ramp, BRATS, SECOND, ">"), {"slope": (0.1, 7.0)}
    made["four-dimensional.nii.gz"] = image(ramp[..., None], BRATS), {}
    made["four-dimensional-nifti2.nii.gz"] = image(ramp[..., None, None], BRATS, SECOND), {}
    made["plain.nii"] = image(ramp.astype("u1"), BRATS), {}
    made["plain-nifti2.nii"] = image(ramp.astype("u1"), BRATS, SECOND), {}
    for kind, name in [(FIRST, "extension.nii.gz"), (SECOND, "extension-nifti2.nii.gz")]:
        extended = image(ramp, BRATS, kind)
        extended.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"a comment of some length"))
        made[name] = extended, {}

    negative = ramp - 136
    made["negative.nii.gz"] = image(negative, BRATS), {}
    mask = np.zeros(SHAPE, "f4")
    mask[1:3, 1:3, 1] = 1
    made["mask-f32.nii.gz"] = image(mask, BRATS), {}


def sform_and_qform(data):
    """The sform is RAS, the qform LAS: the sform counts."""
    made = image(data, RAS)
    made.header.set_qform(LAS, 2)
    made.header.set_sform(RAS, 2)
    return made


def intensities(made):
    """One bright voxel far above the rest, and two contrasts with different brain masks."""
    rng = np.random.default_rng(1)
    data = np.zeros((12, 12, 8))
    data[2:10, 2:10, 1:7] = np.clip(rng.normal(1400, 400, (8, 8, 6)), 1, 2500)
    data[5, 5, 3] = 15462
    made["outlier-t1c.nii.gz"] = image(data.astype("i2"), BRATS), {}
    brain = np.zeros(SHAPE, "i2")
    brain[1:4, 1:3, :] = 700
    made["brain-t1n.nii.gz"] = image(brain, BRATS), {}
    brain = brain.copy()
    brain[1, 1, 0], brain[4, 1, 1] = 0, 300
    made["brain-t2f.nii.gz"] = image(brain, BRATS), {}


def wrong(folder):
    """Files that must be refused, and by which fault."""
    ramp = np.arange(60, dtype="i2").reshape(SHAPE)

    def field(at, values, dtype):
        def edit(raw):
            put = np.array(values, "<" + dtype).tobytes()
            raw[at : at + len(put)] = put

        return edit

    def ending(extra):
        def edit(raw):
            if extra < 0:
                del raw[extra:]
            else:
                raw.extend(bytes(extra))

        return edit

    floats = ramp.astype("f4")
    floats[0, 0, 0], floats[1, 0, 0], floats[2, 0, 0] = np.nan, np.inf, -np.inf
    first, second = image(ramp, BRATS), image(ramp, BRATS, SECOND)
    nan = float("nan")
    files = {
        "wrong-three-not-finite.nii.gz": (image(floats, BRATS), None, "not_finite"),
        "wrong-truncated.nii": (first, ending(-7), "truncated"),
        "wrong-truncated-nifti2.nii": (second, ending(-7), "truncated"),
        "wrong-dims-too-many.nii.gz": (first, field(42, [5, 4, 30], "i2"), "truncated"),
        "wrong-dims-too-few.nii.gz": (first, field(42, [5, 4, 2], "i2"), "surplus"),
        "wrong-billion.nii.gz": (first, field(42, [1000, 1000, 1000], "i2"), "too_many_voxels"),
        "wrong-billion-nifti2.nii.gz": (second, field(24, [1000] * 3, "i8"), "too_many_voxels"),
        "wrong-endless-nifti2.nii.gz": (second, field(24, [2**62] * 3, "i8"), "too_many_voxels"),
        "wrong-zero-dim.nii.gz": (first, field(42, [5, 0, 3], "i2"), "not_three_dimensional"),
        "wrong-minus-dim-nifti2.nii.gz": (second, field(32, [-4], "i8"), "not_three_dimensional"),
        "wrong-no-dims-nifti2.nii.gz": (second, field(16, [0], "i8"), "not_three_dimensional"),
        "wrong-four-times.nii.gz": (image(np.stack([ramp] * 2, 3), BRATS), None, "not_three_dimensional"),
        "wrong-affine-zero.nii.gz": (first, field(280, [0] * 12, "f4"), "affine"),
        "wrong-affine-nan.nii.gz": (first, field(280, [nan], "f4"), "affine"),
        "wrong-affine-zero-nifti2.nii.gz": (second, field(400, [0] * 12, "f8"), "affine"),
        "wrong-offset-nifti2.nii.gz": (second, field(168, [-1], "i8"), "voxel_offset"),
        "wrong-complex.nii.gz": (image(ramp.astype("c8"), BRATS), None, "data_type"),
        "wrong-bits.nii.gz": (first, field(72, [8], "i2"), "bits_per_voxel"),
        "wrong-magic-nifti2.nii.gz": (second, field(4, [ord("x")], "u1"), "not_nifti"),
    }
    for name, (made, edit, _) in files.items():
        write(folder, name, made, edit=edit)
    return {name: fault for name, (_, _, fault) in files.items()}


def cohorts(folder):
    """A case in each layout of BraTS, with the labels and masks of its time."""
    rng = np.random.default_rng(2)
    brain = np.zeros((6, 6, 5), "i2")
    brain[1:5, 1:5, 1:4] = rng.integers(200, 900, (4, 4, 3))
    labels = np.zeros_like(brain, "u1")
    labels[1, 1, 1], labels[2, 1, 1], labels[3, 1, 1] = 1, 2, 3

    def scan(brighter):
        return np.where(brain, brain + brighter, 0).astype("i2")

    def case(name, files):
        place = folder / name
        place.mkdir(parents=True)
        for ending, data in files.items():
            write(place, f"{name}{ending}.nii.gz", image(data, BRATS))

    old = np.where(labels == 3, 4, labels).astype("u1")
    scans = ["_t1", "_t1ce", "_t2", "_flair"]
    case("BraTS2021_00000", {**{end: scan(i) for i, end in enumerate(scans)}, "_seg": old})
    # Without enhancing tumour, as some cases are.
    lacking = np.where(labels == 3, 0, labels).astype("u1")
    scans = ["-t1n", "-t1c", "-t2w", "-t2f"]
    for name, seg in [("BraTS-GLI-00000-000", labels), ("BraTS-GLI-00001-000", lacking)]:
        offset = 10 * int(name[-5])
        case(name, {**{end: scan(offset + i) for i, end in enumerate(scans)}, "-seg": seg})
    healthy, unhealthy = np.zeros_like(labels), (labels != 0).astype("u1")
    healthy[3:5, 3:5, 2:4] = 1
    mask = healthy | unhealthy
    inpainting = {
        "-t1n": scan(90),
        "-t1n-voided": np.where(mask, 0, scan(90)).astype("i2"),
        "-mask": mask,
        "-mask-healthy": healthy,
        "-mask-unhealthy": unhealthy,
    }
    case("BraTS-GLI-00002-000", inpainting)


def seeds(folder, corpus):
    """What the fuzzer starts from: few files, small and different."""
    corpus.mkdir(parents=True, exist_ok=True)
    for name in [
        "type-u1-le-nifti1", "type-i2-be-nifti1", "type-f4-le-nifti1", "type-f8-be-nifti1",
        "type-u2-le-nifti2", "type-i4-be-nifti2", "type-f4-be-nifti2", "type-f8-le-nifti2",
        "affine-oblique", "affine-qform-alone", "affine-qform-alone-nifti2", "scaled",
        "scaled-nifti2-be", "four-dimensional", "four-dimensional-nifti2", "extension-nifti2",
        "turn-SPR", "turn-ILA", "wrong-endless-nifti2", "wrong-dims-too-many",
    ]:  # fmt: skip
        packed = (folder / f"{name}.nii.gz").read_bytes()
        (corpus / f"seed-{name}.nii").write_bytes(gzip.decompress(packed))
    for name in ["type-i2-le-nifti1", "type-f4-le-nifti2"]:
        (corpus / f"seed-{name}.nii.gz").write_bytes((folder / f"{name}.nii.gz").read_bytes())


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("*.nii"), *folder.glob("*.nii.gz")]:
        old.unlink()
    made = {}
    for part in (types, turns, facts, intensities):
        part(made)
    scans = {}
    for name, (what, options) in made.items():
        write(folder, name, what, **options)
        scans[name] = seen(folder / name)
    # The standard (method 1) gives voxel sizes alone no direction and starts at 0; nibabel centres
    # them and turns x round, as ANALYZE did.
    alone = scans["affine-voxel-sizes-alone.nii.gz"]
    alone["axes"] = "RAS"
    alone["affine"] = [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 3.0, 0]]
    stored = np.arange(60, dtype=float).reshape(SHAPE)
    alone["voxels"] = list(stored.ravel(order="F"))
    report = {"nibabel": nib.__version__, "scans": scans, "refused": wrong(folder)}
    lines = json.dumps(report, separators=(",", ":")).replace('},"', '},\n"').replace(".0,", ",")
    (folder / "expected.json").write_text(lines.replace(".0]", "]") + "\n")
    seeds(folder, Path(sys.argv[2]))
    shutil.rmtree(folder.parent / "cohort", ignore_errors=True)
    cohorts(folder.parent / "cohort")


main()
