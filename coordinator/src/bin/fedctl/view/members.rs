//! Who is a member and who is to become one.

use fedpaint_proto::names::Digest;
use fedpaint_proto::v1;
use jiff::Timestamp;
use serde::Serialize;

use super::{Site, UNKNOWN, time};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Sites {
    pub(crate) sites: Vec<Site>,
    /// Invitations that are open.
    pub(crate) invites: Vec<Invite>,
}

/// A token that was made just now; it is shown once and nowhere else.
#[derive(Clone, PartialEq, Serialize)]
pub(crate) struct Invitation {
    pub(crate) site: String,
    pub(crate) token: String,
    pub(crate) expires_at: Option<Timestamp>,
}

/// An invitation, and who asks by it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Invite {
    pub(crate) site: String,
    /// `open`, `asks`, `approved` or `admitted`.
    pub(crate) state: &'static str,
    pub(crate) invited_by: String,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) tries_left: u32,
    pub(crate) auto_approve: bool,
    /// The fingerprint of the keys that ask; null until somebody does.
    pub(crate) words: Option<String>,
    pub(crate) approved_by: Vec<String>,
    pub(crate) approvals_needed: u32,
}

/// An invitation that is no more.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Rejected {
    pub(crate) site: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Operator {
    pub(crate) name: String,
    /// `viewer`, `runner`, `approver`, `auditor`, `admin`; none if it may do nothing.
    pub(crate) roles: Vec<&'static str>,
    pub(crate) since: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Operators {
    pub(crate) operators: Vec<Operator>,
}

/// What takes two persons and one has asked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Proposal {
    /// 64 hexadecimal digits.
    pub(crate) id: String,
    pub(crate) what: String,
    pub(crate) asked_by: String,
    pub(crate) asked_at: Option<Timestamp>,
    /// Null until somebody has.
    pub(crate) approved_by: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Proposals {
    pub(crate) proposals: Vec<Proposal>,
}

/// In how many committed rounds a site was missing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct SiteTally {
    pub(crate) site: String,
    pub(crate) missing: u32,
    /// How many of its updates came late and were folded into later rounds.
    pub(crate) folded: u32,
    /// How many of its updates were quarantined.
    pub(crate) quarantined: u32,
}

impl From<v1::SiteTally> for SiteTally {
    fn from(tally: v1::SiteTally) -> SiteTally {
        let v1::SiteTally { site, missing, folded, quarantined } = tally;
        SiteTally { site, missing, folded, quarantined }
    }
}

/// When a certificate ends.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Expiry {
    pub(crate) holder: String,
    pub(crate) not_after: Option<Timestamp>,
}

impl From<v1::Invite> for Invite {
    fn from(invite: v1::Invite) -> Invite {
        let approved = invite.approved_by.len() as u64 >= u64::from(invite.approvals_needed);
        let state = match (invite.admitted, invite.words.is_empty()) {
            (true, _) => "admitted",
            (false, true) => "open",
            (false, false) if approved => "approved",
            (false, false) => "asks",
        };
        Invite {
            site: invite.site,
            state,
            invited_by: invite.invited_by,
            expires_at: time(invite.expires_at),
            tries_left: invite.tries_left,
            auto_approve: invite.auto_approve,
            words: Some(invite.words).filter(|words| !words.is_empty()),
            approved_by: invite.approved_by,
            approvals_needed: invite.approvals_needed,
        }
    }
}

impl From<v1::Operator> for Operator {
    fn from(operator: v1::Operator) -> Operator {
        let role = |role| match role {
            v1::OperatorRole::Viewer => "viewer",
            v1::OperatorRole::Runner => "runner",
            v1::OperatorRole::Approver => "approver",
            v1::OperatorRole::Auditor => "auditor",
            v1::OperatorRole::Admin => "admin",
            v1::OperatorRole::Unspecified => UNKNOWN,
        };
        let roles = operator.roles().map(role).collect();
        Operator { name: operator.name, roles, since: time(operator.since) }
    }
}

impl From<v1::Proposal> for Proposal {
    fn from(proposal: v1::Proposal) -> Proposal {
        let id = Digest::try_from(&proposal.id[..]);
        Proposal {
            id: id.map_or(UNKNOWN.to_owned(), |id| id.to_string()),
            what: proposal.what,
            asked_by: proposal.asked_by,
            asked_at: time(proposal.asked_at),
            approved_by: Some(proposal.approved_by).filter(|name| !name.is_empty()),
        }
    }
}

impl From<v1::Expiry> for Expiry {
    fn from(expiry: v1::Expiry) -> Expiry {
        Expiry { holder: expiry.holder, not_after: time(expiry.not_after) }
    }
}
