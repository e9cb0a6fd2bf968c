//! What an evaluation found: per scan, per patient, overall. Every row says every metric of every
//! method.
//!
//! Scan and patient rows name cases and stay at the site; the overall rows name nobody.

use serde::Serialize;

use crate::data::layout::Contrast;
use crate::metrics::spread::{Resamples, Spread, spread};
use crate::metrics::{PerMetric, Scores};

/// The method that is judged.
pub const MODEL: &str = "model";

/// The baseline that is the same network without diffusion.
pub const TWIN: &str = "regression";

/// What a method scored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MethodScores {
    /// [`MODEL`], [`TWIN`], or a baseline's name.
    pub method: &'static str,
    /// Its scores.
    #[serde(flatten)]
    pub scores: Scores,
}

/// The scores of one scan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScanScores {
    /// The case.
    pub case: String,
    /// Whose it is.
    pub patient: String,
    /// Which of its scans.
    pub contrast: Contrast,
    /// Voxels scored.
    pub voxels: u64,
    /// Every method, in the same order for every scan.
    pub methods: Vec<MethodScores>,
}

/// A case, or a scan of one, that is not judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotJudged {
    /// The case.
    pub case: String,
    /// Which of its scans; none for all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contrast: Option<Contrast>,
    /// Why.
    pub reason: String,
}

/// The means over the scans of one patient.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PatientScores {
    /// The patient.
    pub patient: String,
    /// Scans.
    pub scans: usize,
    /// Every method.
    pub methods: Vec<MethodScores>,
}

/// A method's scores over patients, each of whom counts once.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OverallScores {
    /// The method.
    pub method: &'static str,
    /// Mean, standard deviation and interval of each metric.
    #[serde(flatten)]
    pub scores: PerMetric<Spread>,
}

/// The model in a line: means over scans, each of which counts once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MeanScores {
    /// Scans.
    pub scans: usize,
    /// Structural similarity in 2-D windows.
    pub ssim: f64,
    /// Peak signal-to-noise ratio over a range of 1, in dB.
    pub psnr_db: f64,
    /// Mean squared error.
    pub mse: f64,
    /// Mean squared error of filling with the mean of the brain; none if that was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mse_mean_fill: Option<f64>,
}

/// The patients of some scans, in the order in which they come first.
pub fn patients(scans: &[ScanScores]) -> Vec<PatientScores> {
    let mut names: Vec<&str> = Vec::new();
    for scan in scans {
        if !names.contains(&scan.patient.as_str()) {
            names.push(&scan.patient);
        }
    }
    let of_patient = |name: &str| {
        let theirs: Vec<&[MethodScores]> =
            scans.iter().filter(|s| s.patient == name).map(|s| s.methods.as_slice()).collect();
        let methods = columns(&theirs)
            .map(|(method, column)| {
                let mean = |of: fn(&Scores) -> f64| mean(column.iter().map(|scores| of(scores)));
                MethodScores { method, scores: Scores::each(mean) }
            })
            .collect();
        PatientScores { patient: name.to_owned(), scans: theirs.len(), methods }
    };
    names.into_iter().map(of_patient).collect()
}

/// Every method over all patients.
pub fn overall(patients: &[PatientScores]) -> Vec<OverallScores> {
    let resamples = Resamples::of(patients.len());
    let rows: Vec<&[MethodScores]> = patients.iter().map(|p| p.methods.as_slice()).collect();
    columns(&rows)
        .map(|(method, column)| {
            let scores = PerMetric::each(|of| {
                let values: Vec<f64> = column.iter().map(|scores| of(scores)).collect();
                spread(&values, &resamples)
            });
            OverallScores { method, scores }
        })
        .collect()
}

