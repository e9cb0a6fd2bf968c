//! A result as a DICOM series of its own, beside the one it was made from.
//!
//! It has the patient, the study and the frame of reference of its source, so that an archive files
//! it where it belongs, and it is marked as synthetic wherever DICOM has a place for it. No private
//! attribute is copied, no UID of the source is taken over for an object, and the same inputs give the
//! same bytes: it reads no clock. It stays at the site.

use std::fs::File;
use std::path::Path;

use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};

use crate::data::dicom::cases::publish;
use crate::data::dicom::decimal::decimal;
use crate::data::dicom::folder::Series;
use crate::data::dicom::frame::Scale;
use crate::data::dicom::refusal::Refusal;
use crate::data::dicom::{Error, file, key, only_series, scan, series};
use crate::data::nifti::affine;
use crate::data::volume::Volume;

/// What is copied from the source: the patient, the study, the equipment and the acquisition.
const COPIED: [Tag; 36] = [
    tags::STUDY_DATE,
    tags::STUDY_TIME,
    tags::ACCESSION_NUMBER,
    tags::MANUFACTURER,
    tags::INSTITUTION_NAME,
    tags::REFERRING_PHYSICIAN_NAME,
    tags::STUDY_DESCRIPTION,
    tags::MANUFACTURER_MODEL_NAME,
    tags::PATIENT_NAME,
    tags::PATIENT_ID,
    tags::ISSUER_OF_PATIENT_ID,
    tags::PATIENT_BIRTH_DATE,
    tags::PATIENT_SEX,
    tags::PATIENT_AGE,
    tags::PATIENT_SIZE,
    tags::PATIENT_WEIGHT,
    tags::PATIENT_IDENTITY_REMOVED,
    tags::DEIDENTIFICATION_METHOD,
    tags::CONTRAST_BOLUS_AGENT,
    tags::BODY_PART_EXAMINED,
    tags::SCANNING_SEQUENCE,
    tags::SEQUENCE_VARIANT,
    tags::SCAN_OPTIONS,
    tags::MR_ACQUISITION_TYPE,
    tags::SLICE_THICKNESS,
    tags::REPETITION_TIME,
    tags::ECHO_TIME,
    tags::INVERSION_TIME,
    tags::MAGNETIC_FIELD_STRENGTH,
    tags::ECHO_TRAIN_LENGTH,
    tags::FLIP_ANGLE,
    tags::PATIENT_POSITION,
    tags::STUDY_INSTANCE_UID,
    tags::STUDY_ID,
    tags::FRAME_OF_REFERENCE_UID,
    tags::POSITION_REFERENCE_INDICATOR,
];

/// Attributes that an MR image must have, empty where nothing is known (PS3.3 A.4.3, type 2), or with
/// the value that says so.
const REQUIRED: [(Tag, VR, &str); 16] = [
    (tags::STUDY_DATE, VR::DA, ""),
    (tags::STUDY_TIME, VR::TM, ""),
    (tags::ACCESSION_NUMBER, VR::SH, ""),
    (tags::REFERRING_PHYSICIAN_NAME, VR::PN, ""),
    (tags::MANUFACTURER, VR::LO, ""),
    (tags::PATIENT_NAME, VR::PN, ""),
    (tags::PATIENT_ID, VR::LO, ""),
    (tags::PATIENT_BIRTH_DATE, VR::DA, ""),
    (tags::PATIENT_SEX, VR::CS, ""),
    (tags::SCANNING_SEQUENCE, VR::CS, "RM"),
    (tags::SEQUENCE_VARIANT, VR::CS, "NONE"),
    (tags::SCAN_OPTIONS, VR::CS, ""),
    (tags::MR_ACQUISITION_TYPE, VR::CS, ""),
    (tags::ECHO_TRAIN_LENGTH, VR::IS, ""),
    (tags::STUDY_ID, VR::SH, ""),
    (tags::POSITION_REFERENCE_INDICATOR, VR::LO, ""),
];

/// SeriesNumber of a result: that of its source and this.
const SERIES_NUMBER_OFFSET: usize = 9000;

/// Writes `volume`, which was made from the series in `source`, as a series into the new folder `out`.
/// `derivation` says how it was made; it must begin with `SYNTHETIC`.
///
/// Values outside what was changed come back as the source's: in its own scale where it has one for
/// all slices and everything fits 16 bits, else within half a step of 65,535 over the range of values.
/// A series with Philips' private scale comes back in that scale's values.
///
/// # Errors
/// The folder with a [`Refusal`]: as [`crate::data::dicom::read`] for the source, [`Refusal::Shape`],
/// [`Refusal::Exists`], [`Refusal::Io`]. The folder appears whole or not.
pub fn write(out: &Path, source: &Path, volume: &Volume, derivation: &str) -> Result<(), Error> {
    let of_source = |refusal| Error { path: source.to_path_buf(), refusal };
    let of_out = |refusal| Error { path: out.to_path_buf(), refusal };
    let series = only_series(source).map_err(of_source)?;
    let voxels = series::read(&series).map_err(of_source)?;
    let values = values(&voxels, volume).map_err(of_source)?;
    let slices = Slices::new(&series, &voxels, &values, derivation).map_err(of_source)?;
    write_folder(out, &slices).map_err(of_out)
}

