//! Which series of a folder become which file of which case. PURE.
//!
//! Patients, exams and series are called by running numbers of our own and a salted key; what it lists
//! may be shown to anyone at the site.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, Serializer};

use crate::data::dicom::class::{self, Class};
use crate::data::dicom::folder::{Found, Series};
use crate::data::dicom::key::{self, Salt};
use crate::data::dicom::refusal::Refusal;
use crate::data::layout::Contrast;

/// Why an assignment cannot be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No series has the number.
    #[error("there is no series {0}: --list shows their numbers")]
    NoSuchSeries(usize),
    /// The series cannot be read.
    #[error("series {0} has a problem and cannot be assigned: --list shows it")]
    Unusable(usize),
    /// Two series of one exam would be one file.
    #[error("series {0} and {1} are of one exam and are assigned one contrast, choose one")]
    Twice(usize, usize),
    /// Two patients have one key.
    #[error("two patients have one key: remove the salt file and import into an empty folder")]
    Collision,
}

/// A series as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// Its number here, from 1.
    pub number: usize,
    /// The patient's number here, from 1.
    pub patient: usize,
    /// The exam's number, from 1 for the patient's earliest.
    pub exam: usize,
    /// SeriesNumber, by which a human finds it on the scanner or in the archive.
    pub scanner_number: Option<usize>,
    /// The modality's code.
    pub modality: String,
    /// EchoTime in milliseconds.
    pub te_ms: Option<f64>,
    /// RepetitionTime in milliseconds.
    pub tr_ms: Option<f64>,
    /// InversionTime in milliseconds.
    pub ti_ms: Option<f64>,
    /// What it is.
    pub class: Class,
    /// Columns, rows, slices.
    pub dims: Option<[usize; 3]>,
    /// Edge lengths of a voxel along them.
    pub spacing_mm: Option<[f64; 3]>,
    /// Why it cannot be read.
    #[serde(serialize_with = "as_text")]
    pub problem: Option<Refusal>,
}

/// A case to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The folder's name, and what its files' names start with.
    pub name: String,
    /// For each contrast the index of its series.
    pub series: BTreeMap<Contrast, usize>,
}

/// Lists the series of a folder, in their order.
pub fn list(found: &Found) -> Vec<Listed> {
    let mut listed: Vec<Listed> = Vec::with_capacity(found.series.len());
    let mut before: Option<(&Series, usize, usize)> = None;
    for (index, series) in found.series.iter().enumerate() {
        let (first, mut patient, mut exam) = (series.first(), 1, 1);
        if let Some((last, last_patient, last_exam)) = before {
            let same_patient = last.first().patient_id == first.patient_id;
            let same_exam = last.first().study == first.study;
            patient = last_patient + usize::from(!same_patient);
            exam = if same_patient { last_exam + usize::from(!same_exam) } else { 1 };
        }
        before = Some((series, patient, exam));
        listed.push(entry(series, index + 1, patient, exam));
    }
    demote_rivals(&mut listed);
    listed
}

fn entry(series: &Series, number: usize, patient: usize, exam: usize) -> Listed {
    let first = series.first();
    let facts = &first.facts;
    let grid = match &first.patient_id {
        // Without an id exams of one patient could end up on both sides of a split.
        None => Err(Refusal::Attribute("PatientID")),
        Some(_) => series.grid(),
    };
    let is_code =
        facts.modality.len() <= 4 && facts.modality.bytes().all(|b| b.is_ascii_uppercase());
    Listed {
        number,
        patient,
        exam,
        scanner_number: first.series_number,
        modality: if is_code { facts.modality.clone() } else { "other".to_string() },
        te_ms: facts.te_ms,
        tr_ms: facts.tr_ms,
        ti_ms: facts.ti_ms,
        class: class::class(facts),
        dims: grid.as_ref().ok().map(|grid| grid.dims),
        spacing_mm: grid.as_ref().ok().map(|grid| grid.spacing_mm()),
        problem: grid.err(),
    }
}

/// Where one exam has two series of one contrast, which of them to take is not ours to say.
fn demote_rivals(listed: &mut [Listed]) {
    let mut rivals: BTreeMap<(usize, usize, Contrast), Vec<usize>> = BTreeMap::new();
    for (index, entry) in listed.iter().enumerate() {
        if let (Class::Certain(contrast), None) = (&entry.class, &entry.problem) {
            rivals.entry((entry.patient, entry.exam, *contrast)).or_default().push(index);
        }
    }
    for ((.., contrast), indices) in rivals.into_iter().filter(|(_, indices)| indices.len() > 1) {
        let numbers: Vec<String> =
            indices.iter().map(|&index| listed[index].number.to_string()).collect();
        let why = format!("series {} are all {}", numbers.join(" and "), contrast.name());
        indices.iter().for_each(|&index| listed[index].class = Class::Doubtful(why.clone()));
    }
}

/// The cases that the certain and the assigned series make up, ordered by name.
///
/// # Errors
/// An [`Error`] about an assignment, or about keys.
pub fn plan(
    found: &Found,
    listed: &[Listed],
    assigned: &BTreeMap<usize, Contrast>,
    salt: &Salt,
) -> Result<Vec<Planned>, Error> {
    let mut cases: BTreeMap<(usize, usize), BTreeMap<Contrast, usize>> = BTreeMap::new();
    for (&number, &contrast) in assigned {
        let entry = number.checked_sub(1).and_then(|index| listed.get(index));
        let entry = entry.ok_or(Error::NoSuchSeries(number))?;
        if entry.problem.is_some() {
            return Err(Error::Unusable(number));
        }
        let case = cases.entry((entry.patient, entry.exam)).or_default();
        if let Some(other) = case.insert(contrast, number - 1) {
            return Err(Error::Twice(other + 1, number));
        }
    }
    for (index, entry) in listed.iter().enumerate() {
        let Class::Certain(contrast) = entry.class else { continue };
        if entry.problem.is_none() && !assigned.contains_key(&entry.number) {
            // What a human assigned stays.
            let case = cases.entry((entry.patient, entry.exam)).or_default();
            case.entry(contrast).or_insert(index);
        }
    }
    let mut planned = Vec::with_capacity(cases.len());
    let mut keys: BTreeMap<usize, String> = BTreeMap::new();
    for ((patient, exam), series) in cases {
        let Some(index) = series.values().next() else { continue };
        let id = found.series[*index].first().patient_id.clone().unwrap_or_default();
        let key = keys.entry(patient).or_insert_with(|| key::patient(salt, &id));
        planned.push(Planned { name: format!("{key}-{exam:03}"), series });
    }
    if keys.values().collect::<BTreeSet<&String>>().len() != keys.len() {
        return Err(Error::Collision);
    }
    planned.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(planned)
}

fn as_text<S: Serializer>(problem: &Option<Refusal>, to: S) -> Result<S::Ok, S::Error> {
    problem.as_ref().map(ToString::to_string).serialize(to)
}
