//! A scan from whatever a site keeps it as: a file is NIfTI, a folder is a DICOM series.

use std::path::Path;

use crate::data::dicom;
use crate::data::nifti::header::FileGeometry;
use crate::data::nifti::{self, Scan};
use crate::data::volume::Volume;

/// A scan that cannot be read. Local: it names the file or folder.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A NIfTI file.
    #[error(transparent)]
    Nifti(#[from] nifti::Error),
    /// A folder of DICOM files.
    #[error(transparent)]
    Dicom(#[from] dicom::Error),
}

/// Reads a scan: the one MR series of a folder, or a NIfTI file.
///
/// # Errors
/// What is wrong with the file or the folder, with its path.
pub fn read(path: &Path) -> Result<Scan, Error> {
    if path.is_dir() { Ok(dicom::read(path)?) } else { Ok(nifti::read(path)?) }
}

/// Reads a scan that must lie on the grid of `geometry`.
///
/// # Errors
/// As [`read`], and if its grid is another one.
pub fn read_like(path: &Path, geometry: &FileGeometry) -> Result<Volume, Error> {
    let located = |fault| nifti::Error { path: path.to_path_buf(), fault };
    Ok(nifti::on_grid(read(path)?, geometry).map_err(located)?)
}
