//! What the kernels' tests share: drawn values, PyTorch's results, derivatives in f64.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use safetensors::SafeTensors;

/// Values between -2 and 2 that the seed names.
pub(crate) fn draw(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-2.0_f32..2.0)).collect()
}

/// The same in f64.
pub(crate) fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// At most `count` positions in `0..len`, spread over all of it.
pub(crate) fn some_of(len: usize, count: usize) -> impl Iterator<Item = usize> {
    let step = len.div_ceil(count).max(1);
    (0..len).step_by(step).enumerate().map(move |(k, at)| (at + k % step).min(len - 1))
}

/// df / dx[at], by central differences.
pub(crate) fn derivative(f: impl Fn(&[f64]) -> f64, x: &[f64], at: usize) -> f64 {
    const H: f64 = 1e-5;
    let moved = |by: f64| {
        let mut x = x.to_vec();
        x[at] += by;
        f(&x)
    };
    (moved(H) - moved(-H)) / (2.0 * H)
}

pub(crate) fn dot(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, &b)| a * f64::from(b)).sum()
}

/// Whether every value is within `tolerance` of what it should be, relative to the largest if that
/// is above 1.
#[track_caller]
pub(crate) fn assert_close(name: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let largest = expected.iter().fold(1.0_f64, |largest, value| largest.max(value.abs()));
    for (i, (&found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs();
        assert!(error <= tolerance * largest, "{name}[{i}] is {found}, should be {expected}");
    }
}

/// What `run` gives on 1, 2 and 7 threads; it must be the same to the bit.
#[track_caller]
pub(crate) fn assert_same_on_any_threads(run: impl Fn() -> Vec<f32> + Send + Sync) {
    let bits = [1, 2, 7].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(&run).into_iter().map(f32::to_bits).collect::<Vec<_>>()
    });
    assert!(bits[0].iter().any(|&bits| bits != 0), "there is something to compare");
    assert_eq!(bits[0], bits[1]);
    assert_eq!(bits[0], bits[2]);
}

/// The results of `tests/reference/cpu_ops.py`.
pub(crate) struct Golden(&'static [u8]);

impl Golden {
    pub(crate) fn read() -> Golden {
        Golden(include_bytes!("../../tests/fixtures/model/cpu_ops.safetensors"))
    }

    /// The values and the shape of a tensor.
    pub(crate) fn tensor(&self, name: &str) -> (Vec<f32>, Vec<usize>) {
        let file = SafeTensors::deserialize(self.0).unwrap();
        let view = file.tensor(name).unwrap();
        let values = view.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
        (values.collect(), view.shape().to_vec())
    }

    /// The values of a tensor.
    pub(crate) fn values(&self, name: &str) -> Vec<f32> {
        self.tensor(name).0
    }
}
