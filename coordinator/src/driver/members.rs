//! What services ask about members: who they are, and who becomes one.

use std::sync::Arc;

use fedpaint_proto::identity::{KeyId, Role};
use fedpaint_proto::names::{Digest, OperatorName, SiteName};
use fedpaint_proto::signing;
use jiff::Timestamp;
use tokio::sync::watch;

use super::core::{Asking, Renewal, Request, Sight, Standing, State};
use super::error::Error;
use super::handle::Handle;
use super::view::SiteView;
use crate::roster::{Invite, OperatorRow, Proposal, Roles};

/// What became of asking to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joining {
    /// It is to be approved.
    Waiting,
    /// It is in, and its certificate holds until then.
    Admitted(Timestamp),
}

impl Handle {
    /// What the holder of a certificate may do.
    ///
    /// # Errors
    /// If it was shut out, or never let in.
    pub fn admits(&self, role: &Role, key: &KeyId) -> Result<Standing, Error> {
        self.state.borrow().admits(role, key)
    }

    /// Whether the holder of a certificate was shut out, so that not even a handshake with it is made.
    pub fn shuts_out(&self, role: &Role, key: &KeyId) -> bool {
        self.state.borrow().shuts_out(role, key)
    }

    /// Every state that is on the disk, from the newest on.
    pub fn states(&self) -> watch::Receiver<Arc<State>> {
        self.state.clone()
    }

    /// Lets a site take part. Enrolling an enrolled site changes nothing; one that was revoked is
    /// let in again if it was `revoked` then.
    ///
    /// # Errors
    /// If it was revoked at another time, there are too many sites, or the database fails.
    pub async fn enroll_site(
        &self,
        actor: &OperatorName,
        site: &SiteName,
        revoked: Option<Timestamp>,
    ) -> Result<SiteView, Error> {
        self.change(Request::Enroll(actor.clone(), site.clone(), revoked)).await?;
        self.site(site)
    }

    /// Shuts a site out. In a round that is not yet aggregating it counts as withdrawn. One that is out
    /// stays so; one that was let in at another time than was `seen` stays in.
    ///
    /// # Errors
    /// If there is no such site, it was let in again since, or the database fails.
    pub async fn revoke_site(
        &self,
        actor: &OperatorName,
        site: &SiteName,
        seen: Sight,
    ) -> Result<SiteView, Error> {
        self.change(Request::Revoke(actor.clone(), site.clone(), seen)).await?;
        self.site(site)
    }

    /// Every site, by name.
    pub fn sites(&self) -> Vec<SiteView> {
        self.state.borrow().site_views()
    }

    /// Lets whoever shows the secret behind `secret` ask to join as `site`. The same again changes
    /// nothing; another secret takes the place of the first, if that is what was `seen`.
    ///
    /// # Errors
    /// If the secret was ended before or another invitation is there by now, there are too many invitations
    /// or sites, or the database fails.
    pub async fn invite_site(
        &self,
        actor: &OperatorName,
        site: &SiteName,
        (secret, auto_approve): (Digest, bool),
        seen: Sight,
    ) -> Result<Invite, Error> {
        let request = Request::Invite(actor.clone(), site.clone(), (secret, auto_approve), seen);
        self.change(request).await?;
        self.invite(site)
    }

    /// Approves who asks to join as `site`, if these are the words of its keys.
    ///
    /// # Errors
    /// If nobody asks, the words are others, another invitation is there by now than was `seen`, or the
    /// database fails.
    pub async fn approve_site(
        &self,
        actor: &OperatorName,
        site: &SiteName,
        words: String,
        seen: Sight,
    ) -> Result<Invite, Error> {
        self.change(Request::Approve(actor.clone(), site.clone(), words, seen)).await?;
        self.invite(site)
    }

    /// Ends the invitation that was `seen`; one that is over stays so.
    ///
    /// # Errors
    /// If another invitation is there by now, or the database fails.
    pub async fn reject_site(
        &self,
        actor: &OperatorName,
        site: &SiteName,
        seen: Sight,
    ) -> Result<(), Error> {
        self.change(Request::Reject(actor.clone(), site.clone(), seen)).await
    }

    /// Every invitation that is open, by site.
    pub fn invites(&self) -> Vec<(SiteName, Invite)> {
        let now = self.clock.now();
        let state = self.state.borrow();
        let open = state.roster().invites.iter().filter(|(_, invite)| invite.expires_at > now);
        open.map(|(site, invite)| (site.clone(), invite.clone())).collect()
    }