/// The values of `volume` in the order of the source's slices.
fn values(voxels: &series::Voxels, volume: &Volume) -> Result<Vec<f32>, Refusal> {
    let scan = scan(voxels).map_err(|_| Refusal::Attribute("ImageOrientationPatient"))?;
    let (expected, found) = (scan.geometry.dims(), volume.dims);
    if expected != found || volume.voxels.len() != voxels.values.len() {
        return Err(Refusal::Shape { expected, found });
    }
    // The affine as the header of the scan has it, so that both see the same order of axes.
    let stored = voxels.grid.affine.map(|row| row.map(|value| f64::from(value as f32)));
    let dims = voxels.grid.dims;
    let axes = affine::orientation(&stored, dims).axes;
    let mut values = Vec::with_capacity(volume.voxels.len());
    let mut at = [0; 3];
    for slice in 0..dims[2] {
        for row in 0..dims[1] {
            for column in 0..dims[0] {
                let index = [column, row, slice];
                for (canonical, axis) in at.iter_mut().zip(&axes) {
                    let i = index[axis.file_axis];
                    *canonical = if axis.flipped { dims[axis.file_axis] - 1 - i } else { i };
                }
                values.push(volume.at(at[0], at[1], at[2]));
            }
        }
    }
    match values.iter().filter(|value| !value.is_finite()).count() {
        0 => Ok(values),
        count => Err(Refusal::NotFinite(count)),
    }
}

/// Everything that the files of a result are made of.
struct Slices<'a> {
    common: InMemDicomObject,
    voxels: &'a series::Voxels,
    values: &'a [f32],
    encoding: Encoding,
    series_uid: String,
}

/// How real values become 16 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Encoding {
    scale: Scale,
    signed: bool,
}

