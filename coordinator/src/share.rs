//! PURE: a share of all digests. Whoever compares every row with every file takes one share after the
//! other, so that what it holds in memory has a bound that no history passes.

use std::ops::RangeInclusive;

use fedpaint_proto::names::Digest;

/// How many rows a share has, about: 10 MB in memory.
const ROWS: u64 = 1 << 16;

/// Digests by their first byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share(RangeInclusive<u8>);

impl Share {
    /// Every digest.
    pub const ALL: Share = Share(0..=u8::MAX);

    /// Shares that make up all digests together and hold about as many of `rows` rows as may be in memory
    /// at once, but for a history so long that a 256th of it is more.
    pub fn of(rows: u64) -> impl Iterator<Item = Share> {
        let shares = rows.div_ceil(ROWS).clamp(1, 256).next_power_of_two();
        // At most 256, so a share is a byte wide at least and every bound is a byte.
        let width = (256 / shares) as u16;
        (0..shares as u16).map(move |share| {
            let first = share * width;
            Share(first as u8..=(first + width - 1) as u8)
        })
    }

    /// Whether the digest is in the share.
    pub fn has(&self, digest: &Digest) -> bool {
        self.0.contains(&digest.as_bytes()[0])
    }

    /// The first two hexadecimal digits of the share's first digest, and of its last.
    pub fn bounds(&self) -> (String, String) {
        (format!("{:02x}", self.0.start()), format!("{:02x}", self.0.end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_digest_is_in_one_share_whatever_the_number_of_rows() {
        for rows in [0, 1, ROWS, ROWS + 1, 9 * ROWS, 1 << 40] {
            let shares: Vec<Share> = Share::of(rows).collect();
            assert!(rows / shares.len() as u64 <= ROWS || shares.len() == 256, "{rows}");
            for byte in 0..=u8::MAX {
                let digest = Digest::try_from(&[byte; 32][..]).unwrap();
                let holders: Vec<&Share> = shares.iter().filter(|s| s.has(&digest)).collect();
                assert_eq!(holders.len(), 1, "{byte} of {rows}");
                let ((first, last), text) = (holders[0].bounds(), digest.to_string());
                assert!(first.as_str() <= &text[..2] && &text[..2] <= last.as_str());
            }
        }
        assert_eq!(Share::of(0).collect::<Vec<_>>(), [Share::ALL]);
    }
}
