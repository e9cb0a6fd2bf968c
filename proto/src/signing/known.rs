//! Holders whose certificates were verified, so that the next signature of one of them costs its own check alone.
//! It verifies nothing, and answers only for moments at which every certificate holds that was verified with them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;

use super::Holder;
use crate::identity::Validity;

/// How many are remembered, those who signed last: the sites of a large federation.
const HOLDERS_MAX: usize = 128;

/// The holders that one set of roots vouches for.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Whoever signed last is the last.
    holders: Mutex<VecDeque<One>>,
}

#[derive(Debug)]
struct One {
    /// As it travels: with those between it and the root.
    certificate: Vec<u8>,
    /// When all of these hold.
    validity: Validity,
    holder: Holder,
}

impl Known {
    /// The holder of a certificate, if it was verified and holds at `at`.
    pub(super) fn holder(&self, certificate: &[u8], at: Timestamp) -> Option<Holder> {
        let mut holders = self.lock();
        let is_it = |one: &One| one.certificate == certificate && one.validity.contains(at);
        let place = holders.iter().position(is_it)?;
        let one = holders.remove(place)?;
        let holder = one.holder.clone();
        holders.push_back(one);
        Some(holder)
    }

    /// Remembers the holder of a certificate that was verified, which is the same as `chain`.
    pub(super) fn add(&self, certificate: &[u8], chain: &[CertificateDer<'_>], holder: &Holder) {
        let Some(validity) = common(chain) else { return };
        let mut holders = self.lock();
        // It is here already where it was verified for a moment at the edge.
        holders.retain(|one| one.certificate != certificate);
        if holders.len() >= HOLDERS_MAX {
            holders.pop_front();
        }
        let (certificate, holder) = (certificate.to_vec(), holder.clone());
        holders.push_back(One { certificate, validity, holder });
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<One>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When every certificate holds; before all time none does.
fn common(chain: &[CertificateDer<'_>]) -> Option<Validity> {
    let mut common = Validity { not_before: Timestamp::UNIX_EPOCH, not_after: Timestamp::MAX };
    for certificate in chain {
        let Validity { not_before, not_after } = Validity::of_certificate(certificate).ok()?;
        common.not_before = common.not_before.max(not_before);
        common.not_after = common.not_after.min(not_after);
    }
    Some(common)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(from: i32, to: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    fn at(year: u32) -> Timestamp {
        format!("{year}-06-01T00:00:00Z").parse().unwrap()
    }

    #[test]
    fn a_holder_is_known_while_every_certificate_holds_that_was_verified_with_its_own() {
        let chain = [certificate(2020, 2040), certificate(2025, 2030)];
        let bytes: Vec<u8> = chain.iter().flat_map(|one| one.iter().copied()).collect();
        let holder = Holder::of("site/mayo".parse().unwrap(), &chain[0]).unwrap();
        let known = Known::default();
        assert!(known.holder(&bytes, at(2027)).is_none());
        known.add(&bytes, &chain, &holder);
        for (year, is_known) in [(2024, false), (2025, true), (2029, true), (2030, false)] {
            let found = known.holder(&bytes, at(year));
            assert_eq!(found.is_some(), is_known, "{year}");
            assert!(found.is_none_or(|found| found.role == holder.role));
        }
        assert!(known.holder(&chain[0], at(2027)).is_none(), "the same without what is between");
    }

    #[test]
    fn those_who_signed_last_are_remembered_and_no_more_than_there_is_room_for() {
        let chain = [certificate(2020, 2040)];
        let holder = Holder::of("site/mayo".parse().unwrap(), &chain[0]).unwrap();
        let known = Known::default();
        let add = |number: usize| known.add(&number.to_le_bytes(), &chain, &holder);
        let is_known = |number: usize| known.holder(&number.to_le_bytes(), at(2027)).is_some();
        for number in (0..HOLDERS_MAX).chain([5]) {
            add(number);
        }
        assert!(is_known(0));
        add(HOLDERS_MAX);
        assert!(is_known(0) && is_known(5) && is_known(HOLDERS_MAX) && !is_known(1));
        assert_eq!(known.lock().len(), HOLDERS_MAX);
    }
}
