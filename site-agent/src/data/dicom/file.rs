//! One DICOM file: what its header says, and its pixels when they are asked for.
//!
//! Names, ids and UIDs that it reads stay in private fields or are hashed; errors say none of them.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use dicom_dictionary_std::{tags, uids};
use dicom_object::{DefaultDicomObject, InMemDicomObject, OpenFileOptions};

use crate::data::dicom::class::{self, Facts};
use crate::data::dicom::frame::{self, Frame};
use crate::data::dicom::limits::{FILE_BYTES_MAX, HEADER_BYTES_MAX};
use crate::data::dicom::pixels::{self, Storage};
use crate::data::dicom::refusal::Refusal;
use crate::data::dicom::tags::{codes, integer, text};
use crate::data::dicom::{nesting, syntax};
use crate::data::nifti::limits::VOXELS_MAX;

/// What kind of file this is.
pub(super) enum Opened {
    /// No DICOM file, or a DICOMDIR, or an object without an image (a report, a plan).
    Other(Other),
    /// An image.
    Image(Box<Instance>),
}

/// Why a file is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Other {
    NotDicom,
    Directory,
    NoImage,
}

/// The header of one image file. Everything private in it stays in this process.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    pub path: PathBuf,
    pub patient_id: Option<String>,
    pub study: String,
    /// StudyDate and StudyTime, which order the exams of a patient.
    pub study_time: String,
    pub series: String,
    pub series_number: Option<usize>,
    pub facts: Facts,
    /// The image, or why it is not used.
    pub image: Result<Image, Refusal>,
}

/// How the pixels of a file are stored and where they lie.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub storage: Storage,
    pub frames: Vec<Frame>,
}

/// Reads the header of a file.
///
/// # Errors
/// [`Refusal::Io`], [`Refusal::FileTooLarge`], and for a file that starts as a DICOM file and is none
/// [`Refusal::DataSet`], or [`Refusal::Syntax`] or [`Refusal::UnknownSyntax`] where its syntax is why.
pub(super) fn open(path: &Path) -> Result<Opened, Refusal> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut start = [0; 132];
    match file.read_exact(&mut start) {
        Ok(()) if &start[128..] == b"DICM" => {}
        Ok(()) => return Ok(Opened::Other(Other::NotDicom)),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
            return Ok(Opened::Other(Other::NotDicom));
        }
        Err(e) => return Err(e.into()),
    }
    if bytes > FILE_BYTES_MAX {
        return Err(Refusal::FileTooLarge(bytes));
    }
    let (object, unread) = header_of(file, bytes)?;
    let class = text(&object, tags::SOP_CLASS_UID);
    if class.as_deref() == Some(uids::MEDIA_STORAGE_DIRECTORY_STORAGE)
        || object.get(tags::DIRECTORY_RECORD_SEQUENCE).is_some()
    {
        return Ok(Opened::Other(Other::Directory));
    }
    // An MR image without rows is cut short, and its slice must be missed.
    let meta_class = object.meta().media_storage_sop_class_uid().trim_end_matches('\0');
    let is_mr = [uids::MR_IMAGE_STORAGE, uids::ENHANCED_MR_IMAGE_STORAGE].contains(&meta_class);
    if object.get(tags::ROWS).is_none() && !is_mr {
        return Ok(Opened::Other(Other::NoImage));
    }
    let mut instance = instance(path, &object)?;
    if let Some(refusal) = unread {
        instance.image = Err(refusal);
    }
    Ok(Opened::Image(Box::new(instance)))
}

/// Reads everything in front of the pixels of a file that was found usable before.
///
/// # Errors
/// As [`open`].
pub(super) fn header(path: &Path) -> Result<DefaultDicomObject, Refusal> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    Ok(header_of(file, bytes)?.0)
}

