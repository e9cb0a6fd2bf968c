//! What a collection of blobs lets go and is about to delete, in words for the audit log, which is told before the
//! first of them is gone. How much there was is told in full; of the files so many are named.

use std::collections::BTreeMap;

use fedpaint_proto::names::{Blob, RunName};

use super::Entry;

/// The most files that an entry names.
const NAMED_MAX: usize = 16;

/// What nobody needs any more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sweep {
    /// Files that no row names.
    pub orphans: Vec<Blob>,
    /// Updates that retention lets go of.
    pub spent: Vec<Spent>,
}

/// An update that retention lets go of.
#[derive(Clone, Debug, PartialEq)]
pub struct Spent {
    /// The run that it was for.
    pub run: RunName,
    /// The newest round that it counted in.
    pub round: u32,
    /// The file.
    pub blob: Blob,
}

impl Sweep {
    /// Whether there is nothing to delete.
    pub fn is_empty(&self) -> bool {
        self.orphans.is_empty() && self.spent.is_empty()
    }

    /// The files, all of them.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.orphans.iter().chain(self.spent.iter().map(|spent| &spent.blob))
    }

    /// One entry for the orphans, and one for the updates of each run.
    pub fn entries(&self) -> Vec<Entry> {
        let mut runs: BTreeMap<&RunName, Vec<&Spent>> = BTreeMap::new();
        for spent in &self.spent {
            runs.entry(&spent.run).or_default().push(spent);
        }
        let mut entries = Vec::new();
        for (run, spent) in runs {
            let rounds = spent.iter().map(|spent| spent.round);
            let (first, last) = rounds.fold((u32::MAX, 0), |(a, b), n| (a.min(n), b.max(n)));
            let what = format!("run {run}: updates of rounds {first} to {last}, by retention");
            let blobs: Vec<Blob> = spent.iter().map(|spent| spent.blob).collect();
            entries.push(Entry::new("blobs_spent", in_words(&what, &blobs)));
        }
        if !self.orphans.is_empty() {
            let detail = in_words("files that no row names", &self.orphans);
            entries.push(Entry::new("blobs_orphaned", detail));
        }
        entries
    }
}

/// That the updates of a run are let go up to a round.
pub fn let_go(run: &RunName, number: u32) -> Entry {
    Entry::new("updates_let_go", format!("run {run}: updates up to round {number}"))
}

fn in_words(what: &str, blobs: &[Blob]) -> String {
    let bytes: u64 = blobs.iter().map(|blob| blob.size).fold(0, u64::saturating_add);
    let named: Vec<String> = blobs.iter().take(NAMED_MAX).map(|blob| blob.digest.short()).collect();
    let more = match blobs.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let (files, named) = (blobs.len(), named.join(", "));
    format!("{what}: {files}, with {bytes} bytes: {named}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::blob;

    #[test]
    fn a_sweep_tells_how_much_goes_of_each_run_and_of_what_no_row_names_and_names_a_part() {
        let update = |run: &str, round| Spent {
            run: run.parse().unwrap(),
            round,
            blob: blob(&format!("{run} {round}")),
        };
        let spent: Vec<Spent> =
            (3..40).map(|round| update("brain", round)).chain([update("spine", 7)]).collect();
        let sweep = Sweep { orphans: vec![blob("lost")], spent };
        assert_eq!(sweep.blobs().count(), 39);
        let told: Vec<(&str, String)> =
            sweep.entries().into_iter().map(|entry| (entry.kind, entry.detail)).collect();
        let kinds: Vec<&str> = told.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, ["blobs_spent", "blobs_spent", "blobs_orphaned"]);
        let brain = &told[0].1;
        let begins = "run brain: updates of rounds 3 to 39, by retention: 37, with 289 bytes: ";
        assert!(brain.starts_with(begins) && brain.ends_with("and 21 more"), "{brain}");
        assert!(brain.contains(&blob("brain 3").digest.short()), "{brain}");
        let lost = blob("lost").digest.short();
        assert_eq!(told[2].1, format!("files that no row names: 1, with 4 bytes: {lost}"));
        assert!(Sweep::default().is_empty() && Sweep::default().entries().is_empty());
    }
}
