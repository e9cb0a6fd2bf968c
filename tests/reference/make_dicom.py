#!/usr/bin/env python3
"""Writes the DICOM fixtures of the site agent with pydicom, and the same volumes with nibabel.

    pip install pydicom==3.0.1 nibabel==5.4.2 numpy python-gdcm
    git clone https://github.com/icometrix/dicom2nifti
    python tests/reference/make_dicom.py site-agent/tests/fixtures/dicom dicom2nifti \\
        site-agent/fuzz/corpus/dicom

The third folder gets what the fuzzer starts from.

Everything is seeded: the same versions write the same bytes. The names, ids, UIDs and dates in the
fixtures are invented; the tests look for them in everything the program says. The files in `real/` are
copies of test files of pydicom, dicom2nifti and nibabel (see NOTICE there).

This file is long because each kind of fixture is written beside the others that it must equal.
"""

import gzip
import io
import json
import pathlib
import shutil
import struct
import sys

import gdcm
import nibabel
import numpy as np
import pydicom
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_sequence
from pydicom.sequence import Sequence
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    MRImageStorage,
    RLELossless,
)

ROOT = "1.2.826.0.1.3680043.8.498.4711"
COLUMNS, ROWS, SLICES = 12, 10, 6
SPACING = (0.9, 0.8, 2.5)  # along a row, along a column, between slices
ORIGIN = (-41.5, -63.25, 12.75)
REAL = [
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_truncated.dcm",
]
SERIES = {"hitachi": "hitachi/anatomical/001", "anisotropic": "generic/anatomical/002_non_isotropic"}
MIT = """Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense,
and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so,
subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT
LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN
NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY,
WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE
SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
NOTICE = f"""The DICOM files in this folder were published by others for testing.

