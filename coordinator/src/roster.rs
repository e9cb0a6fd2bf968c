//! PURE: who may become a member and who is one: invitations, the keys that certificates were issued
//! for, and what operators may do. Plain values; what changes them is the driver's core.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use fedpaint_proto::enrolment::Keys;
use fedpaint_proto::identity::{KeyId, Role};
use fedpaint_proto::names::{Digest, OperatorName, SiteName};
use jiff::Timestamp;
use serde::Deserialize;

/// How long an invitation holds.
pub const INVITE_LASTS: Duration = Duration::from_secs(24 * 3600);

/// How long after that a site that was let in hears so again: the answer may have been lost.
const ADMITTED_TOLD: Duration = Duration::from_secs(3600);

/// How often a wrong secret may be shown until an invitation is burnt.
pub const INVITE_TRIES: u32 = 5;

/// The most invitations that may be open.
pub const INVITES_MAX: usize = 1_000;

/// The most tokens that are remembered to have been ended; beyond it, those that would have ended first are
/// forgotten.
pub const ENDED_MAX: usize = 1_000;

/// The most operators that may be listed.
pub const OPERATORS_MAX: usize = 1_000;

/// The most keys of one holder that may be good at once.
pub const KEYS_PER_HOLDER_MAX: usize = 16;

/// How long a key is remembered after its certificate has ended.
const KEY_REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// The most that may wait for a second person.
pub const PROPOSALS_MAX: usize = 1_000;

/// How long what one person asked for waits for a second, and is done for after that.
const PROPOSAL_LASTS: Duration = Duration::from_secs(24 * 3600);

/// What takes two persons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TwoPersons {
    /// Letting a site in: by a token two approve whoever comes with it, by its name two agree on it.
    #[serde(default)]
    pub enrolling: bool,
    /// Starting a run by a plan; a plan never changes afterwards.
    #[serde(default)]
    pub planning: bool,
    /// Taking a model out.
    #[serde(default)]
    pub exporting: bool,
}

/// Everything about who may become a member and who is one, but for the sites themselves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Roster {
    /// Open invitations, by site.
    pub invites: BTreeMap<SiteName, Invite>,
    /// The secrets of invitations that were ended or replaced, until these would have ended by themselves: a
    /// call that comes late makes none of them good again.
    pub ended: BTreeMap<Digest, Timestamp>,
    /// Keys that the coordinator issued certificates for.
    pub keys: BTreeMap<KeyId, KeyRow>,
    /// Operators by name; while none is listed, every operator's certificate is an admin's.
    pub operators: BTreeMap<OperatorName, OperatorRow>,
    /// What takes two persons and one has asked for, by the digest of its words.
    pub proposals: BTreeMap<Digest, Proposal>,
}

/// What takes two persons and one has asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// In words that name all of it.
    pub what: String,
    /// The first person.
    pub asked_by: OperatorName,
    /// When it was asked for.
    pub asked_at: Timestamp,
    /// The second.
    pub approved_by: Option<OperatorName>,
    /// When it was acted on, where that is once only. It stays for who repeats the approval.
    pub spent_at: Option<Timestamp>,
}

/// An invitation to join.
#[derive(Clone, Debug, PartialEq)]
pub struct Invite {
    /// The digest of the token's secret.
    pub secret: Digest,
    /// Who invited.
    pub invited_by: OperatorName,
    /// From when on nobody joins by it.
    pub expires_at: Timestamp,
    /// How often a wrong secret may still be shown.
    pub tries_left: u32,
    /// Whether nobody has to approve.
    pub auto_approve: bool,
    /// Who showed the secret first.
    pub candidate: Option<Candidate>,
}

/// Who asks to join.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The public key for its certificate, as DER.
    pub public_key: Vec<u8>,
    /// Its Ed25519 key.
    pub signing_key: [u8; 32],
    /// Who has approved it.
    pub approved_by: BTreeSet<OperatorName>,
    /// Until when the certificate holds that it was let in with.
    pub admitted_until: Option<Timestamp>,
}

/// A key that a certificate was issued for.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyRow {
    /// Whose it is.
    pub holder: Role,
    /// When the certificate was issued.
    pub issued_at: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    /// When the key was shut out.
    pub revoked_at: Option<Timestamp>,
}

/// What an operator may do.
#[derive(Clone, Debug, PartialEq)]
pub struct OperatorRow {
    /// Nothing where there is none; then not even a connection is made.
    pub roles: Roles,
    /// When it was last changed.
    pub since: Timestamp,
}

