//! What of the roster was forgotten because its time is over, or to make room, in words for the audit log: derived
//! from the roster before and after, so that nothing is forgotten without its entry.

use fedpaint_proto::names::Digest;
use jiff::Timestamp;

use super::Entry;
use crate::roster::{Candidate, Invite, Roster};

/// The most invitations, keys or tokens that one entry names; where there are more, there are more entries.
const NAMED_MAX: usize = 32;

/// The entries that tell of what `after` has forgotten at `now`: invitations, keys, ended tokens and proposals whose
/// time is over, and those of the last two that made room. Whatever else is gone was asked for, and has an entry of
/// its own.
pub fn forgotten(before: &Roster, after: &Roster, now: Timestamp) -> Vec<Entry> {
    let mut entries = invitations(before, after, now);
    let keys = before.keys.iter().filter(|(key, _)| !after.keys.contains_key(*key));
    let keys: Vec<String> = keys.map(|(key, row)| format!("key {key} of {}", row.holder)).collect();
    entries.extend(listed("keys_forgotten", &keys, "the certificate ended a day ago"));
    entries.extend(tokens(before, after, now));
    entries.extend(proposals(before, after, now));
    entries
}

/// Of a token nothing is known any more but the hash of its secret, by which it is named here.
fn tokens(before: &Roster, after: &Roster, now: Timestamp) -> impl Iterator<Item = Entry> {
    let gone = before.ended.iter().filter(|(secret, _)| !after.ended.contains_key(*secret));
    let (over, crowded): (Vec<_>, Vec<_>) = gone.partition(|(_, until)| **until <= now);
    let named = |tokens: Vec<(&Digest, &Timestamp)>| {
        let of = |(secret, _): &(&Digest, &Timestamp)| format!("token {}", secret.short());
        tokens.iter().map(of).collect::<Vec<String>>()
    };
    let over = listed("tokens_forgotten", &named(over), "it would have ended by now");
    let crowded = listed("tokens_forgotten", &named(crowded), "so many were ended since");
    over.into_iter().chain(crowded)
}

fn proposals(before: &Roster, after: &Roster, now: Timestamp) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (id, held) in &before.proposals {
        let anew = after.proposals.get(id);
        let second = held.approved_by.as_ref().map_or("nobody", |name| name.as_str());
        let (what, first) = (&held.what, &held.asked_by);
        // One that is asked for anew is another one.
        if held.is_over(now) && anew.is_none_or(|anew| anew.asked_at != held.asked_at) {
            let detail = format!("{what}: asked for by {first} a day ago, agreed to by {second}");
            entries.push(Entry::new("proposal_expired", detail));
        } else if !held.is_over(now) && anew.is_none() {
            let detail = format!("{what}: asked for by {first}, agreed to by {second} and done");
            entries.push(Entry::new("proposal_forgotten", detail));
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
    [unused, used].concat()
}

/// Whether somebody was let in by an invitation.
fn is_used(invite: &Invite) -> bool {
    let admitted = |candidate: &Candidate| candidate.admitted_until.is_some();
    invite.candidate.as_ref().is_some_and(admitted)
}

/// Entries that name all of them.
fn listed(kind: &'static str, names: &[String], what: &str) -> Vec<Entry> {
    let entry = |some: &[String]| Entry::new(kind, format!("{}: {what}", some.join(", ")));
    names.chunks(NAMED_MAX).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fedpaint_proto::identity::{KeyId, Role};

    use super::*;
    use crate::roster::{ENDED_MAX, KeyRow, Proposal};
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
    fn each_token_that_is_forgotten_is_named_whether_its_time_is_over_or_others_need_the_room() {
        let secret = |n: usize| Digest::of(n.to_string().as_bytes());
        let ended = [(secret(0), after(10)), (secret(1), after(20))];
        let roster = Roster { ended: ended.into(), ..Roster::default() };
        assert!(forget(&roster, after(9)).1.is_empty(), "neither is over");
        let (left, told) = forget(&roster, after(10));
        let over = format!("token {}: it would have ended by now", secret(0).short());
        assert_eq!(told, [("tokens_forgotten", over)]);
        assert!(forget(&left, after(11)).1.is_empty(), "it is told once");

        let ended = (0..ENDED_MAX).map(|n| (secret(n), after(10 + n as u64)));
        let full = Roster { ended: ended.collect(), ..Roster::default() };
        let mut more = full.clone();
        let (site, invite) = ("mayo".parse().unwrap(), invite(after(100_000), None));
        more.invites.insert(site, invite);
        more.end_invite(&"mayo".parse().unwrap());
        let told = forgotten(&full, &more, START);
        let crowded = format!("token {}: so many were ended since", secret(0).short());
        assert_eq!(told, [Entry::new("tokens_forgotten", crowded)]);
    }

    #[test]
    fn a_proposal_that_was_acted_on_and_makes_room_is_told_and_one_asked_for_anew_is_another() {
        let (what, asked_by) = ("export model x".to_owned(), "ada".parse().unwrap());
        let (approved_by, spent_at) = (Some("bob".parse().unwrap()), Some(START));
        let held = Proposal { what, asked_by, asked_at: START, approved_by, spent_at };
        let id = Digest::of(b"export");
        let before = Roster { proposals: [(id, held.clone())].into(), ..Roster::default() };
        let told = forgotten(&before, &Roster::default(), after(1));
        let detail = "export model x: asked for by ada, agreed to by bob and done";
        assert_eq!(told, [Entry::new("proposal_forgotten", detail)]);
        let anew = Proposal { asked_at: after(1), approved_by: None, spent_at: None, ..held };
        let anew = Roster { proposals: [(id, anew)].into(), ..Roster::default() };
        assert_eq!(forgotten(&before, &anew, after(1)), [], "who asks anew is told for it");
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
