//! `fedctl site`: who may train.
//!
//! Each call says what it saw before of the site that it changes, so that one which comes late undoes nothing that
//! was done since.

use anyhow::Context;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use fedpaint_proto::enrolment::{Pin, SECRET_BYTES, Token};
use fedpaint_proto::names::SiteName;
use fedpaint_proto::v1;
use fedpaint_proto::v1::admin_service_client::AdminServiceClient;
use tonic::transport::Channel;

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
            let seen = Some(see(admin, &name).await?.invite());
            let request = v1::ApproveSiteRequest { name: name.into(), words, seen };
            let reply = admin.approve_site(ask(request)).await.map_err(|s| of_status(&s))?;
            output.show(&Invite::from(reply.into_inner().invite.context(no_site)?))
        }
        SiteVerb::Reject { name } => {
            let seen = Some(see(admin, &name).await?.invite());
            let request = v1::RejectSiteRequest { name: name.to_string(), seen };
            admin.reject_site(ask(request)).await.map_err(|s| of_status(&s))?;
            output.show(&Rejected { site: name.into() })
        }
        SiteVerb::Enroll { name } => {
            let revoked_at = see(admin, &name).await?.site.and_then(|site| site.revoked_at);
            let request = v1::EnrollSiteRequest { name: name.into(), revoked_at };
            let reply = admin.enroll_site(ask(request)).await.map_err(|s| of_status(&s))?;
            output.show(&Site::from(reply.into_inner().site.context(no_site)?))
        }
        SiteVerb::Revoke { name } => {
            let site = see(admin, &name).await?.site;
            let seen = Some(v1::Seen { at: site.and_then(|site| site.enrolled_at) });
            let request = v1::RevokeSiteRequest { name: name.into(), seen };
            let reply = admin.revoke_site(ask(request)).await.map_err(|s| of_status(&s))?;
            output.show(&Site::from(reply.into_inner().site.context(no_site)?))
        }
    }
}

/// What the coordinator tells of a site before it is changed.
struct Sight {
    site: Option<v1::Site>,
    invite: Option<v1::Invite>,
}

impl Sight {
    /// The invitation, by its end.
    fn invite(&self) -> v1::Seen {
        v1::Seen { at: self.invite.as_ref().and_then(|invite| invite.expires_at) }
    }
}

async fn see(admin: &mut AdminServiceClient<Channel>, name: &SiteName) -> anyhow::Result<Sight> {
    let reply = admin.list_sites(ask(v1::ListSitesRequest {})).await;
    let v1::ListSitesResponse { sites, invites } = reply.map_err(|s| of_status(&s))?.into_inner();
    let site = sites.into_iter().find(|site| site.name == name.as_str());
    let invite = invites.into_iter().find(|invite| invite.site == name.as_str());
    Ok(Sight { site, invite })
}

/// Makes the token here, so that its secret is nowhere but in it.
async fn invite(
    session: &mut Session,
    site: SiteName,
    auto_approve: bool,
) -> anyhow::Result<Invitation> {
    let mut secret = [0; SECRET_BYTES];
    #[expect(clippy::disallowed_methods, reason = "a token's secret is nobody's to foresee")]
    let filled = SystemRandom::new().fill(&mut secret);
    filled.ok().context("the system gives no random numbers")?;
    let seen = Some(see(&mut session.admin, &site).await?.invite());
    let mut token = Token { site, root: Pin([0; 32]), secret };
    let request = v1::InviteSiteRequest {
        name: token.site.to_string(),
        secret_digest: token.secret_digest().as_bytes().to_vec(),
        auto_approve,
        seen,
    };
    let reply = session.admin.invite_site(ask(request)).await.map_err(|s| of_status(&s))?;
    let v1::InviteSiteResponse { invite, root_pin } = reply.into_inner();
    let pin = <[u8; 32]>::try_from(&root_pin[..]).ok();
    let pin = pin.context("the coordinator answered without a pin")?;
    token.root = Pin(pin);
    let invite = Invite::from(invite.context("the coordinator answered without an invitation")?);
    Ok(Invitation { site: invite.site, token: token.to_string(), expires_at: invite.expires_at })
}
