//! Who becomes a member and who stops to be one: sites by name or by invitation, keys, operators.

use std::collections::BTreeSet;
use std::time::Duration;

use fedpaint_proto::identity::{KeyId, Role};
use fedpaint_proto::names::{Digest, OperatorName, RunName, SiteName};
use jiff::Timestamp;

use super::apply::{SITES_MAX, by_operator};
use super::request::Sight;
use super::state::State;
use super::{COORDINATOR, Core, Step};
use crate::audit::Entry;
use crate::driver::error::{Error, JoinRefusal};
use crate::records::SiteRow;
use crate::roster::{
    Candidate, INVITE_LASTS, INVITE_TRIES, INVITES_MAX, Invite, KEYS_PER_HOLDER_MAX, KeyRow,
    OPERATORS_MAX, OperatorRole, OperatorRow, Roles,
};
use crate::round::Event;

/// "I hold this token; these are my keys."
#[derive(Clone, Debug, PartialEq)]
pub struct Asking {
    /// The site that the token is for.
    pub site: SiteName,
    /// The digest of the secret that was shown.
    pub secret: Digest,
    /// The public key for the certificate, as DER.
    pub public_key: Vec<u8>,
    /// The Ed25519 key, which was proven to be held.
    pub signing_key: [u8; 32],
    /// How long the certificate is to last.
    pub life: Duration,
    /// How many operators must approve.
    pub approvals: usize,
}

/// "This is my next key."
#[derive(Clone, Debug, PartialEq)]
pub struct Renewal {
    /// Who asks.
    pub holder: Role,
    /// The key that it asks with.
    pub held: KeyId,
    /// The key that it will have.
    pub next: KeyId,
    /// How long the certificate is to last.
    pub life: Duration,
}

/// Letting in whoever has a token, in words.
fn uncontrolled_in_words(name: &SiteName) -> String {
    format!("invite site {name} without an approval")
}

