//! Seeded random streams. The same domain and parts give the same numbers on every run and every
//! thread; it never reads a clock or the system's randomness.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;

/// The generator every random choice about scans comes from.
pub type Stream = ChaCha12Rng;

/// The stream of `domain` (a constant that says what the numbers are for) and `parts` (seed, round,
/// patient, slice, …). Each part is hashed with its length, so `["ab", "c"]` is not `["a", "bc"]`.
pub fn stream(domain: &str, parts: &[&[u8]]) -> Stream {
    let mut hasher = blake3::Hasher::new_derive_key(domain);
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    ChaCha12Rng::from_seed(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::stream;

    #[test]
    fn a_stream_depends_on_its_domain_and_on_where_its_parts_end() {
        let first = |domain, parts: &[&[u8]]| stream(domain, parts).next_u64();
        let here = first("a", &[b"ab", b"c"]);
        assert_eq!(here, first("a", &[b"ab", b"c"]));
        assert_ne!(here, first("b", &[b"ab", b"c"]));
        assert_ne!(here, first("a", &[b"a", b"bc"]));
    }
}
