//! The noise of one sample of one slice: a function of the seed and of what is painted, whatever else
//! is painted in the same batch.

use rand_chacha::ChaCha12Rng;

use super::super::noise;

/// Where a slice's noise comes from.
#[derive(Clone, Debug)]
pub(super) struct Draws {
    shared: ChaCha12Rng,
    own: ChaCha12Rng,
    share: f64,
}

impl Draws {
    /// The noise of sample `k` of the slice `key`, of whose variance the part `share` is the same for
    /// every slice.
    pub(super) fn new(seed: u64, key: u64, k: usize, share: f64) -> Draws {
        let [seed, key, k] = [seed, key, k as u64].map(u64::to_le_bytes);
        Draws {
            shared: noise::stream("fedpaint sample volume v2", &[&seed, &k]),
            own: noise::stream("fedpaint sample slice v2", &[&seed, &key, &k]),
            share,
        }
    }

    /// The next `len` draws from N(0, 1): sqrt(share) z_volume + sqrt(1 - share) z_slice.
    pub(super) fn draw(&mut self, len: usize) -> Vec<f32> {
        let (shared, own) = (self.share.sqrt(), (1.0 - self.share).sqrt());
        let pairs = noise::normal(&mut self.shared, len).into_iter();
        pairs
            .zip(noise::normal(&mut self.own, len))
            .map(|(z, e)| (shared * f64::from(z) + own * f64::from(e)) as f32)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean product of two slices' draws.
    fn covariance(a: (u64, usize), b: (u64, usize), share: f64) -> f64 {
        let draw = |(key, k)| Draws::new(7, key, k, share).draw(100_000);
        let (a, b) = (draw(a), draw(b));
        a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() / 1e5
    }

    #[test]
    fn slices_share_the_part_of_their_noise_that_is_asked_for_and_samples_none() {
        for share in [0.0, 0.5, 0.8, 1.0] {
            assert!((covariance((3, 0), (4, 0), share) - share).abs() < 0.02, "{share}");
            assert!((covariance((3, 0), (3, 0), share) - 1.0).abs() < 0.02, "{share}");
            assert!(covariance((3, 0), (3, 1), share).abs() < 0.02, "{share}");
        }
    }

    #[test]
    fn one_stream_goes_on_from_draw_to_draw() {
        let mut draws = Draws::new(1, 2, 3, 0.8);
        let (first, second) = (draws.draw(5), draws.draw(5));
        assert_ne!(first, second);
        assert_eq!(Draws::new(1, 2, 3, 0.8).draw(10), [first, second].concat());
    }
}
