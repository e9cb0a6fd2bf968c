//! PURE: what a round's models follow from, by digest: the set of updates that is sealed when
//! aggregation begins, the plan, and what the run's last round left. Whoever computes the round, first
//! or again, computes it from this.

use std::collections::BTreeSet;
use std::path::PathBuf;

use fedpaint_proto::names::{Blob, Digest, SiteName};
use fedpaint_proto::plan::{AggregationPlan, RunPlan};

use crate::aggregate::Aggregate;
use crate::fedavg::{Contribution, Job, Quarantine, Stale};
use crate::round::{LateUpdate, Member, Round};

/// Which updates of a round are files that the run was sent for an earlier one: whose, and for which round, since
/// a site may have a late one besides.
pub type Resent = BTreeSet<(SiteName, u32)>;

/// Everything that a round's models follow from.
#[derive(Clone, Debug, PartialEq)]
pub struct Sealed {
    /// What to make.
    pub plan: AggregationPlan,
    /// How many rounds the run has committed before.
    pub committed: u32,
    /// The base model and what was kept beside it.
    pub previous: Aggregate<Blob>,
    /// The updates, in the order of the sites' names; then late ones of earlier rounds, likewise.
    pub updates: Vec<SealedUpdate>,
    /// Whose updates are left out, if anybody's are.
    pub quarantine: Option<Quarantine>,
}

/// An update in a sealed set.
#[derive(Clone, Debug, PartialEq)]
pub struct SealedUpdate {
    /// Whose it is.
    pub site: SiteName,
    /// The trained model.
    pub weights: Blob,
    /// Training examples behind it.
    pub examples: u64,
    /// For one of an earlier round: the model that it was trained from, and how many rounds late it is.
    pub stale: Option<(Blob, u32)>,
    /// Whether the run was sent this file for an earlier round.
    pub resent: bool,
}

impl Sealed {
    /// What `round` follows from, in a run that had committed `committed` rounds before it and had
    /// made `previous`, where the `exempt` sites are in no quarantine and some updates were `resent`.
    pub fn of(
        round: &Round,
        plan: &RunPlan,
        committed: u32,
        previous: Aggregate<Blob>,
        (exempt, resent): (BTreeSet<SiteName>, &Resent),
    ) -> Sealed {
        let number = round.id().number;
        let is_resent = |site: &SiteName, number| resent.contains(&(site.clone(), number));
        let update = |(site, member): (&SiteName, &Member)| match member {
            Member::Reported(update) => Some(SealedUpdate {
                site: site.clone(),
                weights: update.weights,
                examples: update.examples,
                stale: None,
                resent: is_resent(site, number),
            }),
            Member::Joined | Member::Withdrawn(_) => None,
        };
        let late = |(site, late): (&SiteName, &LateUpdate)| SealedUpdate {
            site: site.clone(),
            weights: late.update.weights,
            examples: late.update.examples,
            stale: Some((late.base, late.staleness(number))),
            resent: is_resent(site, late.round.number),
        };
        let fresh = round.members().iter().filter_map(update);
        let updates = fresh.chain(round.late().iter().map(late)).collect();
        let quarantine = Quarantine::of(&plan.aggregation, plan.round.sites_min, exempt);
        Sealed { plan: plan.aggregation.clone(), committed, previous, updates, quarantine }
    }

    /// Every file that is read, as people call it.
    pub fn inputs(&self) -> Vec<(String, Blob)> {
        let Aggregate { model, ema, momentum, second_moment } = self.previous;
        let kept = [
            ("the base model", Some(model)),
            ("the last round's moving average", ema),
            ("the last round's momentum", momentum),
            ("the last round's second moment", second_moment),
        ];
        let kept = kept.into_iter().filter_map(|(what, blob)| Some((what.to_owned(), blob?)));
        let updates = self.updates.iter();
        let updates = updates.flat_map(|u| {
            let update = (format!("the update of site {}", u.site), u.weights);
            let began = |(base, _)| {
                (format!("the model that the late update of site {} began from", u.site), base)
            };
            [Some(update), u.stale.map(began)].into_iter().flatten()
        });
        kept.chain(updates).collect()
    }

    /// The arithmetic to do, with files where `path` says they are.
    pub fn job(&self, path: impl Fn(&Digest) -> PathBuf) -> Job {
        let contribution = |update: &SealedUpdate| Contribution {
            site: update.site.clone(),
            weights: path(&update.weights.digest),
            examples: update.examples,
            stale: update.stale.map(|(base, rounds)| Stale { base: path(&base.digest), rounds }),
            resent: update.resent,
        };
        Job {
            plan: self.plan.clone(),
            committed: self.committed,
            previous: self.previous.map(|blob| path(&blob.digest)),
            contributions: self.updates.iter().map(contribution).collect(),
            quarantine: self.quarantine.clone(),
        }
    }
}
