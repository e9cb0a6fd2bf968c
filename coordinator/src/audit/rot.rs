//! Which blobs were found to have changed on the disk and are set aside, in words for the audit log.

use std::collections::BTreeSet;

use fedpaint_proto::names::Digest;

use super::Entry;

/// The most blobs that one entry names; where there are more, there are more entries.
const NAMED_MAX: usize = 32;

/// The entries that name all of them.
pub fn found(digests: &[Digest]) -> Vec<Entry> {
    let entry = |some: &[Digest]| {
        let named: Vec<String> = some.iter().map(|digest| format!("blob {digest}")).collect();
        let detail = format!("{}: changed on the disk, and set aside", named.join(", "));
        Entry::new("blob_rotten", detail)
    };
    digests.chunks(NAMED_MAX).map(entry).collect()
}

/// Which of the blobs that were set aside are in none of these words, which [`found`] has made.
pub fn untold(aside: Vec<Digest>, told: &[String]) -> Vec<Digest> {
    let words = told.iter().flat_map(|detail| detail.split([' ', ':', ',']));
    let named: BTreeSet<Digest> = words.filter_map(|word| word.parse().ok()).collect();
    aside.into_iter().filter(|digest| !named.contains(digest)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::blob;

    #[test]
    fn every_blob_that_was_set_aside_is_named_in_full_and_no_entry_names_too_many() {
        let many: Vec<Digest> = (0..=NAMED_MAX).map(|n| blob(&format!("{n}")).digest).collect();
        let told = found(&many);
        assert_eq!(told.iter().map(|entry| entry.kind).collect::<Vec<_>>(), ["blob_rotten"; 2]);
        for digest in &many {
            let named = format!("blob {digest}");
            assert_eq!(told.iter().filter(|entry| entry.detail.contains(&named)).count(), 1);
        }
        assert!(found(&[]).is_empty());
    }

    #[test]
    fn what_no_entry_names_is_untold() {
        let [rotten, lost, late] = ["a", "b", "c"].map(|text| blob(text).digest);
        let told: Vec<String> = found(&[rotten, late]).into_iter().map(|e| e.detail).collect();
        assert_eq!(untold(vec![rotten, lost, late], &told), [lost]);
        assert_eq!(untold(vec![rotten, lost], &[]), [rotten, lost]);
    }
}
