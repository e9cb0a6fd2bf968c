//! Seeded streams of random numbers, drawn on the host.
//!
//! A device's own generator gives other numbers on other hardware and is shared by a whole
//! process; these streams depend on nothing but the words they are derived from.

use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use rand_distr::{Distribution, StandardNormal};

/// The stream named by a domain and its inputs: ChaCha12 seeded with their BLAKE3 hash.
///
/// Every part is preceded by its length, so no two different lists of parts share a stream.
pub fn stream(domain: &str, inputs: &[&[u8]]) -> ChaCha12Rng {
    let mut hasher = blake3::Hasher::new();
    for part in std::iter::once(domain.as_bytes()).chain(inputs.iter().copied()) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    ChaCha12Rng::from_seed(*hasher.finalize().as_bytes())
}

/// `len` draws from N(0, 1).
pub fn normal(rng: &mut ChaCha12Rng, len: usize) -> Vec<f32> {
    StandardNormal.sample_iter(rng).take(len).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_a_function_of_its_words_and_of_where_they_part() {
        let draw = |domain: &str, inputs: &[&[u8]]| normal(&mut stream(domain, inputs), 4);
        assert_eq!(draw("a", &[b"bc"]), draw("a", &[b"bc"]));
        assert_ne!(draw("a", &[b"bc"]), draw("ab", &[b"c"]));
        assert_ne!(draw("a", &[b"bc"]), draw("a", &[b"b", b"c"]));
    }

    #[test]
    fn normal_draws_have_mean_zero_and_variance_one() {
        let draws = normal(&mut stream("test", &[]), 100_000);
        let mean = draws.iter().map(|&x| f64::from(x)).sum::<f64>() / 1e5;
        let square = draws.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.01 && (square - 1.0).abs() < 0.02, "{mean} {square}");
    }
}
