//! DICOM: a folder of files to a [`Scan`] like any other, and a result back to a series.
//!
//! Coordinates become RAS+, values become real values. It registers nothing, strips no skull, and
//! nothing it says holds a name, an id, a UID, a date or a text of a file.

pub mod cases;
pub mod class;
pub mod convert;
mod decimal;
pub mod derived;
mod embedded;
mod file;
pub mod folder;
pub mod frame;
pub mod intake;
pub mod key;
pub mod limits;
mod nesting;
mod philips;
mod pixels;
pub mod refusal;
mod rle;
pub mod series;
pub mod stack;
mod syntax;
mod tags;

use std::path::{Path, PathBuf};

use crate::data::dicom::folder::Series;
use crate::data::dicom::refusal::Refusal;
use crate::data::nifti::{self, Scan};

/// A folder that is no usable scan. Local: it names the folder.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {refusal}", path = path.display())]
pub struct Error {
    /// The folder.
    pub path: PathBuf,
    /// Why, without a name.
    #[source]
    pub refusal: Refusal,
}

/// Reads a folder that holds exactly one MR series.
///
/// # Errors
/// The folder with the [`Refusal`]: no series or several, damaged files, or what is wrong with it.
pub fn read(folder: &Path) -> Result<Scan, Error> {
    let located = |refusal| Error { path: folder.to_path_buf(), refusal };
    let series = only_series(folder).map_err(located)?;
    let voxels = series::read(&series).map_err(located)?;
    scan(&voxels).map_err(|_| located(Refusal::Attribute("ImageOrientationPatient")))
}

/// The one series of a folder.
fn only_series(folder: &Path) -> Result<Series, Refusal> {
    let mut found = folder::find(folder, &mut |_, _| {})?;
    if let Some((refusal, _)) = found.refused.first() {
        return Err(refusal.clone());
    }
    if found.passed.damaged > 0 {
        return Err(Refusal::Damaged(found.passed.damaged));
    }
    match (found.series.pop(), found.series.len()) {
        (None, _) => Err(Refusal::NoSeries),
        (Some(series), 0) if series.first().facts.modality != "MR" => Err(Refusal::NotMr),
        (Some(series), 0) => Ok(series),
        (Some(_), others) => Err(Refusal::SeveralSeries(others + 1)),
    }
}

/// The voxels as the reader of NIfTI files sees them, which is what the rest of the program knows.
fn scan(voxels: &series::Voxels) -> Result<Scan, nifti::fault::Fault> {
    nifti::decode(convert::nifti_bytes(voxels).as_slice())
}

#[cfg(test)]
mod tests;
