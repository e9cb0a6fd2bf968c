//! `fedctl site`: who may train.

use anyhow::Context;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use fedpaint_proto::enrolment::{Pin, SECRET_BYTES, Token};
use fedpaint_proto::names::SiteName;
use fedpaint_proto::v1;

use crate::cli::{Connection, SiteVerb};
use crate::connect::{Session, ask, connect};
use crate::output::Output;
use crate::problem::of_status;
use crate::view::{Invitation, Invite, Rejected, Site, Sites};

/// Carries out a verb.
pub(crate) async fn run(
    verb: SiteVerb,
    settings: &Connection,
    output: &Output,
) -> anyhow::Result<()> {
    let mut session = connect(settings, output.now()).await?;
    let admin = &mut session.admin;
    let no_site = "the coordinator answered without a site";
    match verb {
        SiteVerb::List => {
            let reply = admin.list_sites(ask(v1::ListSitesRequest {})).await;
            let reply = reply.map_err(|s| of_status(&s))?.into_inner();
            output.show(&Sites {
                sites: reply.sites.into_iter().map(Site::from).collect(),
                invites: reply.invites.into_iter().map(Invite::from).collect(),
            })
        }
        SiteVerb::Invite { name, auto_approve } => {
            output.show(&invite(&mut session, name, auto_approve).await?)
        }
        SiteVerb::Approve { name, words } => {
            let request = v1::ApproveSiteRequest { name: name.into(), words };
            let reply = admin.approve_site(ask(request)).await.map_err(|s| of_status(&s))?;
            output.show(&Invite::from(reply.into_inner().invite.context(no_site)?))
        }
        SiteVerb::Reject { name } => {
            let request = v1::RejectSiteRequest { name: name.to_string() };
            admin.reject_site(ask(request)).await.map_err(|s| of_status(&s))?;
            output.show(&Rejected { site: name.into() })
        }
        SiteVerb::Enroll { name } => {
            // Who was revoked is let in again as it is seen now, however late the call arrives.
            let reply = admin.list_sites(ask(v1::ListSitesRequest {})).await;
            let sites = reply.map_err(|s| of_status(&s))?.into_inner().sites;
            let seen = sites.into_iter().find(|site| site.name == name.as_str());
            let revoked_at = seen.and_then(|site| site.revoked_at);
            let request = v1::EnrollSiteRequest { name: name.into(), revoked_at };
            let reply = admin.enroll_site(ask(request)).await.map_err(|s| of_status(&s))?;
            output.show(&Site::from(reply.into_inner().site.context(no_site)?))
        }
        SiteVerb::Revoke { name } => {
            let request = v1::RevokeSiteRequest { name: name.into() };
            let reply = admin.revoke_site(ask(request)).await.map_err(|s| of_status(&s))?;
            output.show(&Site::from(reply.into_inner().site.context(no_site)?))
        }
    }
}

/// Makes the token here, so that its secret is nowhere but in it.
async fn invite(
    session: &mut Session,
    site: SiteName,
    auto_approve: bool,
) -> anyhow::Result<Invitation> {
    let mut secret = [0; SECRET_BYTES];
    let filled = SystemRandom::new().fill(&mut secret);
    filled.ok().context("the system gives no random numbers")?;
    let mut token = Token { site, root: Pin([0; 32]), secret };
    let request = v1::InviteSiteRequest {
        name: token.site.to_string(),
        secret_digest: token.secret_digest().as_bytes().to_vec(),
        auto_approve,
    };
    let reply = session.admin.invite_site(ask(request)).await.map_err(|s| of_status(&s))?;
    let v1::InviteSiteResponse { invite, root_pin } = reply.into_inner();
    let pin = <[u8; 32]>::try_from(&root_pin[..]).ok();
    let pin = pin.context("the coordinator answered without a pin")?;
    token.root = Pin(pin);
    let invite = Invite::from(invite.context("the coordinator answered without an invitation")?);
    Ok(Invitation { site: invite.site, token: token.to_string(), expires_at: invite.expires_at })
}