/// A part that operators play.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OperatorRole {
    /// Sees sites, runs and rounds.
    Viewer,
    /// Creates and steers runs, moves models.
    Runner,
    /// Lets sites in and shuts them out.
    Approver,
    /// Reads the audit log.
    Auditor,
    /// May do all of it, and says what others may do.
    Admin,
}

/// What one operator may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles(pub BTreeSet<OperatorRole>);

/// The text is not a part that operators play.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no operator's role: viewer, runner, approver, auditor or admin")]
pub struct NotARole(String);

impl Roster {
    /// What the operator `name` may do; `None` if it is not listed though others are.
    pub fn roles(&self, name: &OperatorName) -> Option<Roles> {
        match self.operators.is_empty() {
            true => Some(Roles::from(OperatorRole::Admin)),
            false => self.operators.get(name).map(|row| row.roles.clone()),
        }
    }

    /// Whether `key` was issued to `holder` and not shut out since.
    pub fn holds(&self, holder: &Role, key: &KeyId) -> bool {
        self.keys.get(key).is_some_and(|row| row.holder == *holder && row.revoked_at.is_none())
    }

    /// Whether `key` was shut out.
    pub fn is_revoked(&self, key: &KeyId) -> bool {
        self.keys.get(key).is_some_and(|row| row.revoked_at.is_some())
    }

    /// When the newest certificate of `holder` ends that is not revoked.
    pub fn until(&self, holder: &Role) -> Option<Timestamp> {
        let held = self.keys.values().filter(|row| row.holder == *holder);
        held.filter(|row| row.revoked_at.is_none()).map(|row| row.not_after).max()
    }

    /// Shuts every key of `holder` out.
    pub fn revoke_keys(&mut self, holder: &Role, now: Timestamp) {
        for row in self.keys.values_mut().filter(|row| row.holder == *holder) {
            row.revoked_at.get_or_insert(now);
        }
    }

    /// Ends an invitation before its time, for good, if there is one.
    pub fn end_invite(&mut self, site: &SiteName) {
        if let Some(invite) = self.invites.remove(site) {
            self.ended.insert(invite.secret, invite.expires_at);
            self.bound_ended();
        }
    }

    /// Puts an invitation into the place of the one that the site has, which is ended for good.
    pub fn put_invite(&mut self, site: SiteName, invite: Invite) {
        let secret = invite.secret;
        let replaced = self.invites.insert(site, invite).filter(|held| held.secret != secret);
        if let Some(held) = replaced {
            self.ended.insert(held.secret, held.expires_at);
            self.bound_ended();
        }
    }

    fn bound_ended(&mut self) {
        let first = self.ended.iter().min_by_key(|(_, until)| **until).map(|(secret, _)| *secret);
        if let Some(first) = first.filter(|_| self.ended.len() > ENDED_MAX) {
            self.ended.remove(&first);
        }
    }

    /// Forgets what has long ended: keys with their certificates, invitations, their tokens, and proposals. A key
    /// that was shut out is remembered for as long as a certificate for it could hold.
    pub fn forget(&mut self, now: Timestamp) {
        let past = |end: Timestamp, more: Duration| {
            end.checked_add(more).is_ok_and(|forgotten| forgotten < now)
        };
        self.keys.retain(|_, row| !past(row.not_after, KEY_REMEMBERED));
        self.invites.retain(|_, invite| !invite.is_over(now));
        self.ended.retain(|_, until| *until > now);
        self.proposals.retain(|_, proposal| !proposal.is_over(now));
    }
}

impl TwoPersons {
    /// How many operators must approve a site that joins by a token.
    pub fn approvals(&self) -> usize {
        1 + usize::from(self.enrolling)
    }
}

impl Proposal {
    /// Whether it is forgotten `now`.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.asked_at.checked_add(PROPOSAL_LASTS).is_ok_and(|over| over <= now)
    }
}

impl Invite {
    /// Whether nobody joins by it any more. Whoever was let in hears so for an hour longer.
    pub fn is_over(&self, now: Timestamp) -> bool {
        let admitted = self.candidate.as_ref().is_some_and(|held| held.admitted_until.is_some());
        let longer = if admitted { ADMITTED_TOLD } else { Duration::ZERO };
        self.expires_at.checked_add(longer).is_ok_and(|over| over <= now)
    }
}

impl Candidate {
    /// The keys that people compare the words of.
    pub fn keys(&self) -> Keys {
        let tls = KeyId::of_public_key(&self.public_key);
        Keys { tls, signing: self.signing_key }
    }
}

impl Roles {
    /// Whether one of `any` is among them.
    pub fn are_any_of(&self, any: &[OperatorRole]) -> bool {
        any.iter().any(|role| self.0.contains(role))
    }
}

