//! What healthy masks cost at full BraTS size: making a room, drawing blobs, bank shapes and official
//! masks. One core, phantom patients; it reads no file.

use std::sync::Arc;
use std::time::Instant;

use fedpaint_site_agent::data::mask::bank::Bank;
use fedpaint_site_agent::data::mask::{Masks, Mode, Room, TRAINING_DIAMETER_MM};
use fedpaint_site_agent::data::stream::stream;
use fedpaint_site_agent::data::volume::Volume;
use fedpaint_site_agent::phantom::anatomy::Template;
use fedpaint_site_agent::phantom::patient_images;
use fedpaint_site_agent::phantom::scanner::Scanner;
use fedpaint_site_agent::phantom::seed::PatientSeed;

/// Patients whose tumours make the bank.
const PATIENTS: u64 = 3;

/// Draws of each kind per patient.
const DRAWS: usize = 40;

/// Times every step on each patient and returns the medians in milliseconds.
pub(crate) fn run(_args: &[String]) -> serde_json::Value {
    let cases: Vec<(Volume, Volume)> = (0..PATIENTS).map(patient).collect();
    let mut times = [const { Vec::new() }; 7];
    let mut shapes = Vec::new();
    for (image, segmentation) in &cases {
        let Ok(room) = Room::new(image, |i| segmentation.voxels[i] > 0.0) else { continue };
        shapes.extend(timed(&mut times[0], || room.shapes(Mode::Corrected)));
    }
    let count = shapes.len();
    let bytes: usize = shapes.iter().map(|shape| shape.to_bytes().len()).sum();
    let bank = Bank::new(shapes).map(Arc::new);
    for (image, segmentation) in &cases {
        for _ in 0..3 {
            let _ = timed(&mut times[1], || Room::new(image, |i| segmentation.voxels[i] > 0.0));
        }
        let Ok(room) = Room::new(image, |i| segmentation.voxels[i] > 0.0) else { continue };
        let bytes = room.to_bytes();
        let _ = timed(&mut times[6], || Room::from_bytes(&bytes));
        let mut rng = stream("benchmark", &[]);
        let masks = Masks { mode: Mode::Corrected, bank: bank.clone() };
        for _ in 0..DRAWS {
            let _ = timed(&mut times[2], || room.draw(TRAINING_DIAMETER_MM, &mut rng));
            let _ =
                timed(&mut times[3], || room.draw_training(&masks, TRAINING_DIAMETER_MM, &mut rng));
        }
        let Some(bank) = &bank else { continue };
        for _ in 0..DRAWS {
            let _ = timed(&mut times[4], || room.draw_shape(bank, Mode::Corrected, &mut rng));
        }
        for _ in 0..3 {
            let _ = timed(&mut times[5], || room.draw_shape(bank, Mode::Compat, &mut rng));
        }
    }
    let names =
        ["shapes", "room", "blob", "training", "shape_corrected", "shape_compat", "room_read"];
    let mut result = serde_json::json!({
        "patients": PATIENTS, "shapes": count, "shape_bytes": bytes.checked_div(count),
    });
    for (name, mut times) in names.into_iter().zip(times) {
        times.sort_by(f64::total_cmp);
        let mean = times.iter().sum::<f64>() / times.len().max(1) as f64;
        result[format!("{name}_median_ms")] = times.get(times.len() / 2).copied().into();
        result[format!("{name}_mean_ms")] = mean.into();
    }
    result
}

/// A patient of scanner A at 1 mm: T1 and segmentation.
fn patient(patient: u64) -> (Volume, Volume) {
    // The template is built in, so it can be read.
    let template = Template::new().unwrap_or_else(|fault| unreachable!("{fault}"));
    let seed = PatientSeed { cohort: 1, scanner: 'A', patient };
    let images = patient_images(&template, &Scanner::A.protocol(), 1.0, &seed);
    let [t1, ..] = images.contrasts;
    (t1, images.segmentation)
}

/// Runs `work` and notes how many milliseconds it took.
fn timed<T>(times: &mut Vec<f64>, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    times.push(start.elapsed().as_secs_f64() * 1e3);
    result
}
