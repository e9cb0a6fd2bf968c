//! PURE: what a global model is made of, from the rows of the round that made it.

use fedpaint_proto::names::{Blob, FederationName, RunName, SiteName};
use fedpaint_proto::plan::RunPlan;
use fedpaint_proto::statement::{Contributor, Manifest};

use super::plan_digest;
use crate::aggregate::Aggregate;
use crate::round::{LateUpdate, Member, Round, Update};
use crate::standing::Standing;

/// The manifest of what a run starts from.
pub fn first(
    federation: &FederationName,
    run: &RunName,
    plan: &RunPlan,
    initial: Blob,
) -> Manifest {
    Manifest {
        federation: federation.clone(),
        run: run.clone(),
        version: 0,
        attempt: 0,
        parent: None,
        plan: plan_digest(plan),
        model: initial,
        ema: None,
        contributors: Vec::new(),
    }
}

/// The manifest of what `round`, of a run with this plan, has made or is about to: of the updates that were not
/// quarantined.
pub fn by(
    federation: &FederationName,
    plan: &RunPlan,
    round: &Round,
    (made, standings): (&Aggregate<Blob>, &[Standing]),
) -> Manifest {
    let id = round.id();
    let counts = |site: &SiteName, late: bool| {
        !standings.iter().any(|s| s.excluded && s.late == late && s.site == *site)
    };
    let contributor = |site: &SiteName, (number, attempt): (u32, u32), update: &Update| {
        let (site, examples) = (site.clone(), update.examples);
        Contributor { site, number, attempt, update: update.weights.digest, examples }
    };
    let fresh = round.members().iter().filter_map(|(site, member)| match member {
        Member::Reported(update) if counts(site, false) => {
            Some(contributor(site, (id.number, id.attempt), update))
        }
        Member::Reported(_) | Member::Joined | Member::Withdrawn(_) => None,
    });
    let late = round.late().iter().filter(|(site, _)| counts(site, true));
    let late = late.map(|(site, late): (&SiteName, &LateUpdate)| {
        contributor(site, (late.round.number, late.round.attempt), &late.update)
    });
    Manifest {
        federation: federation.clone(),
        run: id.run.clone(),
        version: id.number,
        attempt: id.attempt,
        parent: Some(round.base().digest),
        plan: plan_digest(plan),
        model: made.model,
        ema: made.ema,
        contributors: fresh.chain(late).collect(),
    }
}
