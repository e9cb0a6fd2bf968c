//! What of the roster was forgotten because its time is over, in words for the audit log: derived from the roster
//! before and after, so that nothing is forgotten without its entry.

use jiff::Timestamp;

use super::Entry;
use crate::roster::{Candidate, Invite, Roster};

/// The most invitations or keys that one entry names; where there are more, there are more entries.
const NAMED_MAX: usize = 32;

/// The entries that tell of what `after` has forgotten at `now`: invitations, keys and proposals whose time is
/// over. Whatever else is gone was asked for, and has an entry of its own.
pub fn forgotten(before: &Roster, after: &Roster, now: Timestamp) -> Vec<Entry> {
    let mut entries = invitations(before, after, now);
    let keys = before.keys.iter().filter(|(key, _)| !after.keys.contains_key(*key));
    let keys: Vec<String> = keys.map(|(key, row)| format!("key {key} of {}", row.holder)).collect();
    entries.extend(listed("keys_forgotten", &keys, "the certificate ended a day ago"));
    for (id, held) in before.proposals.iter().filter(|(_, held)| held.is_over(now)) {
        // One that is asked for anew is another one.
        if after.proposals.get(id).is_none_or(|anew| anew.asked_at != held.asked_at) {
            let second = held.approved_by.as_ref().map_or("nobody", |name| name.as_str());
            let (what, first) = (&held.what, &held.asked_by);
            let detail = format!("{what}: asked for by {first} a day ago, agreed to by {second}");
            entries.push(Entry::new("proposal_expired", detail));
        }
    }
    entries
}

fn invitations(before: &Roster, after: &Roster, now: Timestamp) -> Vec<Entry> {
    let (mut used, mut unused) = (Vec::new(), Vec::new());
    for (site, held) in before.invites.iter().filter(|(_, held)| held.expires_at <= now) {
        let anew = after.invites.get(site);
        if anew.is_none_or(|anew| anew.expires_at != held.expires_at) {
            let of = if is_used(held) { &mut used } else { &mut unused };
            of.push(format!("site {site}"));
        }
    }
    let unused = listed("invitation_expired", &unused, "nobody has joined by it in time");
    let used = listed("invitation_expired", &used, "joined by it, and asks for no more");
    unused.chain(used).collect()
}

/// Whether somebody was let in by an invitation.
fn is_used(invite: &Invite) -> bool {
    let admitted = |candidate: &Candidate| candidate.admitted_until.is_some();
    invite.candidate.as_ref().is_some_and(admitted)
}

/// Entries that name all of them.
fn listed(kind: &'static str, names: &[String], what: &str) -> impl Iterator<Item = Entry> {
    names
        .chunks(NAMED_MAX)
        .map(move |some| Entry::new(kind, format!("{}: {what}", some.join(", "))))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fedpaint_proto::identity::{KeyId, Role};
    use fedpaint_proto::names::Digest;

    use super::*;
    use crate::roster::{KeyRow, Proposal};
    use crate::testing::{START, blob};

    fn after(seconds: u64) -> Timestamp {
        START.checked_add(Duration::from_secs(seconds)).unwrap()
    }

    fn invite(expires_at: Timestamp, admitted_until: Option<Timestamp>) -> Invite {
        let candidate = Candidate {
            public_key: b"key".to_vec(),
            signing_key: [7; 32],
            approved_by: ["ada".parse().unwrap()].into(),
            admitted_until,
        };
        Invite {
            secret: blob("secret").digest,
            invited_by: "ada".parse().unwrap(),
            expires_at,
            tries_left: 5,
            auto_approve: false,
            candidate: admitted_until.map(|_| candidate),
        }
    }

    /// What [`Roster::forget`] leaves at `now`, and the words for it.
    fn forget(before: &Roster, now: Timestamp) -> (Roster, Vec<(&'static str, String)>) {
        let mut left = before.clone();
        left.forget(now);
        let entries = forgotten(before, &left, now);
        (left, entries.into_iter().map(|entry| (entry.kind, entry.detail)).collect())
    }

    #[test]
    fn each_invitation_key_and_proposal_that_is_forgotten_is_named_once_and_by_what_became_of_it() {
        let mut roster = Roster::default();
        for (name, until, admitted) in
            [("late", 10, None), ("used", 10, Some(START)), ("open", 1_000_000, None)]
        {
            roster.invites.insert(name.parse().unwrap(), invite(after(until), admitted));
        }
        let key = KeyId::of_public_key(b"key");
        let holder = Role::Site("mayo".parse().unwrap());
        let (issued_at, not_after) = (START, after(20));
        roster.keys.insert(key, KeyRow { holder, issued_at, not_after, revoked_at: None });
        let (what, asked_by) = ("export model x".to_owned(), "ada".parse().unwrap());
        let approved_by = Some("bob".parse().unwrap());
        let proposal = Proposal { what, asked_by, asked_at: START, approved_by, spent_at: None };
        roster.proposals.insert(Digest::of(b"export"), proposal);
        assert!(forget(&roster, after(9)).1.is_empty(), "nothing is over, or forgotten");

        let (left, told) = forget(&roster, after(10));
        let late = "site late: nobody has joined by it in time".to_owned();
        assert_eq!(told, [("invitation_expired", late)]);
        // Who was let in hears so for an hour longer.
        let (left, told) = forget(&left, after(3_610));
        let used = "site used: joined by it, and asks for no more".to_owned();
        assert_eq!(told, [("invitation_expired", used)]);
        let (left, told) = forget(&left, after(24 * 3600 + 21));
        let key = format!("key {key} of site/mayo: the certificate ended a day ago");
        let proposal = "export model x: asked for by ada a day ago, agreed to by bob".to_owned();
        assert_eq!(told, [("keys_forgotten", key), ("proposal_expired", proposal)]);
        assert!(forget(&left, after(24 * 3600 + 22)).1.is_empty(), "it is told once");
    }

    #[test]
    fn an_invitation_in_the_place_of_one_that_expired_leaves_it_told_and_many_are_all_named() {
        let name = |n: usize| format!("site-{n}").parse().unwrap();
        let many = 2 * NAMED_MAX + 1;
        let invites = (0..many).map(|n| (name(n), invite(after(10), None)));
        let before = Roster { invites: invites.collect(), ..Roster::default() };
        let mut left = Roster::default();
        left.invites.insert(name(0), invite(after(100_000), None));
        let told = forgotten(&before, &left, after(11));
        assert_eq!(told.len(), 3);
        let words: String = told.iter().map(|entry| format!("{} ", entry.detail)).collect();
        for n in 0..many {
            let named = words.matches(&format!("site site-{n},")).count()
                + words.matches(&format!("site site-{n}:")).count();
            assert_eq!(named, 1, "{n}: {words}");
        }
    }
}
