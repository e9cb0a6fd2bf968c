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
    /// The noise of sample `k` of a scan's slice, of whose variance the part `share` is the same for
    /// every slice of the scan.
    pub(super) fn new(seed: u64, scan: &[u8; 32], slice: u64, k: usize, share: f64) -> Draws {
        let [seed, slice, k] = [seed, slice, k as u64].map(u64::to_le_bytes);
        Draws {
            shared: noise::stream("fedpaint sample volume v3", &[&seed, scan, &k]),
            own: noise::stream("fedpaint sample slice v3", &[&seed, scan, &slice, &k]),
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

    /// Mean product of two slices' draws; each is a scan, a slice and a sample.
    fn covariance(a: (u8, u64, usize), b: (u8, u64, usize), share: f64) -> f64 {
        let draw = |(scan, slice, k)| Draws::new(7, &[scan; 32], slice, k, share).draw(100_000);
        let (a, b) = (draw(a), draw(b));
        a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() / 1e5
    }

    #[test]
    fn slices_share_the_part_of_their_noise_that_is_asked_for_and_samples_none() {
        for share in [0.0, 0.5, 0.8, 1.0] {
            assert!((covariance((1, 3, 0), (1, 4, 0), share) - share).abs() < 0.02, "{share}");
            assert!((covariance((1, 3, 0), (1, 3, 0), share) - 1.0).abs() < 0.02, "{share}");
            assert!(covariance((1, 3, 0), (1, 3, 1), share).abs() < 0.02, "{share}");
        }
    }

    #[test]
    fn two_scans_share_no_noise_not_even_in_the_same_slice() {
        for share in [0.0, 0.8, 1.0] {
            assert!(covariance((1, 3, 0), (2, 3, 0), share).abs() < 0.02, "{share}");
        }
    }

    #[test]
    fn one_stream_goes_on_from_draw_to_draw() {
        let fresh = || Draws::new(1, &[5; 32], 2, 3, 0.8);
        let mut draws = fresh();
        let (first, second) = (draws.draw(5), draws.draw(5));
        assert_ne!(first, second);
        assert_eq!(fresh().draw(10), [first, second].concat());
    }
}
