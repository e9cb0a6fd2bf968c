//! Who is invited, which keys are good, what operators may do: there again after a restart, and gone where
//! it is gone.

use std::collections::BTreeSet;

use fedpaint_proto::identity::{KeyId, Role};
use jiff::Timestamp;

use super::*;
use crate::roster::{Candidate, Invite, KeyRow, OperatorRole, OperatorRow, Proposal, Roster};

fn invite(candidate: Option<Candidate>) -> Invite {
    Invite {
        secret: blob("secret").digest,
        invited_by: "ada".parse().unwrap(),
        expires_at: START,
        tries_left: 5,
        auto_approve: candidate.is_some(),
        candidate,
    }
}

fn candidate() -> Candidate {
    Candidate {
        public_key: vec![0, 1, 0xfe, 0xff],
        signing_key: [7; 32],
        approved_by: BTreeSet::from(["ada".parse().unwrap(), "bob".parse().unwrap()]),
        admitted_until: Some(START),
    }
}

/// Everything that a roster can hold.
pub(super) fn full() -> Roster {
    let key = |text: &str| KeyId::of_public_key(text.as_bytes());
    let row = |holder: Role, revoked_at| KeyRow {
        holder,
        issued_at: START,
        not_after: START,
        revoked_at,
    };
    let operator = |roles| OperatorRow { roles, since: START };
    let bob = || Some("bob".parse().unwrap());
    Roster {
        invites: [(site("mayo"), invite(None)), (site("oslo"), invite(Some(candidate())))].into(),
        ended: ["s", "t"].map(|secret| (blob(secret).digest, START)).into(),
        keys: [
            (key("a"), row(Role::Site(site("mayo")), None)),
            (key("b"), row(Role::Operator("ada".parse().unwrap()), Some(START))),
        ]
        .into(),
        operators: [
            ("ada".parse().unwrap(), operator(OperatorRole::Admin.into())),
            ("bob".parse().unwrap(), operator("viewer runner".parse().unwrap())),
            ("eve".parse().unwrap(), operator("".parse().unwrap())),
        ]
        .into(),
        proposals: [
            ("export a", None, None),
            ("export b", bob(), None),
            ("enroll c", bob(), Some(START)),
        ]
        .map(|(what, approved_by, spent_at)| {
            let (what, asked_by, asked_at) = (what.to_owned(), "ada".parse().unwrap(), START);
            let id = blob(&what).digest;
            (id, Proposal { what, asked_by, asked_at, approved_by, spent_at })
        })
        .into(),
    }
}

async fn a_roster_is_what_was_last_saved(store: &Store) {
    let save = async |before: &Roster, after: &Roster| {
        let change = Change { roster: Some((before, after)), ..Change::default() };
        store.save(&change).await.unwrap();
        assert_eq!(store.load().await.unwrap().roster, *after);
    };
    let (none, full) = (Roster::default(), full());
    save(&none, &full).await;
    let (mut less, later) = (full.clone(), Timestamp::from_second(60).unwrap());
    less.invites.remove(&site("oslo"));
    less.invites.insert(site("mayo"), Invite { tries_left: 1, ..invite(Some(candidate())) });
    less.keys.pop_first();
    less.keys.values_mut().for_each(|row| row.revoked_at = Some(START));
    less.ended.pop_first();
    less.ended.values_mut().for_each(|until| *until = later);
    less.proposals.pop_last();
    less.proposals.values_mut().for_each(|row| {
        // Asked for anew, by another and later, and agreed with.
        (row.asked_by, row.asked_at) = ("bob".parse().unwrap(), later);
        (row.approved_by, row.spent_at) = (Some("eve".parse().unwrap()), Some(later));
    });
    less.operators.values_mut().for_each(|row| row.roles = "auditor".parse().unwrap());
    save(&full, &less).await;
    let mut joined = row("mayo");
    (joined.joined_at, joined.signing_key) = (Some(START), Some([9; 32]));
    let change = Change { sites: vec![&joined], ..Change::default() };
    store.save(&change).await.unwrap();
    assert_eq!(store.load().await.unwrap().sites, [joined]);
}

#[tokio::test]
async fn a_roster_is_what_was_last_saved_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    a_roster_is_what_was_last_saved(&sqlite(&folder).await).await;
}

#[tokio::test]
async fn a_roster_is_what_was_last_saved_on_postgres() {
    let Some((url, _guard)) = postgres().await else { return };
    let store = Store::open(&url).await.unwrap();
    a_roster_is_what_was_last_saved(&store).await;
    store.close().await;
}