/// Reads a file up to and with its pixels.
///
/// # Errors
/// As [`open`].
pub(super) fn whole(path: &Path) -> Result<DefaultDicomObject, Refusal> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(Refusal::FileTooLarge(bytes));
    }
    let looked_over = look_over(&mut file, bytes)?;
    let parsed = OpenFileOptions::new().from_reader(file.take(looked_over));
    parsed.map_err(|_| Refusal::DataSet)
}

/// The header of a file, and why its pixels are not read if they are not.
fn header_of(mut file: File, bytes: u64) -> Result<(DefaultDicomObject, Option<Refusal>), Refusal> {
    let named = from_start(&mut file, |input| nesting::transfer_syntax(input, bytes))?;
    let refused = syntax::check(&named).err();
    match (parsed_header(file, bytes), refused) {
        (Ok((object, cut_short)), refused) => Ok((object, refused.or(cut_short))),
        // How the rest is written is not known here, so that it seems damaged tells nothing.
        (Err(_), Some(refusal)) | (Err(refusal), None) => Err(refusal),
    }
}

/// The header of a file, and why its pixels are not all there if they are not.
fn parsed_header(
    mut file: File,
    bytes: u64,
) -> Result<(DefaultDicomObject, Option<Refusal>), Refusal> {
    let cut_short = match look_over(&mut file, bytes) {
        Ok(_) => None,
        Err(refusal @ Refusal::Truncated { .. }) => Some(refusal),
        Err(refusal) => return Err(refusal),
    };
    let options = OpenFileOptions::new().read_until(tags::PIXEL_DATA);
    let parsed = options.from_reader(file.take(HEADER_BYTES_MAX));
    // What the parser says may quote the file, so nothing of it is kept.
    Ok((parsed.map_err(|_| Refusal::DataSet)?, cut_short))
}

/// Looks over a file; how many bytes of it the parser may have.
fn look_over(file: &mut File, bytes: u64) -> Result<u64, Refusal> {
    from_start(file, |input| nesting::check(input, bytes))
}

/// Lets `look` read a file from its start and goes back there.
fn from_start<T>(
    file: &mut File,
    look: impl FnOnce(BufReader<&mut File>) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    file.seek(SeekFrom::Start(0))?;
    let seen = look(BufReader::new(&mut *file));
    file.seek(SeekFrom::Start(0))?;
    seen
}

fn instance(path: &Path, object: &DefaultDicomObject) -> Result<Instance, Refusal> {
    let study = text(object, tags::STUDY_INSTANCE_UID);
    let series = text(object, tags::SERIES_INSTANCE_UID);
    let moment = |tag| text(object, tag).unwrap_or_default();
    Ok(Instance {
        path: path.to_path_buf(),
        patient_id: text(object, tags::PATIENT_ID),
        study: study.ok_or(Refusal::Attribute("StudyInstanceUID"))?,
        study_time: format!("{:0<8}{}", moment(tags::STUDY_DATE), moment(tags::STUDY_TIME)),
        series: series.ok_or(Refusal::Attribute("SeriesInstanceUID"))?,
        series_number: integer(object, tags::SERIES_NUMBER),
        facts: class::facts(object),
        image: image(object, object.meta().transfer_syntax().trim_end_matches([' ', '\0'])),
    })
}

/// What makes an image unusable, before its pixels are read.
fn image(object: &InMemDicomObject, transfer_syntax: &str) -> Result<Image, Refusal> {
    if codes(object, tags::BURNED_IN_ANNOTATION).first().is_some_and(|code| code == "YES") {
        return Err(Refusal::BurnedIn);
    }
    let storage = pixels::storage(object)?;
    syntax::check_bytes(transfer_syntax, storage.bytes())?;
    let frames = frame::frames(object)?;
    // Checked before the pixels are decoded, so that a header cannot ask for more than memory.
    if let Some(Frame { plane, .. }) = frames.first() {
        let dims = [plane.columns, plane.rows, frames.len()];
        if dims.iter().map(|&dim| dim as u128).product::<u128>() > VOXELS_MAX as u128 {
            return Err(Refusal::TooManyVoxels(dims));
        }
    }
    Ok(Image { storage, frames })
}
