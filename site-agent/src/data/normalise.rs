//! Intensities to the model's range and back: percentiles of the voided volume, as the BraTS
//! inpainting metrics normalise, so that a masked error of the model is 4 x the official one.
//!
//! It never looks at a voxel that is to be painted: at inference nobody has it.

/// The lower percentile of the window, as a fraction.
pub const LOW_FRACTION: f64 = 0.005;

/// The upper percentile of the window, as a fraction.
pub const HIGH_FRACTION: f64 = 0.995;

/// The intensities that are mapped to -1 and 1; what lies beyond is clipped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// max(p0.5, 0), mapped to -1.
    pub low: f64,
    /// p99.5, mapped to 1.
    pub high: f64,
}

/// Why a volume has no window.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    /// There is no voxel at all.
    #[error("the volume has no voxels")]
    Empty,
    /// A voxel is NaN or infinite.
    #[error("the volume has a voxel that is not a finite number: repair the scan")]
    NotFinite,
    /// The percentiles coincide, so there is nothing to stretch.
    #[error(
        "the volume has no contrast (p0.5 and p99.5 are both {value}): give a scan whose brain is \
         brighter than its background"
    )]
    Flat {
        /// Both percentiles.
        value: f64,
    },
}

impl Window {
    /// The window of a voided volume: max(p0.5, 0) and p99.5 over all of its voxels, background
    /// included, interpolated linearly between ranks as numpy does. A negative voxel counts as 0.
    ///
    /// # Errors
    /// [`Error`] if the volume is empty, flat or not finite.
    pub fn of(voided: impl IntoIterator<Item = f32>) -> Result<Window, Error> {
        let (mut positive, voxels) = positive_of(voided.into_iter())?;
        if voxels == 0 {
            return Err(Error::Empty);
        }
        let zeros = voxels - positive.len();
        let low = percentile(&mut positive, zeros, LOW_FRACTION);
        let high = percentile(&mut positive, zeros, HIGH_FRACTION);
        Window::between(low, high)
    }

    /// The window between two percentiles.
    ///
    /// # Errors
    /// [`Error::Flat`] if they coincide.
    pub(crate) fn between(low: f64, high: f64) -> Result<Window, Error> {
        if high > low { Ok(Window { low, high }) } else { Err(Error::Flat { value: high }) }
    }

    /// The intensity as a fraction of the window, clipped to [0, 1].
    pub fn to_unit(&self, intensity: f32) -> f64 {
        // Unlike `clamp`, these are one instruction each and can be done for several voxels at once.
        let within = f64::from(intensity).max(self.low).min(self.high);
        (within - self.low) / (self.high - self.low)
    }

    /// The intensity in the model's range, clipped to [-1, 1].
    pub fn to_model(&self, intensity: f32) -> f32 {
        (2.0 * self.to_unit(intensity) - 1.0) as f32
    }

    /// The intensity that the model's `value` stands for; the inverse of [`Window::to_model`].
    pub fn from_model(&self, value: f32) -> f32 {
        ((f64::from(value) + 1.0) / 2.0 * (self.high - self.low) + self.low) as f32
    }
}

/// Voxels that are looked at in one go.
const BLOCK: usize = 1024;

/// The positive values of `voxels`, in order, and how many voxels there are. Most are background, so
/// that only the positive ones have to be ordered. There is no branch per voxel: a brain's border is
/// unpredictable, and this sees every voxel of every scan.
fn positive_of(mut voxels: impl Iterator<Item = f32>) -> Result<(Vec<f32>, usize), Error> {
    let mut positive = Vec::new();
    let mut count = 0;
    loop {
        let (mut block, mut kept, mut seen, mut all_finite) = ([0.0; BLOCK], 0, 0, true);
        for voxel in voxels.by_ref().take(BLOCK) {
            block[kept % BLOCK] = voxel;
            kept += usize::from(voxel > 0.0);
            seen += 1;
            all_finite &= voxel.is_finite();
        }
        if !all_finite {
            return Err(Error::NotFinite);
        }
        positive.extend_from_slice(&block[..kept]);
        count += seen;
        if seen < BLOCK {
            return Ok((positive, count));
        }
    }
}

