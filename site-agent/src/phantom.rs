//! A synthetic cohort in the layout of BraTS, to rehearse a federation with before any patient is
//! touched.
//!
//! Real anatomy (Colin27), a tumour that grows, MRI physics and a scanner per site. It serves demos
//! and tests; tissue is more even than in patients, so a score on it says nothing about patients. It
//! never reads a scan.
//!
//! The map: [`seed`] → [`warp`] + [`anatomy`] → [`growth`] → [`tumour`] → [`head`] → [`signal`] with
//! [`scanner`] → [`acquire`] → files; [`sites`] makes a federation of cohorts.

pub mod acquire;
pub mod anatomy;
pub mod grid;
pub mod growth;
pub mod head;
pub mod noise;
pub mod scanner;
pub mod seed;
pub mod signal;
pub mod sites;
pub mod tumour;
pub mod warp;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use rayon::prelude::*;

use crate::data::labels::LabelScheme;
use crate::data::layout::Contrast;
use crate::data::nifti::fault::Fault;
use crate::data::nifti::{self, Storage};
use crate::data::volume::Volume;
use crate::phantom::acquire::Exam;
use crate::phantom::anatomy::Template;
use crate::phantom::grid::Grid;
use crate::phantom::head::Head;
use crate::phantom::scanner::{Protocol, Scanner};
use crate::phantom::seed::PatientSeed;

/// The most patients of one cohort: at 1 mm this many take about 100 GB.
pub const PATIENTS_MAX: usize = 10_000;

/// The voxel edges that can be asked for.
pub const SIZE_MM: std::ops::RangeInclusive<f64> = 1.0..=8.0;

/// The frame of BraTS: voxels of 1 mm.
const FRAME_MM: [f64; 3] = [240.0, 240.0, 155.0];

/// The name of the folder that holds a patient's healthy counterpart: the same exams of the same head
/// before the tumour. It is the truth under the tumour. Nothing is pushed in it, so that beside the
/// tumour it differs from the patient by the mass effect, too (up to 7 mm, fading over 30 mm): score
/// inside the tumour's mask only.
pub const HEALTHY: &str = "healthy";

/// The file in a cohort's folder that says what its labels mean.
pub const MANIFEST: &str = "manifest.toml";

/// What goes into the header of every file.
const DESCRIPTION: &str = "SYNTHETIC fedpaint phantom, not a patient";

/// What to make.
#[derive(Clone, Debug, PartialEq)]
pub struct CohortSpec {
    /// The folder, which must be empty or absent.
    pub out: PathBuf,
    /// How many patients.
    pub patients: usize,
    /// Whose images.
    pub scanner: Scanner,
    /// The same seed makes the same files.
    pub seed: u64,
    /// The edge of a voxel.
    pub size_mm: f64,
}

/// Why a cohort cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The number of patients is out of range.
    #[error("{0} patients were asked for, 1 to {PATIENTS_MAX} can be made")]
    Patients(usize),
    /// A scale gives no cohort.
    #[error("a scale of {0} was asked for, give a number above 0 such as 0.05")]
    Scale(f64),
    /// The voxel size is out of range.
    #[error("a voxel size of {0} mm was asked for, 1 to 8 mm can be made")]
    Size(f64),
    /// The folder holds something.
    #[error("{path}: the folder is not empty, choose another", path = path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// A folder cannot be made, read or renamed.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The template built into the program is damaged.
    #[error("the built-in anatomy cannot be read: {0}")]
    Template(Fault),
    /// A scan cannot be written.
    #[error(transparent)]
    Scan(#[from] nifti::Error),
}

