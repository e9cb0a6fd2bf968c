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

/// How often a wrong secret may be shown until an invitation is burnt.
pub const INVITE_TRIES: u32 = 5;

/// The most invitations that may be open.
pub const INVITES_MAX: usize = 1_000;

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

    /// Forgets what has long ended: keys with their certificates, and invitations. A key that was shut
    /// out is remembered for as long as a certificate for it could hold.
    pub fn forget(&mut self, now: Timestamp) {
        let past = |end: Timestamp, more: Duration| {
            end.checked_add(more).is_ok_and(|forgotten| forgotten < now)
        };
        self.keys.retain(|_, row| !past(row.not_after, KEY_REMEMBERED));
        self.invites.retain(|_, invite| !past(invite.expires_at, Duration::ZERO));
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
}