MR_*.dcm and CT5N (dicomdirtests/98892001/CT5N) are copies of test files of pydicom 3.0.1
(pydicom/data/test_files, https://github.com/pydicom/pydicom), which is under the MIT licence,
Copyright (c) 2008-2020 Darcy Mason and pydicom contributors.

hitachi (tests/data/hitachi/anatomical/001) and anisotropic (tests/data/generic/anatomical/
002_non_isotropic) are copies of de-identified test files of dicom2nifti
(https://github.com/icometrix/dicom2nifti), which is under the MIT licence, Copyright (c) 2016
icometrix NV. The pixels of anisotropic were replaced by its publishers.

philips_mprage.dcm.gz is a copy of a test file of nibabel 5.4.2 (nibabel/nicom/tests/data,
https://github.com/nipy/nibabel), a phantom with blank pixels; nibabel is under the MIT licence,
Copyright (c) 2009-2019 Matthew Brett and others.

The other files are what pydicom and numpy read in them, written by tests/reference/make_dicom.py.

{MIT}"""


def axes():
    """Unit vectors along a row, along a column and along the normal, LPS, oblique."""
    a, b = 0.3, 0.25
    across = np.array([np.cos(a), np.sin(a), 0.0])
    down = np.array([-np.sin(a) * np.sin(b), np.cos(a) * np.sin(b), -np.cos(b)])
    return across, down, np.cross(across, down)


def volume(rng):
    """Stored values [slice, row, column] of 12 bits, no two planes alike."""
    k, j, i = np.meshgrid(range(SLICES), range(ROWS), range(COLUMNS), indexing="ij")
    return (100 * i + 90 * j + 300 * k + rng.integers(0, 64, k.shape)).astype(np.uint16)


def affine():
    across, down, normal = axes()
    lps = np.eye(4)
    lps[:3, 0] = across * SPACING[0]
    lps[:3, 1] = down * SPACING[1]
    lps[:3, 2] = normal * SPACING[2]
    lps[:3, 3] = ORIGIN
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def ds(values):
    return [f"{v:.10g}" for v in np.atleast_1d(values)]


def base(sop_class, series, patient="1", study="1", date="19991231"):
    d = Dataset()
    d.SpecificCharacterSet = "ISO_IR 100"
    d.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    d.SOPClassUID = sop_class
    d.StudyDate = d.SeriesDate = d.ContentDate = d.AcquisitionDate = date
    d.StudyTime = d.ContentTime = "235959"
    d.AccessionNumber = "ACC4711"
    d.Modality = "MR"
    d.Manufacturer = "Fixtures"
    d.InstitutionName = "Klinik Geheim"
    d.ReferringPhysicianName = "Überweiser^Geheim"
    d.PatientName = f"Geheim^Fixture{patient}"
    d.PatientID = f"GEHEIM-{patient}"
    d.PatientBirthDate = "19370401"
    d.PatientSex = "O"
    d.ScanningSequence = "SE"
    d.SequenceVariant = "NONE"
    d.ScanOptions = ""
    d.MRAcquisitionType = "2D"
    d.SliceThickness = "9"  # A lie: the spacing follows from the positions.
    d.RepetitionTime = "5000"
    d.EchoTime = "100"
    d.EchoTrainLength = "1"
    d.PatientPosition = "HFS"
    d.SeriesDescription = "t2_tse_geheim"
    d.StudyInstanceUID = f"{ROOT}.1.{patient}.{study}"
    d.SeriesInstanceUID = f"{ROOT}.2.{patient}.{study}.{series}"
    d.SeriesNumber = series
    d.StudyID = "GEHEIM"
    d.FrameOfReferenceUID = f"{ROOT}.3.{patient}.{study}"
    d.PositionReferenceIndicator = ""
    d.SamplesPerPixel = 1
    d.PhotometricInterpretation = "MONOCHROME2"
    d.Rows, d.Columns = ROWS, COLUMNS
    d.PixelSpacing = ds([SPACING[1], SPACING[0]])
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 12, 11, 0
    d.BurnedInAnnotation = "NO"
    return d


def save(d, path, syntax=ExplicitVRLittleEndian):
    path.parent.mkdir(parents=True, exist_ok=True)
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = syntax
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID
    d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID
    d.file_meta.ImplementationClassUID = f"{ROOT}.9"
    if syntax == RLELossless:
        d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d.compress(RLELossless, generate_instance_uid=False)
    d.save_as(path, enforce_file_format=True)


def pixels(d, stored, big_endian=False):
    d["PixelData"] = pydicom.DataElement(
        "PixelData", "OW", stored.astype(stored.dtype.newbyteorder(">" if big_endian else "<")).tobytes()
    )


def slices(folder, series, values, rng, change=lambda d, k: None, syntax=ExplicitVRLittleEndian, **who):
    """One classic file per slice, under names and instance numbers that say nothing."""
    across, down, normal = axes()
    order = rng.permutation(len(values))
    for name, k in enumerate(order):
        d = base(MRImageStorage, series, **who)
        d.SOPInstanceUID = f"{d.SeriesInstanceUID}.{k + 1}"
        d.InstanceNumber = int(name) + 1
        d.ImagePositionPatient = ds(np.array(ORIGIN) + normal * SPACING[2] * k)
        d.ImageOrientationPatient = ds(np.concatenate([across, down]))
        d.Rows, d.Columns = values[k].shape
        change(d, int(k))
        pixels(d, values[k], syntax == ExplicitVRBigEndian)
        save(d, folder / f"IM{name:04}", syntax)


def enhanced(path, values, rng, syntax=ExplicitVRLittleEndian, change=lambda frame, k: None):
    """One Enhanced MR file: shared orientation and spacing, a position and a scale per frame."""
    across, down, normal = axes()
    d = base(EnhancedMRImageStorage, 7)
    for name in ["PixelSpacing", "SliceThickness", "RepetitionTime", "EchoTime"]:
        delattr(d, name)
    d.SOPInstanceUID = f"{d.SeriesInstanceUID}.1"
    d.InstanceNumber = 1
    d.NumberOfFrames = len(values)

    def item(**fields):
        i = Dataset()
        for name, value in fields.items():
            setattr(i, name, value)
        return Sequence([i])

    d.SharedFunctionalGroupsSequence = item(
        PlaneOrientationSequence=item(ImageOrientationPatient=ds(np.concatenate([across, down]))),
        PixelMeasuresSequence=item(PixelSpacing=ds([SPACING[1], SPACING[0]]), SliceThickness="9"),
        MRTimingAndRelatedParametersSequence=item(RepetitionTime="5000"),
        MREchoSequence=item(EffectiveEchoTime=100.0),
    )
    order = rng.permutation(len(values))
    frames = []
    for k in order:
        frames += item(
            PlanePositionSequence=item(
                ImagePositionPatient=ds(np.array(ORIGIN) + normal * SPACING[2] * k)
            ),
            # Each frame has a scale of its own.
            PixelValueTransformationSequence=item(
                RescaleIntercept=str(k), RescaleSlope=str(1 + k), RescaleType="US"
            ),
        )
        change(frames[-1], int(k))
    d.PerFrameFunctionalGroupsSequence = Sequence(frames)
    pixels(d, values[order])
    save(d, path, syntax)
    scale = np.arange(len(values))[:, None, None]
    return values.astype(np.float64) * (1 + scale) + scale


PHILIPS = "Philips MR Imaging DD 001"
PHILIPS_ENHANCED = "Philips MR Imaging DD 005"


def philips_numbers(k):
    """RescaleSlope, RescaleIntercept and the private scale slope of slice k, as they are stored."""
    return f"{2.5 + 0.5 * k:.10g}", str(-8 * k), np.float32(0.0004 * (1 + k))


def philips_scale(d, k, vr="FL", creator_vr="LO"):
    """Philips' private scale slope; with VR UN its bytes are those of Implicit VR Little Endian."""
    d.RescaleSlope, d.RescaleIntercept, factor = philips_numbers(k)
    d.RescaleType = "US"
    creator = PHILIPS.ljust(26).encode() if creator_vr == "UN" else PHILIPS
    d.add_new((0x2005, 0x0010), creator_vr, creator)
    d.add_new((0x2005, 0x100E), vr, struct.pack("<f", factor) if vr == "UN" else float(factor))


def philips_enhanced(path, values, syntax, vr="SQ", undefined=False):
    """An Enhanced file whose frames have the scale slope in the sequence (2005,140F)."""

    def change(frame, k):
        inner = Dataset()
        inner.ImageType = ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"]
        # A sequence in front of what is looked for.
        inner.ReferencedImageSequence = Sequence([Dataset()])
        inner.ReferencedImageSequence[0].ReferencedFrameNumber = "2"
        philips_scale(inner, k)
        slope, intercept, _ = philips_numbers(k)
        frame.PixelValueTransformationSequence[0].RescaleSlope = slope
        frame.PixelValueTransformationSequence[0].RescaleIntercept = intercept
        frame.add_new((0x2005, 0x0014), "LO", PHILIPS_ENHANCED)
        frame.add_new((0x2005, 0x140F), "SQ", Sequence([inner]))
        frame[0x2005, 0x140F].is_undefined_length = undefined
        inner.is_undefined_length_sequence_item = undefined
        if vr == "UN":
            raw = DicomBytesIO()
            raw.is_little_endian, raw.is_implicit_VR = True, True
            write_sequence(raw, frame[0x2005, 0x140F], ["iso8859"])
            del frame[0x2005, 0x140F]
            frame.add_new((0x2005, 0x140F), "UN", raw.getvalue())

    enhanced(path, values, np.random.default_rng(5), syntax, change)


def philips(out):
    """One volume as Philips stores it, with a scale of its own in each slice, in seven ways."""
    values = volume(np.random.default_rng(6))
    real = np.empty(values.shape)
    for k in range(SLICES):
        slope, intercept, factor = philips_numbers(k)
        shown = values[k] * float(slope) + float(intercept)
        real[k] = shown / (float(slope) * float(factor))
    nifti(out / "philips.nii.gz", real)

    def classic(name, series, syntax, **vrs):
        def change(d, k):
            philips_scale(d, k, **vrs)

        slices(out / name, series, values, np.random.default_rng(series), change, syntax)

    classic("philips_explicit", 11, ExplicitVRLittleEndian)
    classic("philips_implicit", 12, ImplicitVRLittleEndian)
    classic("philips_un", 13, ExplicitVRLittleEndian, vr="UN", creator_vr="UN")
    explicit, implicit = ExplicitVRLittleEndian, ImplicitVRLittleEndian
    philips_enhanced(out / "philips_enhanced_explicit" / "IM", values, explicit)
    philips_enhanced(out / "philips_enhanced_implicit" / "IM", values, implicit)
    philips_enhanced(out / "philips_enhanced_undefined" / "IM", values, implicit, undefined=True)
    philips_enhanced(out / "philips_enhanced_un" / "IM", values, explicit, vr="UN")


def syntaxes(out):
    """The transfer syntaxes that pydicom knows, of PS3.6 table A-1 as it was in 2024."""
    known = [(uid, entry[0]) for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"]
    lines = [f"{uid}\t{name}\n" for uid, name in known]
    (out / "transfer_syntaxes.tsv").write_text("".join(lines))


def nifti(path, values, to_ras=None):
    to_ras = affine() if to_ras is None else to_ras
    image = nibabel.Nifti1Image(values.transpose(2, 1, 0).astype(np.float32), to_ras)
    nibabel.save(image, path)


def jpeg_lossless(source, target):
    """JPEG lossless, first-order prediction, by GDCM."""
    target.mkdir(parents=True)
    for file in sorted(source.iterdir()):
        reader = gdcm.ImageReader()
        reader.SetFileName(str(file))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(target / file.name))
        # Keep the UIDs: GDCM would make new ones from the clock.
        pydicom_before = pydicom.dcmread(file)
        assert writer.Write()
        d = pydicom.dcmread(target / file.name)
        d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = pydicom_before.SOPInstanceUID
        for name in ["SourceImageSequence", "DerivationCodeSequence"]:
            if name in d:
                delattr(d, name)
        d.save_as(target / file.name)


def series(out, rng):
    values = volume(rng)
    slices(out / "plain", 1, values, rng)
    (out / "plain" / "notes.txt").write_text("no DICOM\n")
    directory = Dataset()
    directory.SOPClassUID = MediaStorageDirectoryStorage
    directory.SOPInstanceUID = f"{ROOT}.8"
    directory.FileSetID = "FIXTURES"
    directory.DirectoryRecordSequence = Sequence([])
    save(directory, out / "plain" / "DICOMDIR")
    nifti(out / "plain.nii.gz", values)
    slices(out / "rle", 2, values, rng, syntax=RLELossless)
    slices(out / "implicit", 3, values, rng, syntax=ImplicitVRLittleEndian)
    slices(out / "big_endian", 4, values, rng, syntax=ExplicitVRBigEndian)

    def scaled(d, k):
        d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 15, 1
        d.RescaleSlope, d.RescaleIntercept, d.RescaleType = "0.5", "-10.25", "US"

    signed = values.astype(np.int16) - 2000
    slices(out / "signed", 5, signed, rng, scaled)
    nifti(out / "signed.nii.gz", signed * 0.5 - 10.25)

    def inverted(d, k):
        d.PhotometricInterpretation = "MONOCHROME1"

    slices(out / "monochrome1", 6, 4095 - values, rng, inverted)
    real = enhanced(out / "enhanced" / "IM", values, rng)
    nifti(out / "enhanced.nii.gz", real)
    enhanced(out / "enhanced_rle" / "IM", values, np.random.default_rng(3), RLELossless)
    copies = out / "copies"
    copies.mkdir()
    for file in (out / "plain").glob("IM*"):
        shutil.copy(file, copies)
    jpeg_lossless(copies, out / "jpeg_lossless")
    shutil.rmtree(copies)


def study(out, rng):
    """Two patients of several series each, in one folder, as an archive exports them."""
    small = [rng.integers(0, 4000, (4, 5)).astype(np.uint16) for _ in range(3)]

    def t1(name, agent=""):
        def change(d, k):
            d.ScanningSequence, d.EchoTime, d.RepetitionTime = "GR", "2.98", "2300"
            d.InversionTime, d.SeriesDescription = "900", name
            d.ContrastBolusAgent = agent

        return change

    def named(name, **fields):
        def change(d, k):
            d.SeriesDescription = name
            for field, value in fields.items():
                setattr(d, field, value)

        return change

    flair = named("t2_flair", RepetitionTime="9000", EchoTime="125", InversionTime="2500")
    plan = [
        ("1", "1", "20010203", 2, t1("t1_mprage nativ")),
        ("1", "1", "20010203", 3, t1("t1_mprage", "Gadolin")),
        ("1", "1", "20010203", 4, named("t2_tse")),
        ("1", "1", "20010203", 5, flair),
        ("1", "1", "20010203", 1, named("localizer")),
        ("1", "1", "20010203", 6, named("ep2d_diff_ADC", ImageType=["DERIVED", "PRIMARY", "ADC"])),
        ("1", "1", "20010203", 7, named("t2_tse", BurnedInAnnotation="YES")),
        # The earlier exam of patient 1 has the greater UID.
        ("1", "2", "20000101", 2, named("t2_tse")),
        ("2", "1", "20020202", 2, t1("t1_mprage")),
        ("2", "1", "20020202", 3, named("t2_tse")),
        ("2", "1", "20020202", 4, named("t2_tse")),
    ]
    for number, (patient, exam, date, series_number, change) in enumerate(plan):
        slices(
            out / "study" / f"S{number:02}", series_number, small, rng, change,
            patient=patient, study=exam, date=date,
        )


def real(out):
    """Copies of pydicom's test files, and what pydicom reads in them."""
    source = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"
    target = out / "real"
    target.mkdir()
    for name in REAL:
        shutil.copy(source / name, target / name)
    folder = source / "dicomdirtests" / "98892001" / "CT5N"
    shutil.copytree(folder, target / "CT5N")
    mr = pydicom.dcmread(target / "MR_small.dcm").pixel_array
    ct = [pydicom.dcmread(file) for file in folder.iterdir()]
    ct.sort(key=lambda d: d.ImagePositionPatient[2])
    stack = np.stack([d.pixel_array * d.RescaleSlope + d.RescaleIntercept for d in ct])
    facts = {
        "mr": {
            "sum": int(mr.sum(dtype=np.int64)),
            "row_10": [int(v) for v in mr[10]],
        },
        "ct": {
            "sum": float(stack.sum()),
            "heights_mm": [float(d.ImagePositionPatient[2]) for d in ct],
            "pixel_spacing_mm": [float(v) for v in ct[0].PixelSpacing],
            "slice_1_row_7": [float(v) for v in stack[1, 7]],
        },
    }
    (target / "expected.json").write_text(json.dumps(facts, indent=1) + "\n")
    (target / "NOTICE").write_text(NOTICE)


def real_series(out, checkout):
    """Whole MR series from scanners, and the same volumes put together by numpy and nibabel."""
    target = out / "real"
    for name, folder in SERIES.items():
        source = checkout / "tests" / "data" / folder
        (target / name).mkdir()
        files = sorted(source.iterdir())
        for file in files:
            shutil.copyfile(file, target / name / file.name)
        read = [pydicom.dcmread(file) for file in files]
        across, down = np.array(read[0].ImageOrientationPatient, float).reshape(2, 3)
        normal = np.cross(across, down)
        position = lambda d: np.array(d.ImagePositionPatient, float)
        read.sort(key=lambda d: position(d) @ normal)
        stored = [d.pixel_array * float(d.get("RescaleSlope", 1)) for d in read]
        values = np.stack([v + float(d.get("RescaleIntercept", 0)) for v, d in zip(stored, read)])
        lps = np.eye(4)
        lps[:3, 0] = across * float(read[0].PixelSpacing[1])
        lps[:3, 1] = down * float(read[0].PixelSpacing[0])
        lps[:3, 2] = (position(read[-1]) - position(read[0])) / (len(read) - 1)
        lps[:3, 3] = position(read[0])
        nifti(target / f"{name}.nii.gz", values, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps)


def real_philips(out):
    """An Enhanced file of Philips, whose pixels its publishers blanked; what pydicom reads in it."""
    source = pathlib.Path(nibabel.__file__).parent / "nicom" / "tests" / "data" / "philips_mprage.dcm.gz"
    shutil.copyfile(source, out / "real" / source.name)
    d = pydicom.dcmread(io.BytesIO(gzip.decompress(source.read_bytes())))
    frames = d.PerFrameFunctionalGroupsSequence
    positions = [f.PlanePositionSequence[0].ImagePositionPatient for f in frames]
    slopes = {float(f[0x2005, 0x140F].value[0][0x2005, 0x100E].value) for f in frames}
    facts = {
        "first_position_mm": [float(v) for v in positions[0]],
        "last_position_mm": [float(v) for v in positions[-1]],
        "frames": len(frames),
        "scale_slopes": sorted(slopes),
    }
    (out / "real" / "philips_mprage.json").write_text(json.dumps(facts, indent=1) + "\n")


def seeds(out, corpus):
    """What the fuzzer starts from: one small file of each kind. It changes the height 7777777."""
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in corpus.glob("seed-*"):
        seed.unlink()
    work = out / "seeds"
    small = [np.random.default_rng(7).integers(0, 4000, (4, 5)).astype(np.uint16)]

    def classic(name, syntax, scaled=lambda d, k: None):
        def change(d, k):
            d.ImagePositionPatient = "0\\0\\7777777"
            d.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            scaled(d, k)

        slices(work / name, 1, small, np.random.default_rng(8), change, syntax)

    classic("explicit", ExplicitVRLittleEndian)
    classic("implicit-philips", ImplicitVRLittleEndian, philips_scale)
    classic("big-endian", ExplicitVRBigEndian)
    classic("rle", RLELossless)
    jpeg_lossless(work / "explicit", work / "jpeg-lossless")
    # GDCM writes the number in another way.
    packed = pydicom.dcmread(work / "jpeg-lossless" / "IM0000")
    packed.ImagePositionPatient = "0\\0\\7777777"
    packed.save_as(work / "jpeg-lossless" / "IM0000")
    for folder in sorted(work.iterdir()):
        shutil.copyfile(folder / "IM0000", corpus / f"seed-{folder.name}")
    shutil.rmtree(work)
    for name in ["enhanced_rle", "philips_enhanced_un", "philips_enhanced_undefined"]:
        shutil.copyfile(out / name / "IM", corpus / f"seed-{name.replace('_', '-')}")


def main():
    out = pathlib.Path(sys.argv[1])
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    rng = np.random.default_rng(20261123)
    series(out, rng)
    study(out, rng)
    real(out)
    real_series(out, pathlib.Path(sys.argv[2]))
    real_philips(out)
    philips(out)
    syntaxes(out)
    seeds(out, pathlib.Path(sys.argv[3]))


if __name__ == "__main__":
    main()
