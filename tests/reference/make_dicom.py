#!/usr/bin/env python3
"""Writes the DICOM fixtures of the site agent with pydicom, and the same volumes with nibabel.

    pip install pydicom==3.0.1 nibabel numpy python-gdcm
    python tests/reference/make_dicom.py site-agent/tests/fixtures/dicom

Everything is seeded: the same versions write the same bytes. The names, ids, UIDs and dates in the
fixtures are invented; the tests look for them in everything the program says. The files in `real/` are
copies of pydicom's own test files (see NOTICE there).
"""

import json
import pathlib
import shutil
import sys

import gdcm
import nibabel
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
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


def enhanced(path, values, rng, syntax=ExplicitVRLittleEndian):
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
    d.PerFrameFunctionalGroupsSequence = Sequence(frames)
    pixels(d, values[order])
    save(d, path, syntax)
    scale = np.arange(len(values))[:, None, None]
    return values.astype(np.float64) * (1 + scale) + scale


def nifti(path, values):
    image = nibabel.Nifti1Image(values.transpose(2, 1, 0).astype(np.float32), affine())
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
    (target / "NOTICE").write_text(
        "The DICOM files in this folder are copies of test files of pydicom 3.0.1\n"
        "(pydicom/data/test_files, https://github.com/pydicom/pydicom), whose authors publish them for\n"
        "testing. pydicom is under the MIT licence, Copyright (c) 2008-2020 Darcy Mason and pydicom\n"
        "contributors. CT5N is dicomdirtests/98892001/CT5N. expected.json is what pydicom reads in them.\n"
    )


def main():
    out = pathlib.Path(sys.argv[1])
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    rng = np.random.default_rng(20261123)
    series(out, rng)
    study(out, rng)
    real(out)


if __name__ == "__main__":
    main()