impl From<OperatorRole> for Roles {
    fn from(role: OperatorRole) -> Roles {
        Roles(BTreeSet::from([role]))
    }
}

impl OperatorRole {
    /// Every role there is.
    pub const ALL: [OperatorRole; 5] = [
        OperatorRole::Viewer,
        OperatorRole::Runner,
        OperatorRole::Approver,
        OperatorRole::Auditor,
        OperatorRole::Admin,
    ];

    /// The role in a word.
    pub fn as_str(self) -> &'static str {
        match self {
            OperatorRole::Viewer => "viewer",
            OperatorRole::Runner => "runner",
            OperatorRole::Approver => "approver",
            OperatorRole::Auditor => "auditor",
            OperatorRole::Admin => "admin",
        }
    }
}

impl FromStr for OperatorRole {
    type Err = NotARole;
    fn from_str(text: &str) -> Result<OperatorRole, NotARole> {
        let found = OperatorRole::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| NotARole(text.chars().take(20).collect()))
    }
}

impl FromStr for Roles {
    type Err = NotARole;
    fn from_str(text: &str) -> Result<Roles, NotARole> {
        let words = text.split(' ').filter(|word| !word.is_empty());
        words.map(str::parse).collect::<Result<_, _>>().map(Roles)
    }
}

impl fmt::Display for Roles {
    /// Words with blanks between them; nothing where there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.0.iter().map(|role| role.as_str()).collect();
        f.write_str(&words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::START;

    fn after(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn roles_are_their_words() {
        for text in ["", "viewer", "runner approver", "viewer runner approver auditor admin"] {
            assert_eq!(text.parse::<Roles>().unwrap().to_string(), text);
        }
        assert!("root".parse::<Roles>().unwrap_err().to_string().contains("root"));
    }

    #[test]
    fn an_operator_who_is_not_listed_may_do_all_until_somebody_is() {
        let (ada, bob) = ("ada".parse().unwrap(), "bob".parse().unwrap());
        let mut roster = Roster::default();
        assert_eq!(roster.roles(&ada), Some(OperatorRole::Admin.into()));
        let row = OperatorRow { roles: OperatorRole::Viewer.into(), since: START };
        roster.operators.insert(bob, row);
        assert_eq!(roster.roles(&ada), None);
    }

    #[test]
    fn a_key_that_was_shut_out_is_remembered_until_no_certificate_for_it_can_hold() {
        let holder = Role::Site("mayo".parse().unwrap());
        let key = KeyId::of_public_key(b"key");
        let row = KeyRow {
            holder: holder.clone(),
            issued_at: START,
            not_after: after(100),
            revoked_at: None,
        };
        let mut roster = Roster { keys: [(key, row)].into(), ..Roster::default() };
        assert!(roster.holds(&holder, &key));
        assert_eq!(roster.until(&holder), Some(after(100)));
        roster.revoke_keys(&holder, after(10));
        roster.forget(after(101));
        assert!(roster.is_revoked(&key) && !roster.holds(&holder, &key));
        assert_eq!(roster.until(&holder), None);
        roster.forget(after(100 + 25 * 3600));
        assert!(roster.keys.is_empty());
    }

    fn invite(secret: usize, ends: i64) -> Invite {
        Invite {
            secret: Digest::of(secret.to_string().as_bytes()),
            invited_by: "ada".parse().unwrap(),
            expires_at: after(ends),
            tries_left: INVITE_TRIES,
            auto_approve: false,
            candidate: None,
        }
    }

    #[test]
    fn a_token_that_was_ended_is_remembered_until_it_would_have_ended_and_within_bounds() {
        let (mayo, mut roster) = ("mayo".parse::<SiteName>().unwrap(), Roster::default());
        roster.end_invite(&mayo);
        roster.put_invite(mayo.clone(), invite(1, 100));
        roster.put_invite(mayo.clone(), invite(1, 100));
        assert!(roster.ended.is_empty(), "the same token is good still");
        roster.put_invite(mayo.clone(), invite(2, 200));
        roster.end_invite(&mayo);
        let ended = [invite(1, 100), invite(2, 200)].map(|held| (held.secret, held.expires_at));
        assert_eq!(roster.ended, BTreeMap::from(ended));
        roster.forget(after(100));
        assert_eq!(roster.ended, BTreeMap::from([ended[1]]));
        for n in 0..ENDED_MAX {
            roster.put_invite(mayo.clone(), invite(n + 3, 300));
        }
        roster.end_invite(&mayo);
        assert_eq!(roster.ended.len(), ENDED_MAX);
        assert!(!roster.ended.contains_key(&ended[1].0), "it would have ended first");
    }
}