impl<'a> Slices<'a> {
    fn new(
        series: &Series,
        voxels: &'a series::Voxels,
        values: &'a [f32],
        derivation: &str,
    ) -> Result<Slices<'a>, Refusal> {
        let first = series.first();
        let header = file::header(&first.path)?;
        let mut hasher = blake3::Hasher::new();
        for value in values {
            hasher.update(&value.to_le_bytes());
        }
        let digest = hasher.finalize();
        let parts = [first.series.as_bytes(), digest.as_bytes(), derivation.as_bytes()];
        let series_uid = key::uid(&parts);
        let mut common = InMemDicomObject::new_empty();
        // Strings are UTF-8 in memory; whatever set the source had, they are written as that.
        common.put_str(tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 192");
        for tag in COPIED {
            if let Some(element) = header.get(tag).filter(|e| e.items().is_none()) {
                common.put(element.clone());
            }
        }
        for (tag, value) in [
            (tags::ECHO_TIME, first.facts.te_ms),
            (tags::REPETITION_TIME, first.facts.tr_ms),
            (tags::INVERSION_TIME, first.facts.ti_ms),
        ] {
            common.put_str(tag, VR::DS, value.map(decimal).unwrap_or_default());
        }
        for (tag, vr, value) in REQUIRED {
            if common.get(tag).is_none() {
                common.put_str(tag, vr, value);
            }
        }
        if common.get(tags::FRAME_OF_REFERENCE_UID).is_none() {
            let frame = key::uid(&[b"frame of reference", first.series.as_bytes()]);
            common.put_str(tags::FRAME_OF_REFERENCE_UID, VR::UI, frame);
        }
        let number = (first.series_number.unwrap_or(0) + SERIES_NUMBER_OFFSET).to_string();
        for (tag, vr, value) in [
            (tags::IMAGE_TYPE, VR::CS, "DERIVED\\SECONDARY\\OTHER\\SYNTHETIC"),
            (tags::SOP_CLASS_UID, VR::UI, uids::MR_IMAGE_STORAGE),
            (tags::MODALITY, VR::CS, "MR"),
            (tags::SERIES_DESCRIPTION, VR::LO, "SYNTHETIC inpainting, not acquired"),
            (tags::DERIVATION_DESCRIPTION, VR::ST, derivation),
            (tags::SERIES_INSTANCE_UID, VR::UI, &series_uid),
            (tags::SERIES_NUMBER, VR::IS, &number),
            (tags::BURNED_IN_ANNOTATION, VR::CS, "NO"),
            (tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
            (tags::RESCALE_TYPE, VR::LO, "US"),
        ] {
            common.put_str(tag, vr, value);
        }
        let encoding = encoding(values, voxels.scale);
        Ok(Slices { common, voxels, values, encoding, series_uid })
    }

    /// The file of one slice.
    fn file(&self, slice: usize) -> Result<Vec<u8>, Refusal> {
        let [columns, rows, _] = self.voxels.grid.dims;
        let mut object = self.common.clone();
        let uid = key::uid(&[self.series_uid.as_bytes(), &(slice as u64).to_le_bytes()]);
        object.put_str(tags::SOP_INSTANCE_UID, VR::UI, uid);
        object.put_str(tags::INSTANCE_NUMBER, VR::IS, (slice + 1).to_string());
        self.place(slice, &mut object);
        let Encoding { scale, signed } = self.encoding;
        for (tag, value) in [
            (tags::SAMPLES_PER_PIXEL, 1),
            (tags::ROWS, rows as u16),
            (tags::COLUMNS, columns as u16),
            (tags::BITS_ALLOCATED, 16),
            (tags::BITS_STORED, 16),
            (tags::HIGH_BIT, 15),
            (tags::PIXEL_REPRESENTATION, u16::from(signed)),
        ] {
            object.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
        }
        object.put_str(tags::RESCALE_SLOPE, VR::DS, decimal(scale.slope));
        object.put_str(tags::RESCALE_INTERCEPT, VR::DS, decimal(scale.intercept));
        let (low, high) = range(self.values);
        object.put_str(tags::WINDOW_CENTER, VR::DS, decimal((low + high) / 2.0));
        object.put_str(tags::WINDOW_WIDTH, VR::DS, decimal((high - low).max(1.0)));
        let area = columns * rows;
        let words: Vec<u16> = self.values[slice * area..(slice + 1) * area]
            .iter()
            .map(|&value| self.encoding.word(f64::from(value)))
            .collect();
        let words = PrimitiveValue::U16(words.into());
        object.put(DataElement::new(tags::PIXEL_DATA, VR::OW, words));
        let meta = FileMetaTableBuilder::new().transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
        let file = object.with_meta(meta).map_err(|_| Refusal::Encode)?;
        let mut bytes = Vec::new();
        file.write_all(&mut bytes).map_err(|_| Refusal::Encode)?;
        Ok(bytes)
    }

    /// Where the slice lies: the grid's affine, back from RAS to LPS.
    fn place(&self, slice: usize, object: &mut InMemDicomObject) {
        let affine = &self.voxels.grid.affine;
        let lps = |row: usize, value: f64| if row == 2 { value } else { -value };
        let spacing = self.voxels.grid.spacing_mm();
        let text = |values: &[f64]| {
            values.iter().map(|&value| decimal(value)).collect::<Vec<String>>().join("\\")
        };
        let position =
            [0, 1, 2].map(|row: usize| lps(row, affine[row][3] + slice as f64 * affine[row][2]));
        let cosine =
            |axis: usize| [0, 1, 2].map(|row: usize| lps(row, affine[row][axis] / spacing[axis]));
        let cosines = [cosine(0), cosine(1)].concat();
        object.put_str(tags::IMAGE_POSITION_PATIENT, VR::DS, text(&position));
        object.put_str(tags::IMAGE_ORIENTATION_PATIENT, VR::DS, text(&cosines));
        object.put_str(tags::PIXEL_SPACING, VR::DS, text(&[spacing[1], spacing[0]]));
        object.put_str(tags::SPACING_BETWEEN_SLICES, VR::DS, decimal(spacing[2]));
        if object.get(tags::SLICE_THICKNESS).is_none() {
            object.put_str(tags::SLICE_THICKNESS, VR::DS, decimal(spacing[2]));
        }
    }
}

impl Encoding {
    /// The 16 bits of a value.
    fn word(&self, value: f64) -> u16 {
        let stored = ((value - self.scale.intercept) / self.scale.slope).round();
        if self.signed {
            stored.clamp(-32768.0, 32767.0) as i16 as u16
        } else {
            stored.clamp(0.0, 65535.0) as u16
        }
    }
}

/// The source's own scale if it holds all values, else one that spreads them over 16 bits.
fn encoding(values: &[f32], of_source: Option<Scale>) -> Encoding {
    let (low, high) = range(values);
    if let Some(scale) = of_source {
        let ends = [low, high].map(|value| ((value - scale.intercept) / scale.slope).round());
        let (least, most) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
        if least >= 0.0 && most <= 65535.0 {
            return Encoding { scale, signed: false };
        }
        if least >= -32768.0 && most <= 32767.0 {
            return Encoding { scale, signed: true };
        }
    }
    // What is written is what is divided by, so that reading gives back what was meant.
    let written = |value: f64| decimal(value).parse().unwrap_or(value);
    let slope = if high > low { written((high - low) / 65535.0) } else { 1.0 };
    Encoding { scale: Scale { slope, intercept: written(low) }, signed: false }
}

fn range(values: &[f32]) -> (f64, f64) {
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (f64::from(low), f64::from(high))
}

/// Writes all files into a temporary folder beside `out`, which is then renamed.
fn write_folder(out: &Path, slices: &Slices<'_>) -> Result<(), Refusal> {
    if out.exists() {
        return Err(Refusal::Exists);
    }
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary = tempfile::Builder::new().prefix(".writing-").tempdir_in(parent)?;
    for slice in 0..slices.voxels.grid.dims[2] {
        let path = temporary.path().join(format!("{:04}.dcm", slice + 1));
        std::fs::write(&path, slices.file(slice)?)?;
        File::open(&path)?.sync_all()?;
    }
    publish(temporary, out)
}
