//! How the cases of bad disks went.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::disk::Case;
use crate::say;
use fedpaint_tests::outcome::{Outcome, quantile, rounded};

/// How soon the work must go on once the disk is well again.
pub(crate) const RESUME_S_MAX: f64 = 10.0;

/// How soon a round must be committed then: what comes after the place, a training too, is part of it, on a machine
/// on which other federations do the same.
const COMMIT_S_MAX: f64 = 30.0;

/// From how many seconds on it is told how long that took.
const RESUME_S_TOLD: f64 = 2.0;

/// Places, programs that stopped, and times.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    sites: u32,
    resumed: u32,
    /// Programs that stopped rather than trust what they could not write.
    stopped: BTreeSet<String>,
    missed: BTreeSet<String>,
    resume_s: Vec<f64>,
    /// Where the run goes on for more rounds, how soon one was committed.
    commit_s: Vec<f64>,
    told: Vec<String>,
}

impl Tally {
    /// Notes whether a program had stopped and was started again.
    pub(crate) fn look(&mut self, case: &Case, stopped: bool) {
        if stopped {
            self.stopped.insert(case.place.clone());
        }
    }

    /// Notes how soon the work went on.
    pub(crate) fn went_on(&mut self, case: &Case, took: Duration) {
        let took = took.as_secs_f64();
        self.sites += 1;
        self.resume_s.push(took);
        self.resumed += u32::from(took <= RESUME_S_MAX);
        if took > RESUME_S_TOLD {
            self.told.push(format!("{case}: {took:.1} s until it went on"));
        }
    }

    /// Notes how soon a round was committed once the disk was well.
    pub(crate) fn committed(&mut self, case: &Case, took: Duration) {
        let took = took.as_secs_f64();
        self.commit_s.push(took);
        if took > RESUME_S_MAX {
            self.told.push(format!("{case}: {took:.1} s until a round was committed"));
        }
    }

    /// Notes that a place was never reached.
    pub(crate) fn missed(&mut self, case: &Case) {
        self.missed.insert(case.place.clone());
    }

    /// Tells whoever watches what took long.
    pub(crate) fn tell(&self) {
        self.told.iter().for_each(|line| say(line));
    }

    /// Adds those of other cases.
    pub(crate) fn add(&mut self, other: Tally) {
        let Tally { sites, resumed, stopped, missed, resume_s, commit_s, told } = other;
        self.sites += sites;
        self.resumed += resumed;
        self.stopped.extend(stopped);
        self.missed.extend(missed);
        self.resume_s.extend(resume_s);
        self.commit_s.extend(commit_s);
        self.told.extend(told);
    }

    /// Tells the figures, and requires that all went well.
    pub(crate) fn outcome(self, outcome: &mut Outcome) {
        let Tally { sites, resumed, stopped, missed, resume_s, commit_s, .. } = self;
        let (slowest, latest) = (quantile(&resume_s, 1.0), quantile(&commit_s, 1.0));
        outcome.set("sites", sites);
        outcome.set("resumed", resumed);
        outcome.set("resume_max_s", rounded(slowest, 2));
        outcome.set("resume_p50_s", rounded(quantile(&resume_s, 0.5), 2));
        outcome.set("commit_max_s", rounded(latest, 2));
        let unasked: Vec<&String> = stopped.iter().filter(|place| !is_of_a_sync(place)).collect();
        outcome.require(unasked.is_empty(), || {
            format!("a program stopped where no sync failed, at {unasked:?}")
        });
        outcome.require(missed.is_empty(), || format!("no disk was bad at {missed:?}"));
        outcome.require(resumed == sites, || {
            format!("{} of {sites} did not go on in time", sites - resumed)
        });
        outcome.require(latest <= COMMIT_S_MAX, || {
            format!("no round was committed for {latest:.1} s after a disk was well")
        });
        outcome.require(sites > 0, || "no disk was bad".into());
        outcome.set("stopped_at", stopped.into_iter().collect::<Vec<_>>());
        outcome.set("not_reached", missed.into_iter().collect::<Vec<_>>());
    }
}

/// Whether a program may stop at a place: only where it does not know any more what the disk holds.
fn is_of_a_sync(place: &str) -> bool {
    place.ends_with("sync") || place.ends_with("folder")
}