impl Core {
    pub(super) fn enroll(
        &self,
        actor: OperatorName,
        name: SiteName,
        revoked: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Step, Error> {
        match self.state.site(&name) {
            Some(site) if site.revoked_at.is_none() => return Ok(self.nothing()),
            Some(site) if site.revoked_at != revoked => return Err(Error::RevokedSince(name)),
            _ => self.room_for(&name)?,
        }
        let what = format!("enroll site {name}");
        if self.rules.enrolling
            && let Some(noted) = self.second_person(&actor, what.clone(), now)?
        {
            return Ok(noted);
        }
        let entry = Entry::new("site_enrolled", format!("site {name}"));
        let mut next = State::clone(&self.state);
        self.spend(&mut next, &what, now);
        next.put_site(SiteRow::by_name(name, now));
        Ok(self.step(next, &by_operator(actor), now, vec![entry]))
    }

    pub(super) fn revoke(
        &self,
        actor: OperatorName,
        name: SiteName,
        seen: Sight,
        now: Timestamp,
    ) -> Result<Step, Error> {
        let site = self.state.site(&name).ok_or_else(|| Error::SiteUnknown(name.clone()))?;
        if site.revoked_at.is_some() {
            return Ok(self.nothing());
        }
        // It was let in again since: whoever did knew better than a call that comes late.
        if !seen.is_of(Some(site.enrolled_at)) {
            return Err(Error::Stale(format!("site {name}")));
        }
        let mut next = State::clone(&self.state);
        next.put_site(SiteRow { revoked_at: Some(now), ..site.clone() });
        let roster = next.roster_mut(now);
        roster.revoke_keys(&Role::Site(name.clone()), now);
        roster.end_invite(&name);
        let runs: Vec<RunName> = self.state.runs().map(|run| run.name().clone()).collect();
        for run in &runs {
            // A round that the site is not in, or that is past reporting, stays as it is.
            let _ = next.change_run(run, |run| run.apply(Event::Revoked(name.clone()), now))?;
        }
        let entry = Entry::new("site_revoked", format!("site {name}"));
        Ok(self.step(next, &by_operator(actor), now, vec![entry]))
    }

    pub(super) fn invite(
        &self,
        actor: OperatorName,
        name: SiteName,
        (secret, auto_approve): (Digest, bool),
        seen: Sight,
        now: Timestamp,
    ) -> Result<Step, Error> {
        let held = self.state.roster().invites.get(&name);
        if held.is_some_and(|held| held.secret == secret && held.auto_approve == auto_approve) {
            return Ok(self.nothing());
        }
        // A token that was ended is not good again, whatever its call saw.
        if self.state.roster().ended.contains_key(&secret) {
            return Err(invitation_is_stale(&name));
        }
        self.saw_invite(&name, seen, now)?;
        self.room_for(&name)?;
        // Otherwise two persons approve whoever comes with the token.
        if auto_approve
            && self.rules.enrolling
            && let Some(noted) = self.second_person(&actor, uncontrolled_in_words(&name), now)?
        {
            return Ok(noted);
        }
        let mut next = State::clone(&self.state);
        if auto_approve {
            self.spend(&mut next, &uncontrolled_in_words(&name), now);
        }
        let roster = next.roster_mut(now);
        if roster.invites.len() >= INVITES_MAX && !roster.invites.contains_key(&name) {
            let (what, limit) = ("invitations", "INVITES_MAX");
            return Err(Error::TooMany { what, max: INVITES_MAX, limit });
        }
        let expires_at = now.checked_add(INVITE_LASTS).unwrap_or(Timestamp::MAX);
        let how = if auto_approve { "without an approval" } else { "to be approved" };
        let entry = Entry::new("site_invited", format!("site {name}: until {expires_at}, {how}"));
        let invite = Invite {
            secret,
            invited_by: actor.clone(),
            expires_at,
            tries_left: INVITE_TRIES,
            auto_approve,
            candidate: None,
        };
        roster.put_invite(name, invite);
        Ok(self.step(next, &by_operator(actor), now, vec![entry]))
    }

    pub(super) fn approve(
        &self,
        actor: OperatorName,
        name: SiteName,
        words: &str,
        seen: Sight,
        now: Timestamp,
    ) -> Result<Step, Error> {
        let unknown = || Error::InviteUnknown(name.clone());
        let mut next = State::clone(&self.state);
        let invite = next.roster_mut(now).invites.get_mut(&name).ok_or_else(unknown)?;
        if !seen.is_of(Some(invite.expires_at)) {
            return Err(invitation_is_stale(&name));
        }
        let candidate = invite.candidate.as_mut().ok_or_else(|| Error::NobodyAsks(name.clone()))?;
        if candidate.keys().words(&name) != words {
            return Err(Error::WrongWords(name));
        }
        if !candidate.approved_by.insert(actor.clone()) {
            return Ok(self.nothing());
        }
        let entry = Entry::new("site_approved", format!("site {name}: keys {words}"));
        Ok(self.step(next, &by_operator(actor), now, vec![entry]))
    }

    pub(super) fn reject(
        &self,
        actor: OperatorName,
        name: SiteName,
        seen: Sight,
        now: Timestamp,
    ) -> Result<Step, Error> {
        let mut next = State::clone(&self.state);
        let roster = next.roster_mut(now);
        let ends = roster.invites.get(&name).map(|held| held.expires_at);
        let Some(ends) = ends.filter(|ends| *ends > now) else { return Ok(self.nothing()) };
        if !seen.is_of(Some(ends)) {
            return Err(invitation_is_stale(&name));
        }
        roster.end_invite(&name);
        let entry = Entry::new("invitation_ended", format!("site {name}"));
        Ok(self.step(next, &by_operator(actor), now, vec![entry]))
    }

    /// Takes note of who shows a token's secret, and lets it in once it is approved. A wrong secret, or
    /// a right one with other keys than were shown first, counts as a try.
    pub(super) fn join(&self, asking: Asking, now: Timestamp) -> Result<Step, Error> {
        let name = asking.site.clone();
        let held = self.state.roster().invites.get(&name).cloned();
        let Some(mut invite) = held else { return Ok(self.stranger(&name, now)) };
        if invite.is_over(now) {
            return Ok(self.join_refused(name, None, JoinRefusal::Expired, now));
        }
        // A call by a token from before is no guess at this one.
        let ended = self.state.roster().ended.contains_key(&asking.secret);
        if ended && invite.secret != asking.secret {
            return Ok(self.stranger(&name, now));
        }
        let wrong = match &invite.candidate {
            _ if invite.secret != asking.secret => Some(JoinRefusal::WrongSecret),
            Some(held) if held.public_key != asking.public_key => Some(JoinRefusal::Used),
            Some(held) if held.signing_key != asking.signing_key => Some(JoinRefusal::Used),
            _ => None,
        };
        if let Some(refusal) = wrong {
            invite.tries_left = invite.tries_left.saturating_sub(1);
            let left = (invite.tries_left > 0).then_some(invite);
            return Ok(self.join_refused(name, left, refusal, now));
        }
        let mut entries = Vec::new();
        let mut candidate = match invite.candidate.take() {
            Some(candidate) => candidate,
            None => {
                let candidate = Candidate {
                    public_key: asking.public_key,
                    signing_key: asking.signing_key,
                    approved_by: BTreeSet::new(),
                    admitted_until: None,
                };
                let id = candidate.keys().tls;
                if self.state.roster().keys.contains_key(&id) {
                    return Err(Error::KeyKnown);
                }
                let words = candidate.keys().words(&name);
                entries.push(Entry::new("site_asks", format!("site {name}: keys {words}")));
                candidate
            }
        };
        let approved = invite.auto_approve || candidate.approved_by.len() >= asking.approvals;
        let mut next = State::clone(&self.state);
        if approved && candidate.admitted_until.is_none() {
            self.room_for(&name)?;
            let until = end_of(now, asking.life);
            candidate.admitted_until = Some(until);
            entries.push(admitted(&name, &invite, &candidate));
            next.put_site(SiteRow {
                name: name.clone(),
                enrolled_at: now,
                revoked_at: None,
                joined_at: Some(now),
                signing_key: Some(candidate.signing_key),
            });
            let (holder, roster) = (Role::Site(name.clone()), next.roster_mut(now));
            roster.revoke_keys(&holder, now);
            let id = candidate.keys().tls;
            let row = KeyRow { holder, issued_at: now, not_after: until, revoked_at: None };
            roster.keys.insert(id, row);
        }
        if entries.is_empty() {
            return Ok(self.nothing());
        }
        invite.candidate = Some(candidate);
        next.roster_mut(now).invites.insert(name, invite);
        Ok(self.step(next, COORDINATOR, now, entries))
    }

    fn join_refused(
        &self,
        name: SiteName,
        left: Option<Invite>,
        refusal: JoinRefusal,
        now: Timestamp,
    ) -> Step {
        let mut entries = vec![Entry::new("join_refused", format!("site {name}: {refusal}"))];
        let mut next = State::clone(&self.state);
        let roster = next.roster_mut(now);
        match left {
            Some(invite) => roster.put_invite(name, invite),
            None => {
                // That one has expired is told with what is forgotten.
                if refusal != JoinRefusal::Expired {
                    let detail = format!("site {name}: its token is of no use any more");
                    entries.push(Entry::new("invitation_ended", detail));
                }
                roster.end_invite(&name);
            }
        }
        let step = self.step(next, COORDINATOR, now, entries);
        Step { refused: Some(Error::JoinRefused(refusal)), ..step }
    }

    pub(super) fn renew(&self, renewal: Renewal, now: Timestamp) -> Result<Step, Error> {
        let Renewal { holder, held, next: key, life } = renewal;
        self.state.admits(&holder, &held)?;
        if self.state.roster().holds(&holder, &key) && key != held {
            return Ok(self.nothing());
        }
        if self.state.roster().keys.contains_key(&key) || key == held {
            return Err(Error::KeyKnown);
        }
        let mut next = State::clone(&self.state);
        let keys = &mut next.roster_mut(now).keys;
        let good = |(_, row): &(&KeyId, &mut KeyRow)| {
            row.holder == holder && row.not_after > now && row.revoked_at.is_none()
        };
        let good: Vec<(&KeyId, &mut KeyRow)> = keys.iter_mut().filter(good).collect();
        let until = end_of(now, life);
        let mut entries =
            vec![Entry::new("certificate_renewed", format!("{holder}: until {until}"))];
        // Keys whose certificates never came: whoever has that many asks with one and uses no other.
        if good.len() >= KEYS_PER_HOLDER_MAX
            && let Some((id, oldest)) = good
                .into_iter()
                .filter(|(id, _)| **id != held)
                .min_by_key(|(id, row)| (row.issued_at, **id))
        {
            oldest.revoked_at = Some(now);
            let detail = format!("{holder}: key {id}, the oldest of {KEYS_PER_HOLDER_MAX}");
            entries.push(Entry::new("key_revoked", detail));
        }
        let actor = holder.to_string();
        keys.insert(key, KeyRow { holder, issued_at: now, not_after: until, revoked_at: None });
        Ok(self.step(next, &actor, now, entries))
    }

    pub(super) fn set_operator(
        &self,
        actor: OperatorName,
        name: OperatorName,
        roles: Roles,
        seen: Sight,
        now: Timestamp,
    ) -> Result<Step, Error> {
        let held = self.state.roster().operators.get(&name);
        if held.is_some_and(|held| held.roles == roles) {
            return Ok(self.nothing());
        }
        if !seen.is_of(held.map(|held| held.since)) {
            return Err(Error::Stale(format!("what operator {name} may do")));
        }
        let mut next = State::clone(&self.state);
        let roster = next.roster_mut(now);
        if held.is_none() && roster.operators.len() >= OPERATORS_MAX {
            let (what, limit) = ("operators", "OPERATORS_MAX");
            return Err(Error::TooMany { what, max: OPERATORS_MAX, limit });
        }
        let what = if roles.0.is_empty() { "nothing".to_owned() } else { roles.to_string() };
        if roles.0.is_empty() {
            roster.revoke_keys(&Role::Operator(name.clone()), now);
        }
        roster.operators.insert(name.clone(), OperatorRow { roles, since: now });
        let admin = |row: &OperatorRow| row.roles.are_any_of(&[OperatorRole::Admin]);
        if !roster.operators.values().any(admin) {
            return Err(Error::NoAdmin);
        }
        let entry = Entry::new("operator_set", format!("operator {name}: may {what}"));
        Ok(self.step(next, &by_operator(actor), now, vec![entry]))
    }

    /// Whether the invitation that is open for a site, if one is, is the one that was seen.
    fn saw_invite(&self, name: &SiteName, seen: Sight, now: Timestamp) -> Result<(), Error> {
        let held = self.state.roster().invites.get(name);
        let open = held.map(|held| held.expires_at).filter(|ends| *ends > now);
        if seen.is_of(open) { Ok(()) } else { Err(invitation_is_stale(name)) }
    }

    /// Whether there may be one site more, unless there is this one already.
    fn room_for(&self, name: &SiteName) -> Result<(), Error> {
        match self.state.site(name).is_none() && self.state.site_count() >= SITES_MAX {
            true => Err(Error::TooMany { what: "sites", max: SITES_MAX, limit: "SITES_MAX" }),
            false => Ok(()),
        }
    }
}

fn invitation_is_stale(name: &SiteName) -> Error {
    Error::Stale(format!("the invitation of site {name}"))
}

/// When a certificate ends that lasts for `life`; in whole seconds, as certificates have it.
fn end_of(now: Timestamp, life: Duration) -> Timestamp {
    let end = now.checked_add(life).unwrap_or(Timestamp::MAX).as_second();
    Timestamp::from_second(end).unwrap_or(Timestamp::MAX)
}

fn admitted(name: &SiteName, invite: &Invite, candidate: &Candidate) -> Entry {
    let mut by: Vec<String> = candidate.approved_by.iter().map(ToString::to_string).collect();
    if invite.auto_approve {
        by.push("nobody, as the invitation had it".to_owned());
    }
    let (words, inviter) = (candidate.keys().words(name), &invite.invited_by);
    let by = by.join(", ");
    let detail = format!("site {name}: keys {words}, invited by {inviter}, approved by {by}");
    Entry::new("site_enrolled", detail)
}