/// Makes a cohort, patients in parallel, and calls `progress(done, total)` after each. Returns the
/// patients' names.
///
/// Each patient `X` is a folder with `X-{t1n,t1c,t2w,t2f,seg}.nii.gz` and, in [`HEALTHY`], the same
/// four contrasts of the same exam without the tumour. A folder appears whole or not at all. A
/// [`MANIFEST`] says what the labels mean.
///
/// # Errors
/// [`Error`]; patients finished before it are kept.
pub fn write_cohort(
    spec: &CohortSpec,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<String>, Error> {
    let source = Source {
        out: spec.out.clone(),
        scanner: spec.scanner,
        protocol: spec.scanner.protocol(),
        patients: 0..spec.patients,
    };
    write_sources(&spec.out, &[source], spec.seed, spec.size_mm, progress)
}

/// Where patients come from: one site.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Their folder, which is made.
    pub(crate) out: PathBuf,
    /// Whose letter their names have.
    pub(crate) scanner: Scanner,
    /// How they are imaged.
    pub(crate) protocol: Protocol,
    /// Their numbers: with the cohort's seed and the letter they say who they are.
    pub(crate) patients: Range<usize>,
}

/// Makes the patients of every source, all in parallel. Every source's folder is `out` or in it.
pub(crate) fn write_sources(
    out: &Path,
    sources: &[Source],
    seed: u64,
    size_mm: f64,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<String>, Error> {
    let total = sources.iter().map(|source| source.patients.len()).sum();
    if !(1..=PATIENTS_MAX).contains(&total) {
        return Err(Error::Patients(total));
    }
    if !SIZE_MM.contains(&size_mm) {
        return Err(Error::Size(size_mm));
    }
    prepare(out)?;
    sources.iter().try_for_each(|source| prepare(&source.out))?;
    sources.iter().try_for_each(|source| write_manifest(&source.out))?;
    let template = Template::new().map_err(Error::Template)?;
    let work: Vec<(&Source, usize)> =
        sources.iter().flat_map(|s| s.patients.clone().map(move |patient| (s, patient))).collect();
    let (sender, finished) = mpsc::channel();
    let make = |sender: &mut mpsc::Sender<()>, (source, patient): (&Source, usize)| {
        let letter = source.scanner.letter();
        let who = PatientSeed { cohort: seed, scanner: letter, patient: patient as u64 };
        let images = patient_images(&template, &source.protocol, size_mm, &who);
        let name = format!("Phantom-{letter}-{patient:05}-000");
        write_patient(&source.out, &name, &images)?;
        // A receiver that is gone has only stopped to count.
        let _ = sender.send(());
        Ok(name)
    };
    std::thread::scope(|scope| {
        let work = scope.spawn(move || {
            work.into_par_iter().map_with(sender, make).collect::<Result<Vec<String>, Error>>()
        });
        finished.iter().enumerate().for_each(|(before, ())| progress(before + 1, total));
        // A panic in there is a bug, and goes on being one.
        work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// One patient's images on the whole BraTS frame.
pub struct PatientImages {
    /// The four contrasts, in the order of [`Contrast`].
    pub contrasts: [Volume; 4],
    /// The same without the tumour.
    pub healthy: [Volume; 4],
    /// 1 necrosis, 2 oedema, 3 enhancing tumour.
    pub segmentation: Volume,
}

/// Makes one patient as a protocol images it. Pure: the same arguments give the same voxels.
pub fn patient_images(
    template: &Template,
    protocol: &Protocol,
    size_mm: f64,
    seed: &PatientSeed,
) -> PatientImages {
    let image = image_grid(size_mm);
    let head = Head::new(template, &image, seed);
    let pairs = Contrast::ALL.map(|contrast| {
        let mut rng = seed.stream(contrast.name());
        let exam = Exam::new(protocol, contrast, &head.grid, &head.brain, &mut rng);
        head.signals(protocol, contrast)
            .map(|signals| framed(&image, &head, &exam.image(&head.brain, &signals)))
    });
    let mut labels = vec![0.0; head.grid.voxels()];
    head.brain.iter().zip(&head.labels).for_each(|(&i, &label)| labels[i] = label.into());
    let segmentation = framed(&image, &head, &labels);
    let [[a, ah], [b, bh], [c, ch], [d, dh]] = pairs;
    PatientImages { contrasts: [a, b, c, d], healthy: [ah, bh, ch, dh], segmentation }
}

/// The grid of an image with voxels of `size_mm`: BraTS's own at 1 mm.
pub fn image_grid(size_mm: f64) -> Grid {
    Grid {
        // The small number keeps rounding from adding an empty slice.
        dims: FRAME_MM.map(|extent| (extent / size_mm - 1e-6).ceil() as usize),
        edge_mm: size_mm as f32,
        // The frame's zero is the centre of a voxel of 1 mm, half a millimetre from the frame's edge.
        first_mm: [(size_mm as f32 - 1.0) / 2.0; 3],
    }
}

/// The values of the head's grid, in a volume of the whole frame.
fn framed(image: &Grid, head: &Head, values: &[f32]) -> Volume {
    let edge = f64::from(image.edge_mm);
    let mut voxels = vec![0.0; image.voxels()];
    let row = head.grid.dims[0];
    for (i, from) in values.chunks_exact(row).enumerate() {
        let (y, z) = (i % head.grid.dims[1], i / head.grid.dims[1]);
        let start = image.index([head.low[0], head.low[1] + y, head.low[2] + z]);
        voxels[start..start + row].copy_from_slice(from);
    }
    // As in BraTS, the file's first voxel is (0, depth of the frame, 0) and its x runs to the left.
    let width = (image.dims[0] as f64 - 1.0) * edge;
    Volume { dims: image.dims, spacing_mm: [edge; 3], origin_mm: [-width, 0.0, 0.0], voxels }
}

/// Writes one patient's folder into `out`, whole or not at all.
///
/// # Errors
/// If the disk fails.
pub fn write_patient(out: &Path, name: &str, images: &PatientImages) -> Result<(), Error> {
    let failed = |source| Error::Io { path: out.to_path_buf(), source };
    // Hidden while it grows, so that no one takes it for a case; removed if anything fails.
    let folder = tempfile::Builder::new().prefix(".writing-").tempdir_in(out).map_err(failed)?;
    let healthy = folder.path().join(HEALTHY);
    std::fs::create_dir(&healthy).map_err(failed)?;
    for (contrast, (ill, well)) in
        Contrast::ALL.into_iter().zip(images.contrasts.iter().zip(&images.healthy))
    {
        let file = format!("{name}-{}.nii.gz", contrast.name());
        nifti::write_new(&folder.path().join(&file), ill, Storage::I16, DESCRIPTION)?;
        nifti::write_new(&healthy.join(&file), well, Storage::I16, DESCRIPTION)?;
    }
    let file = folder.path().join(format!("{name}-seg.nii.gz"));
    nifti::write_new(&file, &images.segmentation, Storage::U8, DESCRIPTION)?;
    std::fs::rename(folder.path(), out.join(name)).map_err(failed)?;
    // It has moved: nothing is left to remove.
    let _ = folder.keep();
    std::fs::File::open(out).and_then(|out| out.sync_all()).map_err(failed)?;
    Ok(())
}

/// Says in the cohort's folder what its labels mean, so that nobody has to.
fn write_manifest(out: &Path) -> Result<(), Error> {
    let scheme = LabelScheme::Brats2023;
    let text =
        format!("# What the labels of every case in this folder mean.\nlabels = \"{scheme}\"\n");
    let path = out.join(MANIFEST);
    std::fs::write(&path, text).map_err(|source| Error::Io { path, source })
}

/// Makes the folder, or checks that it is empty.
fn prepare(out: &Path) -> Result<(), Error> {
    let failed = |source| Error::Io { path: out.to_path_buf(), source };
    std::fs::create_dir_all(out).map_err(failed)?;
    match std::fs::read_dir(out).map_err(failed)?.next() {
        None => Ok(()),
        Some(_) => Err(Error::NotEmpty { path: out.to_path_buf() }),
    }
}

#[cfg(test)]
mod tests;
