//! Reads all files of one case and checks that they belong together. A case is used whole or not at
//! all.

use std::collections::BTreeMap;

use super::example::Region;
use super::grid;
use super::image;
use super::labels::{self, LabelScheme};
use super::layout::{Case, Contrast};
use super::nifti::{Scan as File, header::FileGeometry};
use super::normalise;
use super::prepared::{self, Scan};
use super::problem::{Kind, Problem};
use super::volume::Volume;

/// Why a case cannot be used. Texts name its files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is not a scan, or does not lie where the first of the case does.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// The segmentation has labels without meaning.
    #[error(transparent)]
    Labels(#[from] labels::Error),
    /// The voxels cannot be learnt from.
    #[error("case {case}: {source}")]
    Prepare {
        /// The case.
        case: String,
        /// Why.
        source: prepared::Error,
    },
    /// The case has no scan of the contrasts asked for.
    #[error("case {case} has no scan")]
    NoScan {
        /// The case.
        case: String,
    },
    /// A file was replaced or written to meanwhile.
    #[error("case {case}: a file changed while it was read, try again when it is whole")]
    Changed {
        /// The case.
        case: String,
    },
}

impl Error {
    /// The error as what is wrong with `case`.
    pub fn problem(self, case: &Case) -> Problem {
        use grid::Error::{NoBrain, Shape, Size, Spacing};
        use prepared::Error::{Contrasts, Grid, Label, Window};
        let text = self.to_string();
        let kind = match self {
            Error::Image(error) => return error.into(),
            Error::Labels(error) => {
                let problem = Problem::from(error.fault);
                return match &case.segmentation {
                    Some(path) => problem.in_file(path),
                    None => problem,
                };
            }
            Error::NoScan { .. } => Kind::NoContrast,
            Error::Changed { .. } => Kind::Unreadable,
            Error::Prepare { source, .. } => match source {
                Contrasts(_) => Kind::NoContrast,
                prepared::Error::Shape { .. } | Grid(Shape { .. }) => Kind::Grid,
                Label(_) => Kind::Labels,
                Grid(NoBrain) => Kind::Empty,
                Grid(Size { .. } | Spacing { .. }) => Kind::Header,
                Window(normalise::Error::NotFinite) => Kind::NotFinite,
                Window(_) => Kind::Empty,
            },
        };
        Problem::error(kind, text)
    }
}

/// All images of one case, on one grid.
#[derive(Debug)]
pub struct Exam {
    /// The scans.
    pub images: BTreeMap<Contrast, Volume>,
    /// The grid of the first file.
    pub geometry: FileGeometry,
    /// The lesion's component per voxel, where there is a segmentation.
    pub lesion: Option<Vec<Option<Region>>>,
}

/// Reads a case.
///
/// # Errors
/// [`Error`] if a file does not read or does not fit the others.
pub fn read(case: &Case, scheme: Option<LabelScheme>) -> Result<Exam, Error> {
    let mut scans = case.scans.iter();
    let none = || Error::NoScan { case: case.name.clone() };
    let (&contrast, first) = scans.next().ok_or_else(none)?;
    let File { volume, geometry } = image::read(first)?;
    let mut images = BTreeMap::from([(contrast, volume)]);
    for (&contrast, path) in scans {
        images.insert(contrast, image::read_like(path, &geometry)?);
    }
    let lesion = match &case.segmentation {
        None => None,
        Some(path) => {
            let segmentation = image::read_like(path, &geometry)?;
            Some(labels::regions(&segmentation, scheme, &case.name)?)
        }
    };
    Ok(Exam { images, geometry, lesion })
}

/// Reads a case and makes its block of bytes, see [`prepared`].
///
/// # Errors
/// As [`read`], and if nothing can be learnt from a scan.
pub fn prepare(case: &Case, scheme: Option<LabelScheme>) -> Result<Vec<u8>, Error> {
    let exam = read(case, scheme)?;
    let scans: Vec<Scan<'_>> = exam
        .images
        .iter()
        .map(|(&contrast, image)| Scan { contrast: contrast as usize, image })
        .collect();
    prepared::build(&scans, exam.lesion.as_deref())
        .map_err(|source| Error::Prepare { case: case.name.clone(), source })
}
