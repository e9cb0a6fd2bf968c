//! Planned cases on the disk, laid out as BraTS does: `X/X-t1n.nii.gz`. A case is written whole or not
//! at all.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::data::dicom::folder::Found;
use crate::data::dicom::intake::Planned;
use crate::data::dicom::refusal::Refusal;
use crate::data::dicom::{convert, series};
use crate::data::layout::Contrast;

/// Why a case was not written. No patient is named but by the case's own name.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// A case of this name is there.
    #[error("case {0} is there already, remove it or choose another folder")]
    Exists(String),
    /// One of its series cannot be read.
    #[error("series {number} ({}) of case {case}: {refusal}", contrast.name())]
    Series {
        /// The case.
        case: String,
        /// The number of the series in the list.
        number: usize,
        /// What it was to be.
        contrast: Contrast,
        /// Why.
        refusal: Refusal,
    },
    /// The disk failed.
    #[error("case {case}: {refusal}")]
    Io {
        /// The case.
        case: String,
        /// How.
        refusal: Refusal,
    },
}

/// Writes a case into the folder `out` and names its folder.
///
/// # Errors
/// [`Error`]; nothing of the case is left then.
pub fn write(out: &Path, found: &Found, planned: &Planned) -> Result<PathBuf, Error> {
    let Planned { name, series } = planned;
    let folder = out.join(name);
    if folder.exists() {
        return Err(Error::Exists(name.clone()));
    }
    let failed = |refusal| Error::Io { case: name.clone(), refusal };
    let io = |error: std::io::Error| failed(error.into());
    let temporary = tempfile::Builder::new().prefix(".writing-").tempdir_in(out).map_err(io)?;
    for (&contrast, &index) in series {
        let refused =
            |refusal| Error::Series { case: name.clone(), number: index + 1, contrast, refusal };
        let voxels = series::read(&found.series[index]).map_err(refused)?;
        let path = temporary.path().join(format!("{name}-{}.nii.gz", contrast.name()));
        std::fs::write(&path, convert::nifti_gz(&voxels).map_err(io)?).map_err(io)?;
        File::open(&path).and_then(|file| file.sync_all()).map_err(io)?;
    }
    publish(temporary, &folder).map_err(failed)?;
    Ok(folder)
}

/// Gives a temporary folder, whose files are on the disk, its name beside it. On an error nothing is
/// left of it.
pub(super) fn publish(temporary: tempfile::TempDir, folder: &Path) -> Result<(), Refusal> {
    File::open(temporary.path())?.sync_all()?;
    std::fs::rename(temporary.path(), folder)?;
    // It has another name now, so there is nothing to be removed under the old one.
    let _ = temporary.keep();
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok(File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?)
}
