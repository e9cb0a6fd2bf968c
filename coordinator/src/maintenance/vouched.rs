//! PURE: whether what the audit log vouches for is what the rows hold. What was signed does not change, so
//! where the two differ a row did.

use std::collections::HashSet;

use fedpaint_proto::names::{Digest, FederationName, RoundId, SiteName};
use fedpaint_proto::signing::{Signed, Statement};
use fedpaint_proto::statement::{Envelope, Manifest};

use crate::evidence::{made, plan_digest};
use crate::records::{Document, DocumentKind, EventRow};
use crate::round::{Member, Phase, Round, Update, Withdrawal};
use crate::run::{Drop, Late, Run, Straggler};

/// What must have been signed for the rows to be as they are.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// The digests of every update's envelope and of every model's manifest.
    statements: HashSet<Digest>,
    /// Whose update was taken and does not count any more, so that its row has none.
    given_up: HashSet<(RoundId, SiteName)>,
}

/// A statement that an entry vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Update(Envelope),
    Manifest(Manifest),
}

impl Rows {
    /// Takes note of a run, all of its rounds, and every straggler of it.
    pub(super) fn add(
        &mut self,
        federation: &FederationName,
        run: &Run,
        rounds: &[Round],
        stragglers: &[(SiteName, Straggler)],
    ) {
        let plan = plan_digest(run.plan());
        let envelope = |round: &RoundId, site: &SiteName, base: Digest, update: &Update| {
            let (federation, round, site) = (federation.clone(), round.clone(), site.clone());
            let (update, examples) = (update.weights, update.examples);
            Digest::of(
                &Envelope { federation, round, site, base, plan, update, examples }.to_bytes(),
            )
        };
        let first = made::first(federation, run.name(), run.plan(), run.initial());
        self.statements.insert(Digest::of(&first.to_bytes()));
        for round in rounds {
            if let Phase::Committed(files) = round.phase() {
                let of = (files, round.standings());
                let manifest = made::by(federation, run.plan(), round, of);
                self.statements.insert(Digest::of(&manifest.to_bytes()));
            }
            for (site, member) in round.members() {
                match member {
                    Member::Reported(update) => {
                        let base = round.base().digest;
                        self.statements.insert(envelope(round.id(), site, base, update));
                    }
                    Member::Withdrawn(Withdrawal::Revoked) => {
                        self.given_up.insert((round.id().clone(), site.clone()));
                    }
                    Member::Joined | Member::Withdrawn(_) => {}
                }
            }
        }
        for (site, Straggler { round, base, late, .. }) in stragglers {
            // What was kept after its plan had dropped it was never accepted.
            if let Some(update) = late.taken() {
                self.statements.insert(envelope(round, site, base.digest, update));
            } else if matches!(late, Late::Dropped { why, .. } if *why != Drop::ByPlan) {
                self.given_up.insert((round.clone(), site.clone()));
            }
        }
    }

    /// What is wrong with what `entry` vouches for, if anything is.
    pub(super) fn wrong(&self, entry: &EventRow, document: Option<&Document>) -> Option<String> {
        let fingerprint = entry.document?;
        let seq = entry.seq;
        let said = match read(entry, document) {
            Ok(said) => said,
            Err(why) => return Some(format!("what entry {seq} vouches for {why}")),
        };
        if self.statements.contains(&fingerprint) {
            return None;
        }
        match said {
            Said::Update(Envelope { round, site, base, update, examples, .. }) => {
                let (digest, size, base) = (update.digest.short(), update.size, base.short());
                (!self.given_up.contains(&(round.clone(), site.clone()))).then(|| {
                    format!(
                        "site {site} signed for round {round} the update {digest} of {size} bytes \
                         with {examples} examples, trained from {base}; the rows say otherwise"
                    )
                })
            }
            Said::Manifest(Manifest { run, version, attempt, model, contributors, .. }) => {
                let (digest, size, of) = (model.digest.short(), model.size, contributors.len());
                Some(format!(
                    "the coordinator signed that version {version} of run {run}, by attempt \
                     {attempt}, is the model {digest} of {size} bytes, made of {of} updates; the \
                     rows say otherwise"
                ))
            }
        }
    }
}