/// The percentile at `fraction` of `zeros` zeros followed by the `positive` values, which are
/// reordered. There must be at least one value.
fn percentile(positive: &mut [f32], zeros: usize, fraction: f64) -> f64 {
    let rank = Rank::of(fraction, zeros + positive.len());
    if rank.above < zeros {
        return 0.0;
    }
    let (value_below, value_above) = if rank.below < zeros {
        (0.0, positive.iter().copied().fold(f32::INFINITY, f32::min))
    } else {
        let (_, value, rest) = positive.select_nth_unstable_by(rank.below - zeros, f32::total_cmp);
        (*value, rest.iter().copied().fold(f32::INFINITY, f32::min))
    };
    rank.between(value_below, value_above)
}

/// Where a percentile lies among sorted values: between two ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rank {
    /// The lower rank, from 0.
    pub(crate) below: usize,
    /// The upper rank; the lower one at the very end.
    pub(crate) above: usize,
    position: f64,
}

impl Rank {
    /// The ranks around the percentile at `fraction` of `count` values (at least one).
    pub(crate) fn of(fraction: f64, count: usize) -> Rank {
        let last = count - 1;
        let position = fraction * last as f64;
        let below = (position.floor() as usize).min(last);
        Rank { below, above: (below + 1).min(last), position }
    }

    /// The percentile, given the values at the two ranks.
    pub(crate) fn between(self, value_below: f32, value_above: f32) -> f64 {
        let value_below = f64::from(value_below);
        let value_above =
            if self.above == self.below { value_below } else { f64::from(value_above) };
        value_below + (value_above - value_below) * (self.position - self.below as f64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Error, Window};

    #[test]
    fn the_window_is_numpys_linear_percentiles() {
        // numpy.percentile(numpy.arange(1, 1001) ** 2 / 7, [.5, 99.5]).
        let squares = (1..=1000).map(|i| (f64::from(i * i) / 7.0) as f32);
        let window = Window::of(squares).unwrap();
        assert!((window.low - 5.135).abs() < 1e-5, "{window:?}");
        assert!((window.high - 141_433.565).abs() < 2e-2, "{window:?}");
    }

    #[test]
    fn background_counts_and_negative_voxels_count_as_background() {
        // numpy.percentile([0] * 300 + list(range(1, 101)), 99.5) = 98.005.
        let zeros = std::iter::repeat_n(0.0, 200).chain(std::iter::repeat_n(-136.0, 100));
        let window = Window::of(zeros.chain((1..=100).map(|i| i as f32))).unwrap();
        assert_eq!(window.low, 0.0);
        assert!((window.high - 98.005).abs() < 1e-9, "{window:?}");
    }

    #[test]
    fn a_flat_an_empty_and_a_broken_volume_are_refused() {
        assert_eq!(Window::of([]), Err(Error::Empty));
        assert_eq!(Window::of([7.0; 9]), Err(Error::Flat { value: 7.0 }));
        assert_eq!(Window::of([0.0; 9]), Err(Error::Flat { value: 0.0 }));
        assert_eq!(Window::of([1.0, f32::NAN]), Err(Error::NotFinite));
        assert_eq!(Window::of([1.0, f32::INFINITY]), Err(Error::NotFinite));
        assert_eq!(Window::of([1.0, f32::NEG_INFINITY]), Err(Error::NotFinite));
    }

    proptest! {
        #[test]
        fn the_percentiles_are_those_of_the_sorted_volume(
            voxels in proptest::collection::vec(-5.0f32..100.0, 2..400),
        ) {
            let mut sorted: Vec<f64> = voxels.iter().map(|&v| f64::from(v.max(0.0))).collect();
            sorted.sort_by(f64::total_cmp);
            let at = |fraction: f64| {
                let position = fraction * (sorted.len() - 1) as f64;
                let below = position.floor() as usize;
                let above = (below + 1).min(sorted.len() - 1);
                sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64)
            };
            if let Ok(window) = Window::of(voxels) {
                prop_assert!((window.low - at(0.005)).abs() < 1e-9);
                prop_assert!((window.high - at(0.995)).abs() < 1e-9);
            } else {
                prop_assert_eq!(at(0.005), at(0.995));
            }
        }

        #[test]
        fn an_intensity_inside_the_window_comes_back(fraction in 0.0f64..=1.0) {
            let window = Window { low: 12.0, high: 2500.0 };
            let intensity = (window.low + fraction * (window.high - window.low)) as f32;
            let value = window.to_model(intensity);
            prop_assert!((-1.0..=1.0).contains(&value));
            prop_assert!((window.from_model(value) - intensity).abs() < 1e-3);
        }
    }
}
