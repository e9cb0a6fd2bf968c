//! What the tests of this crate share.

use std::collections::BTreeMap;
use std::path::Path;

use fedpaint_proto::names::{Blob, Digest};
use fedpaint_proto::plan::{RoundPlan, RunPlan};
use fedpaint_proto::weights::{Dtype, ModelWriter, TensorSpec};
use jiff::Timestamp;

/// When every test begins.
pub(crate) const START: Timestamp = Timestamp::UNIX_EPOCH;

/// A blob that is not on any disk.
pub(crate) fn blob(text: &str) -> Blob {
    Blob { digest: Digest::of(text.as_bytes()), size: text.len() as u64 }
}

/// A plan of `rounds` rounds with at least `sites_min` sites and at most three: 100 s of selection,
/// 1,000 s of reporting, three failures.
pub(crate) fn plan(rounds: u32, sites_min: u32) -> RunPlan {
    let mut plan = RunPlan::from_toml(&format!("version = 1\nrounds = {rounds}")).unwrap();
    plan.round = RoundPlan {
        sites_min,
        sites_goal: 3,
        selection_s: 100,
        reporting_s: 1000,
        failures_max: 3,
        ..RoundPlan::default()
    };
    plan
}

/// Writes a model of vectors.
pub(crate) fn write_model(path: &Path, tensors: &[(&str, &[f32])]) -> Blob {
    let spec = |(name, values): &(&str, &[f32])| TensorSpec {
        name: (*name).to_owned(),
        dtype: Dtype::F32,
        shape: vec![values.len()],
    };
    let description = BTreeMap::from([("fedpaint.model".to_owned(), "{}".to_owned())]);
    let specs = tensors.iter().map(spec).collect();
    let mut writer = ModelWriter::create(path, specs, &description).unwrap();
    for (_, values) in tensors {
        writer.write(values).unwrap();
    }
    writer.finish().unwrap()
}

/// A small seeded generator (splitmix64, Steele et al. 2014), so that a failing history is told by
/// one number.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// A number below `n`.
    pub(crate) fn roll(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}