/// What the document of an entry says, or what is wrong with it.
fn read(entry: &EventRow, document: Option<&Document>) -> Result<Said, &'static str> {
    let document = document.ok_or("is not there")?;
    if !document.kind.is_of(&entry.kind) {
        return Err("is of another kind than the entry");
    }
    let text = &document.signed;
    let (said, bytes) = match document.kind {
        DocumentKind::Update => {
            let signed: Signed<Envelope> =
                serde_json::from_str(text).map_err(|_| "does not read")?;
            let bytes = signed.statement.to_bytes();
            (Said::Update(signed.statement), bytes)
        }
        DocumentKind::Manifest => {
            let signed: Signed<Manifest> =
                serde_json::from_str(text).map_err(|_| "does not read")?;
            let bytes = signed.statement.to_bytes();
            (Said::Manifest(signed.statement), bytes)
        }
    };
    match Digest::of(&bytes) == document.digest {
        true => Ok(said),
        false => Err("is not what was signed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::round::tests::{site, update};
    use crate::testing::{LATER, Pki, START, blob, plan};

    fn straggler(examples: u64, late: fn(Update) -> Late) -> (SiteName, Straggler) {
        let round = RoundId { run: "brain".parse().unwrap(), number: 1, attempt: 1 };
        let update = Update { examples, ..update("late") };
        (site("mayo"), Straggler { round, base: blob("base"), since: START, late: late(update) })
    }

    #[test]
    fn a_late_update_is_compared_with_its_row_in_whatever_state_it_is() {
        let federation: FederationName = "brain".parse().unwrap();
        let run = Run::create("brain".parse().unwrap(), plan(9, 1), blob("base"), START);
        let (mayo, signed) = straggler(8, Late::Reported);
        let envelope = Envelope {
            federation: federation.clone(),
            round: signed.round.clone(),
            site: mayo,
            base: signed.base.digest,
            plan: plan_digest(run.plan()),
            update: blob("late"),
            examples: 8,
        };
        let signed = Signed::by(&Pki::new().signer("spiffe://brain/site/mayo"), envelope);
        let document = Document::of(DocumentKind::Update, &signed);
        let entry = EventRow {
            seq: 7,
            at: LATER,
            actor: "site/mayo".into(),
            kind: "late_update_accepted".into(),
            detail: String::new(),
            document: Some(document.digest),
        };
        let found = |held: &[(SiteName, Straggler)]| {
            let mut rows = Rows::default();
            rows.add(&federation, &run, &[], held);
            rows.wrong(&entry, Some(&document))
        };
        for late in [Late::Reported, Late::Sealed, Late::Folded] {
            assert_eq!(found(&[straggler(8, late)]), None);
            let changed = found(&[straggler(9, late)]).unwrap();
            assert!(changed.contains("round brain/1.1") && changed.contains("8 examples"));
        }
        // A row that lost its update as its site was shut out says nothing; any other one does.
        let dropped = |_| Late::Dropped { update: None, why: Drop::Revoked };
        assert_eq!(found(&[straggler(8, dropped)]), None);
        let never_taken = |_| Late::Dropped { update: None, why: Drop::ByPlan };
        assert!(found(&[straggler(8, never_taken)]).is_some());
        let refused = |update| Late::Dropped { update: Some(update), why: Drop::ByPlan };
        assert!(found(&[straggler(8, refused)]).is_some(), "what is kept was not accepted");
        assert!(found(&[straggler(8, |_| Late::Training)]).is_some());
        assert!(found(&[]).unwrap().contains("the rows say otherwise"));
    }
}
