//! What a site could be asked to train, for who only looks: a question that notes nothing. PURE.

use fedpaint_proto::names::{Blob, Digest, RoundId, SiteName};

use super::state::State;
use crate::round::{Phase, Round};
use crate::run::{self, Run};

/// A round that selects its members or awaits their updates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Which attempt at which round.
    pub round: RoundId,
    /// The model that it begins from.
    pub base: Blob,
    /// How many sites are in it when it is trained, at least, with the one that asks among them.
    pub cohort: u32,
}

impl State {
    /// The rounds that are open, in the order in which `site` would be asked to join them, those that it declines
    /// among them: who looks has not decided yet.
    pub fn open_rounds(&self, site: &SiteName) -> Vec<Open> {
        self.open().map(|(run, round)| of(run, round, site)).collect()
    }

    /// The base model with this digest of a round that is open.
    pub(super) fn open_base(&self, digest: &Digest) -> Option<Blob> {
        let mut bases = self.open().map(|(_, round)| round.base());
        bases.find(|base| base.digest == *digest)
    }

    fn open(&self) -> impl Iterator<Item = (&Run, &Round)> {
        let active = self.runs().filter(|run| *run.state() == run::State::Active);
        let rounds = active.map(|run| (run, run.round()));
        rounds.filter(|(_, round)| {
            matches!(round.phase(), Phase::Selecting { .. } | Phase::Reporting { .. })
        })
    }
}

fn of(run: &Run, round: &Round, site: &SiteName) -> Open {
    let members = round.members();
    let others = members.keys().filter(|member| *member != site).count();
    // No more than there may be sites.
    let with_it = u32::try_from(others + 1).unwrap_or(u32::MAX);
    let cohort = with_it.max(run.plan().round.sites_min);
    Open { round: round.id().clone(), base: round.base(), cohort }
}
