//! What is wrong with a case, in one form whatever found it.
//!
//! A problem is for the site's own terminal and log: it names files. It never crosses the wire, where
//! a count of the cases set aside is all that is told.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use serde::{Serialize, Serializer};

use crate::data::dicom::{self, refusal::Refusal};
use crate::data::image;
use crate::data::labels;
use crate::data::nifti;
use crate::data::nifti::fault::Fault;

/// How much a problem matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The case is set aside.
    Error,
    /// The case is used, and somebody should look at it.
    Warning,
    /// Worth knowing, and often as it should be.
    Note,
}

/// What a problem is about, for programs and for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A file cannot be opened or read.
    Unreadable,
    /// A file may not be read by this user.
    Permission,
    /// A file ends before its last voxel.
    Truncated,
    /// A file is no NIfTI file.
    NotNifti,
    /// A header contradicts itself or asks for what is not read.
    Header,
    /// An image is larger than what is read.
    TooLarge,
    /// The affine does not say where the voxels lie.
    Orientation,
    /// Voxels are NaN or infinite.
    NotFinite,
    /// The files of a case do not lie on one grid.
    Grid,
    /// A label has no meaning, or lies where none should.
    Labels,
    /// Nobody has said what the labels mean.
    LabelScheme,
    /// An image has nothing in it.
    Empty,
    /// The same image or case is there twice.
    Duplicate,
    /// A link leads out of the data folder.
    Outside,
    /// There is no contrast to train on.
    NoContrast,
    /// A name cannot be used.
    Name,
    /// The brain has no plausible volume or background.
    Brain,
    /// No mask can be drawn.
    Mask,
    /// A DICOM series cannot be used.
    Dicom,
}

impl Kind {
    /// How it is written in JSON and tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Unreadable => "unreadable",
            Kind::Permission => "permission",
            Kind::Truncated => "truncated",
            Kind::NotNifti => "not_nifti",
            Kind::Header => "header",
            Kind::TooLarge => "too_large",
            Kind::Orientation => "orientation",
            Kind::NotFinite => "not_finite",
            Kind::Grid => "grid",
            Kind::Labels => "labels",
            Kind::LabelScheme => "label_scheme",
            Kind::Empty => "empty",
            Kind::Duplicate => "duplicate",
            Kind::Outside => "outside",
            Kind::NoContrast => "no_contrast",
            Kind::Name => "name",
            Kind::Brain => "brain",
            Kind::Mask => "mask",
            Kind::Dicom => "dicom",
        }
    }
}

/// Something wrong, or worth knowing, about one case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How much it matters.
    pub severity: Severity,
    /// What it is about.
    pub kind: Kind,
    /// The file it was found in, where it is about one.
    #[serde(serialize_with = "lossy")]
    pub file: Option<PathBuf>,
    /// What was found and what to do, in lower case and without the file's name.
    pub detail: String,
}

impl Problem {
    /// A problem that sets the case aside.
    pub fn error(kind: Kind, detail: impl Into<String>) -> Problem {
        Problem { severity: Severity::Error, kind, file: None, detail: detail.into() }
    }

    /// A problem that somebody should look at.
    pub fn warning(kind: Kind, detail: impl Into<String>) -> Problem {
        Problem { severity: Severity::Warning, ..Problem::error(kind, detail) }
    }

    /// A fact worth knowing.
    pub fn note(kind: Kind, detail: impl Into<String>) -> Problem {
        Problem { severity: Severity::Note, ..Problem::error(kind, detail) }
    }

    /// The same problem, found in `file`.
    pub fn in_file(self, file: &Path) -> Problem {
        Problem { file: Some(file.to_path_buf()), ..self }
    }

