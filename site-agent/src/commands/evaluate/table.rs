//! An evaluation for people: a line per scan and method, per patient where a patient has several
//! scans, and per method overall.

use comfy_table::{Table, presets};

use super::Evaluation;
use crate::evaluate::report::{MethodScores, OverallScores};
use crate::metrics::spread::Spread;

pub(super) fn of(evaluation: &Evaluation<'_>) -> String {
    let mut scores = bordered();
    scores.set_header(["case", "contrast", "method", "SSIM", "SSIM 3-D", "PSNR dB", "MSE"]);
    for scan in evaluation.scans {
        for row in &scan.methods {
            scores.add_row(line(&scan.case, scan.contrast.name(), row));
        }
    }
    for patient in evaluation.patients.iter().filter(|patient| patient.scans > 1) {
        let name = format!("patient {}", patient.patient);
        for row in &patient.methods {
            scores.add_row(line(&name, "all", row));
        }
    }
    let mut overall = bordered();
    overall.set_header(["method", "SSIM", "SSIM 3-D", "PSNR dB", "MSE"]);
    for OverallScores { method, scores } in evaluation.overall {
        overall.add_row([
            (*method).to_owned(),
            told(&scores.ssim, 4),
            told(&scores.ssim_3d, 4),
            told(&scores.psnr_01, 2),
            told(&scores.mse, 5),
        ]);
    }
    let site = evaluation.site.map_or(String::new(), |site| format!(" of {site}"));
    let patients = evaluation.patients.len();
    format!(
        "{scores}\nOver {patients} patients{site}: mean, standard deviation, 95 % interval of the \
         mean (bootstrap over patients)\n{overall}"
    )
}

fn bordered() -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table
}

fn line(name: &str, contrast: &str, row: &MethodScores) -> [String; 7] {
    let MethodScores { method, scores } = row;
    [
        name.to_owned(),
        contrast.to_owned(),
        (*method).to_owned(),
        format!("{:.4}", scores.ssim),
        format!("{:.4}", scores.ssim_3d),
        format!("{:.2}", scores.psnr_01),
        format!("{:.5}", scores.mse),
    ]
}

fn told(spread: &Spread, digits: usize) -> String {
    let Spread { mean, sd, interval_95 } = spread;
    let text = format!("{mean:.digits$} ± {sd:.digits$}");
    match interval_95 {
        Some([low, high]) => format!("{text} [{low:.digits$}, {high:.digits$}]"),
        None => text,
    }
}
