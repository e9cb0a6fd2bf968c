//! The series in a folder and everything below it, whatever its files are called.
//!
//! Only headers are read. Links are not followed: what lies outside the folder is not part of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::data::dicom::file::{self, Instance, Opened, Other};
use crate::data::dicom::limits::{DEPTH_MAX, ENTRIES_MAX};
use crate::data::dicom::refusal::Refusal;
use crate::data::dicom::stack::{self, Grid, Plane};

/// What a folder holds.
#[derive(Debug, Default)]
pub struct Found {
    /// The series, ordered by patient, exam and the scanner's number of the series.
    pub series: Vec<Series>,
    /// What was passed over.
    pub passed: Passed,
    /// Why files could not even be listed, with how many there are: whom they are of and what they
    /// show is told in a transfer syntax that is not read.
    pub refused: Vec<(Refusal, usize)>,
}

/// Counts of what is not an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Passed {
    /// Files that are not DICOM.
    pub not_dicom: usize,
    /// DICOMDIR files: the files themselves are looked at, not the list of them.
    pub dicomdir: usize,
    /// Reports, plans and the like.
    pub no_image: usize,
    /// Links, which are not followed.
    pub links: usize,
    /// DICOM files that cannot be read.
    pub damaged: usize,
}

/// The files of one series. Whom it is of stays in this process.
#[derive(Debug)]
pub struct Series {
    /// Its files, ordered by path; at least one.
    pub(super) instances: Vec<Instance>,
}

impl Series {
    /// One of its files: what holds for the series is in each.
    pub(super) fn first(&self) -> &Instance {
        &self.instances[0]
    }

    /// Frames of all files.
    pub fn frames(&self) -> usize {
        let frames = |instance: &Instance| instance.image.as_ref().map_or(0, |i| i.frames.len());
        self.instances.iter().map(frames).sum()
    }

    /// The grid of the series, from headers alone. Plane `n` of its order is frame `n` of all files.
    ///
    /// # Errors
    /// The [`Refusal`] of a file or of the stack.
    pub fn grid(&self) -> Result<Grid, Refusal> {
        let mut planes: Vec<Plane> = Vec::with_capacity(self.frames());
        let mut by_philips = 0;
        for instance in &self.instances {
            let image = instance.image.as_ref().map_err(Clone::clone)?;
            planes.extend(image.frames.iter().map(|frame| frame.plane));
            by_philips += image.frames.iter().filter(|frame| frame.by_philips).count();
        }
        if by_philips != 0 && by_philips != planes.len() {
            return Err(Refusal::MixedScales);
        }
        stack::grid(&planes)
    }
}

/// Finds the series in a folder.
///
/// # Errors
/// [`Refusal::Io`] if the folder cannot be read, [`Refusal::TooManyEntries`], [`Refusal::TooDeep`].
pub fn find(folder: &Path, progress: &mut dyn FnMut(usize, usize)) -> Result<Found, Refusal> {
    let mut found = Found::default();
    let mut files = Vec::new();
    walk(folder, 0, &mut files, &mut found.passed, &mut 0)?;
    files.sort_unstable();
    let total = files.len();
    // A UID that two patients share, as bad exports have it, does not mix them.
    let mut series: BTreeMap<[Option<String>; 3], Vec<Instance>> = BTreeMap::new();
    for (done, path) in files.iter().enumerate() {
        match file::open(path) {
            Ok(Opened::Image(instance)) => {
                let Instance { patient_id, study, series: uid, .. } = &*instance;
                let key = [patient_id.clone(), Some(study.clone()), Some(uid.clone())];
                series.entry(key).or_default().push(*instance);
            }
            Ok(Opened::Other(Other::NotDicom)) => found.passed.not_dicom += 1,
            Ok(Opened::Other(Other::Directory)) => found.passed.dicomdir += 1,
            Ok(Opened::Other(Other::NoImage)) => found.passed.no_image += 1,
            Err(refusal @ (Refusal::Syntax { .. } | Refusal::UnknownSyntax)) => {
                match found.refused.iter_mut().find(|(other, _)| *other == refusal) {
                    Some((_, files)) => *files += 1,
                    None => found.refused.push((refusal, 1)),
                }
            }
            Err(_) => found.passed.damaged += 1,
        }
        progress(done + 1, total);
    }
    found.series = series.into_values().map(|instances| Series { instances }).collect();
    found.series.sort_by_cached_key(|series| {
        let Instance { patient_id, study_time, study, series_number, series, .. } = series.first();
        let exam = (patient_id.clone(), study_time.clone(), study.clone());
        (exam, *series_number, series.clone())
    });
    Ok(found)
}

/// Collects the files below `folder`.
fn walk(
    folder: &Path,
    depth: usize,
    files: &mut Vec<PathBuf>,
    passed: &mut Passed,
    entries: &mut usize,
) -> Result<(), Refusal> {
    if depth > DEPTH_MAX {
        return Err(Refusal::TooDeep);
    }
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        *entries += 1;
        if *entries > ENTRIES_MAX {
            return Err(Refusal::TooManyEntries);
        }
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            passed.links += 1;
        } else if kind.is_dir() {
            walk(&entry.path(), depth + 1, files, passed, entries)?;
        } else if kind.is_file() {
            files.push(entry.path());
        } else {
            passed.not_dicom += 1;
        }
    }
    Ok(())
}
