//! What the coordinator publishes is the weighted mean, whoever comes first.

use std::collections::BTreeMap;
use std::path::Path;

use fedpaint_proto::names::{Blob, Digest};
use fedpaint_proto::v1;
use fedpaint_tests::fake_site::FakeSite;
use fedpaint_tests::lab::Lab;
use fedpaint_tests::models;

use crate::plan;

/// The examples each site claims.
const EXAMPLES: [(&str, u64); 3] = [("alpha", 10), ("beta", 700), ("gamma", 33)];

fn weight(site: usize, tensor: usize, element: usize) -> f32 {
    let x = (site * 7919 + tensor * 104_729 + element * 31) as f32;
    (x * 0.013).sin() * 10_f32.powi(site as i32 - 1)
}

type Tensors = BTreeMap<String, Vec<f32>>;

/// One round of three fake sites that report in `order`; the global model's blob, its tensors and
/// those of the moving average.
async fn round(folder: &Path, order: [usize; 3]) -> (Blob, Tensors, Tensors) {
    let lab = Lab::start(folder).unwrap();
    let base_file = folder.join("base.safetensors");
    let base = models::write(&base_file, models::specs(), |t, i| weight(9, t, i)).unwrap();
    lab.create_run("brain", &plan(1, 3, 3, ""), &base_file, base).await.unwrap();
    let mut sites = Vec::new();
    for site in order {
        let mut fake = FakeSite::enroll(&lab, EXAMPLES[site].0).await.unwrap();
        fake.join().await.unwrap();
        sites.push((site, fake));
    }
    for (site, fake) in &mut sites {
        let train = fake.task().await.unwrap();
        let (reference, round) = (train.base_model.unwrap(), train.round.unwrap());
        assert_eq!(Blob::try_from(&reference).unwrap(), base);
        let file = folder.join(format!("update-{site}"));
        let update = models::write(&file, models::specs(), |t, i| weight(*site, t, i)).unwrap();
        fake.upload(&round, update, &file).await.unwrap();
        fake.submit(&round, base.digest, update, EXAMPLES[*site].1).await.unwrap();
    }
    let committed = v1::RunState::Finished;
    let (run, _) = lab.watch("brain", |run, _| run.state() == committed).await.unwrap();
    let published = Blob::try_from(&run.model.unwrap()).unwrap();
    let file = folder.join("global.safetensors");
    lab.fedctl(&["model", "export", "brain", "--out", &file.display().to_string()]).unwrap();
    assert_eq!(Digest::of(&std::fs::read(&file).unwrap()), published.digest);
    let ema = folder.join("ema.safetensors");
    lab.fedctl(&["model", "export", "brain", "--ema", "--out", &ema.display().to_string()])
        .unwrap();
    (published, models::read(&file).unwrap(), models::read(&ema).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_published_models_are_the_mean_and_its_average_for_every_arrival_order_to_the_byte() {
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let (mut blobs, mut averages) = (Vec::new(), Vec::new());
    for order in orders {
        let folder = tempfile::tempdir().unwrap();
        let (blob, tensors, ema) = round(folder.path(), order).await;
        assert_weighted_mean(&tensors, |_, _, mean| mean);
        // The first moving average is a tenth of the initial model and nine tenths of the mean.
        assert_weighted_mean(&ema, |t, i, mean| 0.1 * f64::from(weight(9, t, i)) + 0.9 * mean);
        blobs.push(blob);
        averages.push(ema);
    }
    assert!(blobs.iter().all(|blob| *blob == blobs[0]), "{blobs:?}");
    assert!(averages.iter().all(|average| *average == averages[0]));
}

/// The mean computed another way, shares first, then their sum, and what is `made_of` it at a place.
fn assert_weighted_mean(tensors: &Tensors, made_of: impl Fn(usize, usize, f64) -> f64) {
    let total: f64 = EXAMPLES.iter().map(|(_, n)| *n as f64).sum();
    for (t, spec) in models::specs().iter().enumerate() {
        let values = &tensors[&spec.name];
        assert_eq!(values.len(), spec.len());
        for (i, value) in values.iter().enumerate() {
            let terms = EXAMPLES.iter().enumerate();
            let mean: f64 =
                terms.map(|(s, (_, n))| f64::from(weight(s, t, i)) * (*n as f64 / total)).sum();
            let expected = made_of(t, i, mean);
            let error = (f64::from(*value) - expected).abs() / expected.abs().max(1e-6);
            assert!(error <= 1e-6, "{} {i}: {value} instead of {expected}", spec.name);
        }
    }
}
