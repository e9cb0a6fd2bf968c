//! What a case is, read whole: its grid, its brain, its labels, what is wrong with it, and what a model
//! can learn from it.
//!
//! Everything is judged from the voxels, one volume in memory at a time. Nothing is repaired and
//! nothing is printed here.

mod brain;
mod companions;
pub mod summary;

use std::path::Path;

use serde::Serialize;

use crate::data::census::brain::{Brain, Extent};
use crate::data::duplicates::{self, Digests, Seen};
use crate::data::example::Region;
use crate::data::image;
use crate::data::labels::{self, LabelScheme};
use crate::data::layout::{Case, Contrast};
use crate::data::nifti::header::FileGeometry;
use crate::data::problem::{Kind, Problem, Severity};
use crate::data::volume::Volume;

/// The brain volumes that are plausible, in millilitres (the check of the BraTS preprocessing).
pub const BRAIN_ML: std::ops::RangeInclusive<f64> = 800.0..=2200.0;

/// The least part of a skull-stripped volume that is background.
pub const BACKGROUND_MIN: f64 = 0.05;

/// The part of a lesion that may lie outside the brain before somebody should look.
pub const LESION_OUTSIDE_MAX: f64 = 0.05;

/// The part of two brains that may differ between contrasts of one case before it is told.
pub const BRAINS_APART_MAX: f64 = 0.02;

/// The grid of BraTS.
const BRATS_DIMS: [usize; 3] = [240, 240, 155];

/// How far a voxel of the grid of BraTS may be from 1 mm.
const BRATS_TOLERANCE_MM: f64 = 1e-3;

/// What a case can train the model to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// To paint healthy tissue.
    Heal,
    /// To paint components of a tumour.
    Components,
    /// To paint a whole tumour.
    Mixed,
    /// To paint a component somewhere in a box.
    Box,
}

impl Task {
    /// How it is written in JSON and tables.
    pub fn name(self) -> &'static str {
        ["heal", "components", "mixed", "box"][self as usize]
    }
}

/// How the voxels of a case lie, which all of its files share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GridReport {
    /// Where the axes of the first file point, fastest first, as in `LPS`.
    pub orientation: String,
    /// Voxels from left to right, back to front, and foot to head.
    pub dims: [usize; 3],
    /// The edges of a voxel along the same axes.
    pub spacing_mm: [f64; 3],
}

/// One label of a segmentation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LabelReport {
    /// The number.
    pub label: f32,
    /// What it is in the case's scheme.
    pub meaning: Option<&'static str>,
    /// Voxels that hold it.
    pub voxels: usize,
    /// Their volume in millilitres.
    pub ml: f64,
}

/// Everything that is known about one case. Its names may not leave the site.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaseReport {
    /// The case's name.
    pub case: String,
    /// The patient's key.
    pub patient: String,
    /// Whether it is used; otherwise one of its problems is an error.
    pub usable: bool,
    /// The contrasts that are there.
    pub contrasts: Vec<Contrast>,
    /// The grid, if a scan reads.
    pub grid: Option<GridReport>,
    /// The brain: voxels above 0 in the first scan that reads.
    pub brain_ml: Option<f64>,
    /// What the labels mean, where there is a segmentation and somebody has said so.
    pub label_scheme: Option<LabelScheme>,
    /// The labels that occur, ascending; none where there is no segmentation.
    pub labels: Vec<LabelReport>,
    /// What it can train, if it is usable.
    pub tasks: Vec<Task>,
    /// What is wrong, the worst first.
    pub problems: Vec<Problem>,
    /// Its scans as read, to find one that is there twice.
    #[serde(skip)]
    pub digests: Digests,
}

