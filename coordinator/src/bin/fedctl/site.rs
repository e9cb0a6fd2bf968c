//! `fedctl site`: who may train.

use anyhow::Context;
use fedpaint_proto::v1;

use crate::cli::{Connection, SiteVerb};
use crate::connect::{ask, connect};
use crate::output::Output;
use crate::problem::of_status;
use crate::view::{Site, Sites};

/// Carries out a verb.
pub(crate) async fn run(
    verb: SiteVerb,
    settings: &Connection,
    output: &Output,
) -> anyhow::Result<()> {
    let mut admin = connect(settings, output.now()).await?.admin;
    let site = match verb {
        SiteVerb::List => {
            let reply = admin.list_sites(ask(v1::ListSitesRequest {})).await;
            let sites = reply.map_err(|s| of_status(&s))?.into_inner().sites;
            return output.show(&Sites { sites: sites.into_iter().map(Site::from).collect() });
        }
        SiteVerb::Enroll { name } => {
            let request = v1::EnrollSiteRequest { name: name.into() };
            admin.enroll_site(ask(request)).await.map_err(|s| of_status(&s))?.into_inner().site
        }
        SiteVerb::Revoke { name } => {
            let request = v1::RevokeSiteRequest { name: name.into() };
            admin.revoke_site(ask(request)).await.map_err(|s| of_status(&s))?.into_inner().site
        }
    };
    output.show(&Site::from(site.context("the coordinator answered without a site")?))
}
