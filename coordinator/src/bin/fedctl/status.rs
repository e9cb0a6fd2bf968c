//! `fedctl status`: the whole federation on one page.

use fedpaint_proto::v1;

use crate::cli::Connection;
use crate::connect::{ask, connect};
use crate::output::Output;
use crate::problem::of_status;
use crate::view::{Expiry, Round, Run, Site, Status};

/// Shows the status.
pub(crate) async fn run(settings: &Connection, output: &Output) -> anyhow::Result<()> {
    let mut admin = connect(settings, output.now()).await?.admin;
    let reply = admin.get_status(ask(v1::GetStatusRequest {})).await;
    let status = reply.map_err(|s| of_status(&s))?.into_inner();
    output.show(&Status {
        version: status.version,
        federation: status.federation,
        sites: status.sites.into_iter().map(Site::from).collect(),
        runs: status.runs.into_iter().map(Run::from).collect(),
        rounds: status.rounds.into_iter().map(Round::from).collect(),
        expiries: status.expiries.into_iter().map(Expiry::from).collect(),
        cryptography: status.cryptography,
    })
}
