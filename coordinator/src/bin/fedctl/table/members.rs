//! Who is a member and who is to become one, as tables.

use jiff::Timestamp;

use super::{facts, or_none, sites, table};
use crate::human::{NONE, ago};
use crate::output::Show;
use crate::view::{
    Expiry, Invitation, Invite, Operator, Operators, PlanSigned, Proposal, Proposals, Rejected,
    Sites,
};

impl Show for Sites {
    fn table(&self, now: Timestamp) -> String {
        let sites = sites(&self.sites, now);
        match self.invites.is_empty() {
            true => sites,
            false => format!("{sites}\n\n{}", invites(&self.invites, now)),
        }
    }
}

fn invites(invites: &[Invite], now: Timestamp) -> String {
    let row = |invite: &Invite| {
        let (approved, needed) = (invite.approved_by.len(), invite.approvals_needed);
        let approvals =
            if invite.auto_approve { NONE.into() } else { format!("{approved}/{needed}") };
        vec![
            invite.site.clone(),
            invite.state.to_owned(),
            or_none(invite.words.as_deref()),
            approvals,
            invite.tries_left.to_string(),
            ago(now, invite.expires_at),
            invite.invited_by.clone(),
        ]
    };
    let header = ["INVITED", "STATE", "WORDS", "APPROVED", "TRIES ", "ENDS", "BY"];
    table(&header, invites.iter().map(row))
}

impl Show for Invitation {
    fn table(&self, now: Timestamp) -> String {
        let site = &self.site;
        facts(&[
            ("site", site.clone()),
            ("holds", ago(now, self.expires_at)),
            ("token", self.token.clone()),
            ("there", "fedpaint-site-agent join TOKEN --coordinator https://HOST:PORT".to_owned()),
            ("then here", format!("fedctl site approve {site} WORDS")),
        ])
    }
}

impl Show for Invite {
    fn table(&self, now: Timestamp) -> String {
        invites(std::slice::from_ref(self), now)
    }
}

impl Show for PlanSigned {
    fn table(&self, _: Timestamp) -> String {
        facts(&[
            ("signer", self.signer.clone()),
            ("plan", or_none(self.plan.as_deref())),
            ("written", self.file.clone()),
        ])
    }
}

impl Show for Rejected {
    fn table(&self, _: Timestamp) -> String {
        format!("nobody can join as {} any more", self.site)
    }
}

fn operators(operators: &[Operator], now: Timestamp) -> String {
    let row = |operator: &Operator| {
        let roles = if operator.roles.is_empty() { NONE.into() } else { operator.roles.join(" ") };
        vec![operator.name.clone(), roles, ago(now, operator.since)]
    };
    table(&["OPERATOR", "MAY", "SINCE"], operators.iter().map(row))
}

impl Show for Operators {
    fn table(&self, now: Timestamp) -> String {
        match self.operators.is_empty() {
            true => "nobody is listed, so every operator's certificate is an admin's".to_owned(),
            false => operators(&self.operators, now),
        }
    }
}

impl Show for Operator {
    fn table(&self, now: Timestamp) -> String {
        operators(std::slice::from_ref(self), now)
    }
}

impl Show for Proposals {
    fn table(&self, now: Timestamp) -> String {
        if self.proposals.is_empty() {
            return "nothing waits for a second person".to_owned();
        }
        let row = |proposal: &Proposal| {
            vec![
                proposal.id.clone(),
                proposal.what.clone(),
                proposal.asked_by.clone(),
                ago(now, proposal.asked_at),
                or_none(proposal.approved_by.as_deref()),
            ]
        };
        let header = ["PROPOSAL", "WHAT", "ASKED BY", "ASKED", "APPROVED BY"];
        table(&header, self.proposals.iter().map(row))
    }
}

/// How soon an end of a coordinator's or a site's certificate, which renew themselves, and of an authority's,
/// which somebody has to renew, and of what ends with it, is told in capitals, in seconds.
const SOON_S: [i64; 2] = [36 * 3600, 30 * 24 * 3600];

/// What is told in capitals of an end, if it is past or less than `soon_s` from now.
fn alarm(end: Option<Timestamp>, now: Timestamp, soon_s: i64) -> Option<&'static str> {
    match end?.as_second() - now.as_second() {
        ..=0 => Some("EXPIRED"),
        left if left < soon_s => Some("ENDS SOON"),
        _ => None,
    }
}

/// When the certificate of a site ends.
pub(super) fn site_end(end: Option<Timestamp>, now: Timestamp) -> String {
    end_of(end, now, SOON_S[0])
}

/// When the certificate ends that a site signs with, which ends with the authority's.
pub(super) fn signing_end(end: Option<Timestamp>, now: Timestamp) -> String {
    end_of(end, now, SOON_S[1])
}

fn end_of(end: Option<Timestamp>, now: Timestamp, soon_s: i64) -> String {
    let ends = ago(now, end);
    match alarm(end, now, soon_s) {
        Some(alarm) => format!("{ends}, {alarm}"),
        None => ends,
    }
}

/// Which certificates end when.
pub(super) fn expiries(expiries: &[Expiry], now: Timestamp) -> String {
    let row = |expiry: &Expiry| {
        let leaf = expiry.holder.contains('/') && !expiry.holder.ends_with(", signing");
        let alarm = alarm(expiry.not_after, now, SOON_S[usize::from(!leaf)]).unwrap_or_default();
        vec![expiry.holder.clone(), ago(now, expiry.not_after), alarm.to_owned()]
    };
    table(&["CERTIFICATE", "ENDS", ""], expiries.iter().map(row))
}