/// Reads every file of a case and reports. `scheme` is what its labels mean.
pub fn survey(case: &Case, scheme: Option<LabelScheme>) -> CaseReport {
    let mut survey = Survey::default();
    for (&contrast, path) in &case.scans {
        survey.scan(contrast, path);
    }
    let mut labels = Vec::new();
    if let Some(path) = &case.segmentation {
        labels = survey.segmentation(path, scheme);
    }
    survey.problems.extend(companions::problems(case, survey.grid.as_ref()));
    if let Some(grid) = &survey.grid {
        survey.problems.extend(of_grid(grid, case.scans.len()));
    }
    survey.problems.sort_by_key(|problem| problem.severity);
    let Survey { grid, brain, problems, digests, .. } = survey;
    let usable = problems.iter().all(|problem| problem.severity != Severity::Error);
    CaseReport {
        case: case.name.clone(),
        patient: case.patient.clone(),
        usable,
        contrasts: case.scans.keys().copied().collect(),
        grid: grid.as_ref().map(report_of_grid),
        brain_ml: brain.map(|brain| brain.ml()),
        label_scheme: scheme.filter(|_| case.segmentation.is_some()),
        tasks: if usable { tasks(&labels, scheme) } else { Vec::new() },
        labels,
        problems,
        digests,
    }
}

/// What a case with these labels can train: healthy tissue always, a tumour where every part of it is
/// a known component. A cavity is none, so beside one nothing but healthy tissue is painted.
pub fn tasks(labels: &[LabelReport], scheme: Option<LabelScheme>) -> Vec<Task> {
    let is_component = |label: &LabelReport| {
        let region = scheme.and_then(|scheme| scheme.region_of(label.label)).flatten();
        matches!(region, Some(Region::Necrosis | Region::Oedema | Region::Enhancing))
    };
    if !labels.is_empty() && labels.iter().all(is_component) {
        vec![Task::Heal, Task::Components, Task::Mixed, Task::Box]
    } else {
        vec![Task::Heal]
    }
}

/// Sets aside each case that has a scan of another patient; see [`duplicates::find`].
pub fn mark_duplicates(reports: &mut [CaseReport]) {
    let usable: Vec<usize> = (0..reports.len()).filter(|&i| reports[i].usable).collect();
    let seen = usable.iter().map(|&i| &reports[i]).map(|report| Seen {
        case: &report.case,
        patient: &report.patient,
        digests: &report.digests,
    });
    let found = duplicates::find(&seen.collect::<Vec<_>>());
    for (index, problem) in found {
        let report = &mut reports[usable[index]];
        if problem.severity == Severity::Error {
            report.usable = false;
            report.tasks.clear();
        }
        report.problems.push(problem);
        report.problems.sort_by_key(|problem| problem.severity);
    }
}

/// What has been seen of a case while its files are read.
#[derive(Default)]
struct Survey {
    /// The grid of the first file that read.
    grid: Option<FileGeometry>,
    /// The brain in the first scan that read.
    brain: Option<Brain>,
    problems: Vec<Problem>,
    digests: Digests,
}

impl Survey {
    fn scan(&mut self, contrast: Contrast, path: &Path) {
        let Some(volume) = self.read(path) else { return };
        self.digests.insert(contrast, duplicates::digest(&volume));
        let extent = Extent::of(&volume.voxels);
        if extent.max <= 0.0 || extent.max <= extent.min {
            let what = if extent.min == extent.max { "the same value" } else { "0 or less" };
            let problem = Problem::error(Kind::Empty, format!("every voxel is {what}"));
            self.problems.push(problem.in_file(path));
            return;
        }
        if extent.min < 0.0 {
            let note = "negative voxels, which count as background";
            self.problems.push(Problem::note(Kind::Brain, note).in_file(path));
        }
        let brain = Brain::of(&volume);
        match &self.brain {
            None => {
                self.problems.extend(of_brain(&brain).map(|problem| problem.in_file(path)));
                self.brain = Some(brain);
            }
            Some(first) if first.apart(&brain) > BRAINS_APART_MAX => {
                let note = "its brain is not that of the first contrast";
                self.problems.push(Problem::note(Kind::Brain, note).in_file(path));
            }
            Some(_) => {}
        }
    }