/// The model in a line; none where no model was judged.
pub fn in_a_line(scans: &[ScanScores]) -> Option<MeanScores> {
    let rows: Vec<&[MethodScores]> = scans.iter().map(|s| s.methods.as_slice()).collect();
    let mean_of = |name: &str, of: fn(&Scores) -> f64| {
        let (_, column) = columns(&rows).find(|(method, _)| *method == name)?;
        Some(mean(column.iter().map(|scores| of(scores))))
    };
    Some(MeanScores {
        scans: scans.len(),
        ssim: mean_of(MODEL, |s| s.ssim)?,
        psnr_db: mean_of(MODEL, |s| s.psnr_01)?,
        mse: mean_of(MODEL, |s| s.mse)?,
        mse_mean_fill: mean_of("mean", |s| s.mse),
    })
}

/// Each method with its scores in every row.
fn columns<'a>(
    rows: &'a [&'a [MethodScores]],
) -> impl Iterator<Item = (&'static str, Vec<&'a Scores>)> {
    let first = rows.first().copied().unwrap_or_default();
    first
        .iter()
        .enumerate()
        .map(|(index, first)| (first.method, rows.iter().map(|row| &row[index].scores).collect()))
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}

#[cfg(test)]
mod tests {
    use super::{MODEL, MethodScores, ScanScores, in_a_line, overall, patients};
    use crate::data::layout::Contrast;
    use crate::metrics::Scores;

    /// A scan on which the model scores `value` by every metric, and the mean fill twice that.
    fn scan(patient: &str, contrast: Contrast, value: f64) -> ScanScores {
        let row = |method, value| MethodScores { method, scores: Scores::each(|_| value) };
        let methods = vec![row(MODEL, value), row("mean", 2.0 * value)];
        let (case, patient) = (format!("{patient}-000"), patient.to_owned());
        ScanScores { case, patient, contrast, voxels: 9, methods }
    }

    fn scans() -> Vec<ScanScores> {
        vec![
            scan("b", Contrast::T1n, 1.0),
            scan("b", Contrast::T2f, 3.0),
            scan("a", Contrast::T1n, 8.0),
            scan("c", Contrast::T1n, 5.0),
        ]
    }

    #[test]
    fn a_patient_is_the_mean_of_their_scans_and_overall_each_patient_counts_once() {
        let patients = patients(&scans());
        let names: Vec<&str> = patients.iter().map(|p| p.patient.as_str()).collect();
        assert_eq!(names, ["b", "a", "c"]);
        assert_eq!((patients[0].scans, patients[0].methods[0].scores.mse), (2, 2.0));
        assert_eq!(patients[0].methods[1].scores.ssim_3d, 4.0);
        let overall = overall(&patients);
        assert_eq!((overall[0].method, overall[1].method), (MODEL, "mean"));
        assert_eq!(overall[0].scores.psnr.mean, 5.0);
        assert_eq!(overall[0].scores.mae.sd, 6_f64.sqrt());
        let [low, high] = overall[1].scores.mse.interval_95.unwrap();
        assert!((4.0..10.0).contains(&low) && 10.0 < high && high <= 16.0);
    }

    #[test]
    fn in_a_line_each_scan_counts_once_and_there_is_none_without_a_model() {
        let line = in_a_line(&scans()).unwrap();
        assert_eq!((line.scans, line.ssim, line.mse_mean_fill), (4, 4.25, Some(8.5)));
        let mut scans = scans();
        scans.iter_mut().for_each(|scan| scan.methods.truncate(1));
        assert_eq!(in_a_line(&scans).unwrap().mse_mean_fill, None);
        scans.iter_mut().for_each(|scan| scan.methods.clear());
        assert_eq!(in_a_line(&scans), None);
    }

    #[test]
    fn the_overall_rows_say_every_metric_and_name_nobody() {
        let json = serde_json::to_value(overall(&patients(&scans()))).unwrap();
        let row = json[0].as_object().unwrap();
        let mut keys: Vec<&str> = row.keys().map(String::as_str).collect();
        keys.sort_unstable();
        let expected =
            ["mae", "method", "mse", "msle", "psnr", "psnr_01", "rmse", "ssim", "ssim_3d"];
        assert_eq!(keys, expected);
        assert!(row["mse"]["interval_95"][0].is_f64());
    }
}