    /// Takes note of who shows a token, and lets it in if it is approved.
    ///
    /// # Errors
    /// If the token does not hold, or the database fails.
    pub async fn join(&self, asking: Asking) -> Result<Joining, Error> {
        let site = asking.site.clone();
        self.change(Request::Join(asking)).await?;
        let candidate = self.invite(&site)?.candidate;
        let until = candidate.and_then(|candidate| candidate.admitted_until);
        Ok(until.map_or(Joining::Waiting, Joining::Admitted))
    }

    /// Takes note that a stranger did not believe the coordinator, and ended its handshake by this alert.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn distrusted(&self, alert: &str) -> Result<(), Error> {
        self.change(Request::Distrusted(alert.to_owned())).await
    }

    /// Takes note of a member's next key; until when its certificate is to hold.
    ///
    /// # Errors
    /// If the key is not fresh, there are too many, or the database fails.
    pub async fn renew(&self, renewal: Renewal) -> Result<Timestamp, Error> {
        let key = renewal.next;
        self.change(Request::Renew(renewal)).await?;
        let state = self.state.borrow();
        state.roster().keys.get(&key).map(|row| row.not_after).ok_or(Error::KeyKnown)
    }

    /// The key that a member signs with, by the certificate that it shows for that.
    ///
    /// # Errors
    /// If the coordinator signs nothing itself, or the certificate is not the member's and for the key that it
    /// joined with.
    pub fn signs_with(&self, member: &Role, shown: &[u8]) -> Result<[u8; 32], signing::Error> {
        let nobody = || signing::Error::Certificate("this coordinator judges no signatures".into());
        let notary = self.notary.as_ref().ok_or_else(nobody)?;
        let state = self.state.borrow();
        let known = match member {
            Role::Site(site) => state.site(site).and_then(|site| site.signing_key),
            Role::Operator(_) | Role::Coordinator(_) => None,
        };
        notary.key((member, known), shown, self.clock.now())
    }

    /// Says what an operator may do; nothing, without roles.
    ///
    /// # Errors
    /// If it may something else since than was `seen`, no admin would be left, there are too many operators,
    /// or the database fails.
    pub async fn set_operator(
        &self,
        actor: &OperatorName,
        name: &OperatorName,
        roles: Roles,
        seen: Sight,
    ) -> Result<OperatorRow, Error> {
        self.change(Request::SetOperator(actor.clone(), name.clone(), roles, seen)).await?;
        let state = self.state.borrow();
        state.roster().operators.get(name).cloned().ok_or_else(|| Error::NotListed(name.clone()))
    }

    /// Every operator that is listed, by name.
    pub fn operators(&self) -> Vec<(OperatorName, OperatorRow)> {
        let state = self.state.borrow();
        let listed = state.roster().operators.iter();
        listed.map(|(name, row)| (name.clone(), row.clone())).collect()
    }

    /// Whether an operator may take this model's bytes out now, from `offset` on; the audit log then has who
    /// did. Where that takes two persons it is noted that this one asks.
    ///
    /// # Errors
    /// If a second person has not agreed, or the database fails.
    pub async fn may_export(
        &self,
        actor: &OperatorName,
        model: &Digest,
        offset: u64,
    ) -> Result<(), Error> {
        self.change(Request::Export(actor.clone(), *model, offset)).await
    }

    /// Agrees with what another operator has asked for.
    ///
    /// # Errors
    /// If nobody has, it was asked for again since it was `seen`, the operator is the same, or the database
    /// fails.
    pub async fn approve_proposal(
        &self,
        actor: &OperatorName,
        id: Digest,
        seen: Sight,
    ) -> Result<(), Error> {
        self.change(Request::ApproveProposal(actor.clone(), id, seen)).await
    }

    /// What waits for a second person, or had one and is not done yet, of the last day.
    pub fn proposals(&self) -> Vec<(Digest, Proposal)> {
        let now = self.clock.now();
        let state = self.state.borrow();
        let is_open = |held: &Proposal| held.spent_at.is_none() && !held.is_over(now);
        let open = state.roster().proposals.iter().filter(|(_, held)| is_open(held));
        open.map(|(id, proposal)| (*id, proposal.clone())).collect()
    }

    fn invite(&self, site: &SiteName) -> Result<Invite, Error> {
        let state = self.state.borrow();
        let found = state.roster().invites.get(site).cloned();
        found.ok_or_else(|| Error::InviteUnknown(site.clone()))
    }

    fn site(&self, name: &SiteName) -> Result<SiteView, Error> {
        let found = self.sites().into_iter().find(|site| site.name == *name);
        found.ok_or_else(|| Error::SiteUnknown(name.clone()))
    }
}