    fn segmentation(&mut self, path: &Path, scheme: Option<LabelScheme>) -> Vec<LabelReport> {
        let Some(volume) = self.read(path) else { return Vec::new() };
        let counts = match labels::counts(&volume) {
            Ok(counts) => counts,
            Err(fault) => {
                self.problems.push(Problem::from(fault).in_file(path));
                return Vec::new();
            }
        };
        if let Err(fault) = labels::checked(scheme, &counts) {
            self.problems.push(Problem::from(fault).in_file(path));
        }
        let all: usize = counts.iter().map(|(_, voxels)| voxels).sum();
        if all == 0 {
            let note = "the segmentation is empty, so the whole brain counts as healthy";
            self.problems.push(Problem::note(Kind::Labels, note).in_file(path));
        }
        let outside = self.brain.as_ref().map_or(0, |brain| brain.outside(&volume.voxels));
        if outside as f64 > LESION_OUTSIDE_MAX * all as f64 {
            let percent = 100.0 * outside as f64 / all as f64;
            let detail = format!("{percent:.0} % of the labelled voxels lie outside the brain");
            self.problems.push(Problem::warning(Kind::Labels, detail).in_file(path));
        }
        let voxel_ml = voxel_ml(&volume);
        let report = |(label, voxels): (f32, usize)| LabelReport {
            label,
            meaning: scheme.and_then(|scheme| scheme.meaning(label)),
            voxels,
            ml: voxels as f64 * voxel_ml,
        };
        counts.into_iter().map(report).collect()
    }

    /// A volume on the grid of the case, or a problem more.
    fn read(&mut self, path: &Path) -> Option<Volume> {
        let found = match &self.grid {
            Some(grid) => image::read_like(path, grid),
            None => image::read(path).map(|scan| {
                self.grid = Some(scan.geometry);
                scan.volume
            }),
        };
        found.map_err(|error| self.problems.push(error.into())).ok()
    }
}

fn report_of_grid(geometry: &FileGeometry) -> GridReport {
    let affine = geometry.affine();
    let length = |axis: usize| affine.iter().map(|row| row[axis].powi(2)).sum::<f64>().sqrt();
    GridReport {
        orientation: geometry.axis_codes(),
        dims: geometry.dims(),
        spacing_mm: [0, 1, 2].map(length),
    }
}

fn of_grid(geometry: &FileGeometry, contrasts: usize) -> impl Iterator<Item = Problem> {
    let GridReport { dims, spacing_mm, .. } = report_of_grid(geometry);
    let is_1_mm = spacing_mm.iter().all(|mm| (mm - 1.0).abs() <= BRATS_TOLERANCE_MM);
    let grid = (dims != BRATS_DIMS || !is_1_mm)
        .then(|| Problem::note(Kind::Grid, "not the grid of BraTS (240x240x155 at 1 mm)"));
    let lone = (contrasts == 1).then(|| Problem::note(Kind::NoContrast, "only one contrast"));
    grid.into_iter().chain(lone)
}

fn of_brain(brain: &Brain) -> impl Iterator<Item = Problem> {
    let background = 1.0 - brain.part();
    let stripped = (background < BACKGROUND_MIN).then(|| {
        let percent = 100.0 * background;
        let detail = format!("only {percent:.1} % of the volume is 0: strip the skull first");
        Problem::warning(Kind::Brain, detail)
    });
    let ml = brain.ml();
    let volume = (!BRAIN_ML.contains(&ml)).then(|| {
        let (low, high) = (BRAIN_ML.start(), BRAIN_ML.end());
        let detail = format!("the brain has {ml:.0} mL, {low} to {high} are plausible");
        Problem::warning(Kind::Brain, detail)
    });
    stripped.into_iter().chain(volume)
}

/// The volume of a voxel in millilitres.
fn voxel_ml(volume: &Volume) -> f64 {
    volume.spacing_mm.iter().product::<f64>() / 1000.0
}

#[cfg(test)]
mod fixture_tests;
#[cfg(test)]
mod tests;