    /// A file or folder that the disk does not give.
    pub fn io(error: &io::Error) -> Problem {
        let kind = match error.kind() {
            io::ErrorKind::PermissionDenied => Kind::Permission,
            io::ErrorKind::UnexpectedEof => Kind::Truncated,
            _ => Kind::Unreadable,
        };
        Problem::error(kind, lower_first(&error.to_string()))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}: {}", file.display(), self.detail),
            None => f.write_str(&self.detail),
        }
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Problem {
        let kind = match &fault {
            Fault::Io(error) => return Problem::io(error),
            Fault::FileTooLarge(_) | Fault::TooManyVoxels(_) => Kind::TooLarge,
            Fault::NotNifti | Fault::Pair => Kind::NotNifti,
            Fault::NotAFile | Fault::Corrupt => Kind::Unreadable,
            Fault::Truncated { .. } => Kind::Truncated,
            Fault::NotFinite(_) => Kind::NotFinite,
            Fault::Affine => Kind::Orientation,
            Fault::Shape { .. } | Fault::Place(_) => Kind::Grid,
            Fault::EmptyMask => Kind::Empty,
            // Everything else is a header that asks for what cannot be done.
            _ => Kind::Header,
        };
        Problem::error(kind, fault.to_string())
    }
}

impl From<nifti::Error> for Problem {
    fn from(error: nifti::Error) -> Problem {
        Problem::from(error.fault).in_file(&error.path)
    }
}

impl From<dicom::Error> for Problem {
    fn from(error: dicom::Error) -> Problem {
        let kind = match &error.refusal {
            Refusal::Io(kind) => return Problem::io(&(*kind).into()).in_file(&error.path),
            Refusal::Truncated { .. } => Kind::Truncated,
            Refusal::TooManyVoxels(_) | Refusal::FileTooLarge(_) => Kind::TooLarge,
            Refusal::NotFinite(_) => Kind::NotFinite,
            _ => Kind::Dicom,
        };
        Problem::error(kind, error.refusal.to_string()).in_file(&error.path)
    }
}

impl From<image::Error> for Problem {
    fn from(error: image::Error) -> Problem {
        match error {
            image::Error::Nifti(error) => error.into(),
            image::Error::Dicom(error) => error.into(),
        }
    }
}

impl From<labels::Fault> for Problem {
    fn from(fault: labels::Fault) -> Problem {
        let kind = match &fault {
            labels::Fault::NoScheme { .. } => Kind::LabelScheme,
            labels::Fault::Unknown { .. } | labels::Fault::TooMany => Kind::Labels,
        };
        Problem::error(kind, fault.to_string())
    }
}

/// A path as text, since a name that is not UTF-8 is a problem to be told and not one to tell it.
fn lossy<S: Serializer>(file: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    file.as_ref().map(|file| file.to_string_lossy()).serialize(serializer)
}

/// The system's messages begin with a capital letter.
fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use crate::data::labels::LabelScheme;

    use super::*;

    #[test]
    fn a_kind_is_named_in_tables_as_in_json() {
        for kind in [Kind::Unreadable, Kind::NotNifti, Kind::LabelScheme, Kind::NoContrast] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }

    #[test]
    fn every_fault_of_a_file_is_told_by_its_kind() {
        let io = |kind| Fault::Io(io::Error::from(kind));
        for (fault, kind) in [
            (io(io::ErrorKind::PermissionDenied), Kind::Permission),
            (io(io::ErrorKind::NotFound), Kind::Unreadable),
            (Fault::Truncated { expected: 2, found: 1 }, Kind::Truncated),
            (Fault::TooManyVoxels([1000; 3]), Kind::TooLarge),
            (Fault::NotNifti, Kind::NotNifti),
            (Fault::Affine, Kind::Orientation),
            (Fault::NotFinite(3), Kind::NotFinite),
            (Fault::Place(3.0), Kind::Grid),
            (Fault::DataType(32), Kind::Header),
        ] {
            let error = nifti::Error { path: "x.nii".into(), fault };
            let problem = Problem::from(error);
            assert_eq!((problem.kind, problem.severity), (kind, Severity::Error), "{problem:?}");
            assert_eq!(problem.file.as_deref(), Some(Path::new("x.nii")));
            assert!(!problem.detail.starts_with(char::is_uppercase), "{}", problem.detail);
        }
    }

    #[test]
    fn a_label_without_meaning_and_labels_without_a_scheme_are_told_apart() {
        let fitting = vec![LabelScheme::Lesion];
        assert_eq!(Problem::from(labels::Fault::NoScheme { fitting }).kind, Kind::LabelScheme);
        assert_eq!(Problem::from(labels::Fault::TooMany).kind, Kind::Labels);
    }
}
