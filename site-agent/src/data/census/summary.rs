//! A cohort in numbers. Pure: reports in, counts out.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::data::census::{CaseReport, GridReport, Task};
use crate::data::layout::{Contrast, Discovery};
use crate::data::problem::{Problem, Severity};

/// A whole data folder, as `data check --output json` prints it. Its names may not leave the site.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Census {
    /// The folder in numbers.
    pub summary: Summary,
    /// Every case that is used or whose files were read, by name.
    pub cases: Vec<CaseReport>,
    /// Every case that is not used, with the reason, by name.
    pub set_aside: Vec<SetAsideReport>,
}

/// A case that is not used and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SetAsideReport {
    /// The case's name.
    pub case: String,
    /// Why.
    #[serde(flatten)]
    pub problem: Problem,
}

/// A data folder in numbers. Everything but `set_aside` and `problems` counts usable cases only.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Patients.
    pub patients: usize,
    /// Exams, which are cases.
    pub exams: usize,
    /// Cases that are not used.
    pub set_aside: usize,
    /// NIfTI files that belong to no case by their names.
    pub files_passed_over: usize,
    /// Cases with each contrast.
    pub contrasts: BTreeMap<Contrast, usize>,
    /// Cases with a segmentation.
    pub segmented: usize,
    /// Cases by the orientation of their files.
    pub orientations: BTreeMap<String, usize>,
    /// Cases by their grid, as in `240x240x155 at 1x1x1 mm`.
    pub grids: BTreeMap<String, usize>,
    /// The brains' volumes.
    pub brain_ml: Option<Range>,
    /// Labels by number.
    pub labels: BTreeMap<String, LabelSummary>,
    /// Cases that can train each task.
    pub tasks: BTreeMap<Task, usize>,
    /// Problems by severity.
    pub problems: ProblemCounts,
    /// Cases by the kind of what set them aside.
    pub set_aside_by_kind: BTreeMap<&'static str, usize>,
    /// Cases by the kind and wording of a note.
    pub notes: BTreeMap<String, usize>,
}

/// The smallest, the middle and the largest of some numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Range {
    /// The smallest.
    pub min: f64,
    /// The middle.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

/// One label in a whole cohort.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LabelSummary {
    /// What it means, where all cases agree.
    pub meaning: Option<&'static str>,
    /// Cases that have it.
    pub cases: usize,
    /// Its volume in all cases together.
    pub ml: f64,
}

/// How many problems there are, those of cases that are set aside included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProblemCounts {
    /// Problems that set a case aside.
    pub error: usize,
    /// Problems that somebody should look at.
    pub warning: usize,
    /// Facts worth knowing.
    pub note: usize,
}

impl Census {
    /// The census of what was discovered and, in the same order as its cases, surveyed.
    pub fn new(discovery: &Discovery, cases: Vec<CaseReport>) -> Census {
        let found = discovery.set_aside.iter().map(|aside| SetAsideReport {
            case: aside.case.clone(),
            problem: aside.problem.clone(),
        });
        let read = cases.iter().filter(|case| !case.usable).filter_map(|case| {
            let problem = case.problems.first()?.clone();
            Some(SetAsideReport { case: case.case.clone(), problem })
        });
        let mut set_aside: Vec<SetAsideReport> = found.chain(read).collect();
        set_aside.sort_by(|a, b| a.case.cmp(&b.case));
        let summary = summary(discovery, &cases, &set_aside);
        Census { summary, cases, set_aside }
    }
}

/// A grid as people write it.
pub fn grid_text(grid: &GridReport) -> (String, String) {
    let [x, y, z] = grid.dims;
    let mm = grid.spacing_mm.map(|mm| (mm * 100.0).round() / 100.0);
    (format!("{x}x{y}x{z}"), format!("{}x{}x{}", mm[0], mm[1], mm[2]))
}

fn summary(discovery: &Discovery, cases: &[CaseReport], set_aside: &[SetAsideReport]) -> Summary {
    let usable: Vec<&CaseReport> = cases.iter().filter(|case| case.usable).collect();
    let patients: BTreeSet<&str> = usable.iter().map(|case| case.patient.as_str()).collect();
    let mut summary = Summary {
        patients: patients.len(),
        exams: usable.len(),
        set_aside: set_aside.len(),
        files_passed_over: discovery.files_passed_over,
        brain_ml: range(usable.iter().filter_map(|case| case.brain_ml).collect()),
        ..Summary::default()
    };
    for case in &usable {
        count(&mut summary.contrasts, case.contrasts.iter().copied());
        count(&mut summary.tasks, case.tasks.iter().copied());
        summary.segmented += usize::from(case.label_scheme.is_some());
        if let Some(grid) = &case.grid {
            let (dims, mm) = grid_text(grid);
            count(&mut summary.orientations, [grid.orientation.clone()]);
            count(&mut summary.grids, [format!("{dims} at {mm} mm")]);
        }
        for label in &case.labels {
            let first = LabelSummary { meaning: label.meaning, ..LabelSummary::default() };
            let all = summary.labels.entry(label.label.to_string()).or_insert(first);
            all.meaning = all.meaning.filter(|&meaning| label.meaning == Some(meaning));
            all.cases += 1;
            all.ml += label.ml;
        }
        let notes = case.problems.iter().filter(|problem| problem.severity == Severity::Note);
        let notes: BTreeSet<&str> = notes.map(|note| note.detail.as_str()).collect();
        count(&mut summary.notes, notes.into_iter().map(str::to_owned));
    }
    let asides = discovery.set_aside.iter().map(|aside| &aside.problem);
    for problem in cases.iter().flat_map(|case| &case.problems).chain(asides) {
        match problem.severity {
            Severity::Error => summary.problems.error += 1,
            Severity::Warning => summary.problems.warning += 1,
            Severity::Note => summary.problems.note += 1,
        }
    }
    let kinds = set_aside.iter().map(|aside| aside.problem.kind.name());
    count(&mut summary.set_aside_by_kind, kinds);
    summary
}

fn count<K: Ord>(counts: &mut BTreeMap<K, usize>, keys: impl IntoIterator<Item = K>) {
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
}

fn range(mut values: Vec<f64>) -> Option<Range> {
    values.sort_by(f64::total_cmp);
    let (min, max) = (*values.first()?, *values.last()?);
    // Of an even number, the mean of the two in the middle.
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    Some(Range { min, median: f64::midpoint(low, high), max })
}
