//! `fedctl proposal`: what takes two persons.

use fedpaint_proto::v1;
use fedpaint_proto::v1::admin_service_client::AdminServiceClient;
use tonic::transport::Channel;

use crate::cli::{Connection, ProposalVerb};
use crate::connect::{ask, connect};
use crate::output::Output;
use crate::problem::of_status;
use crate::view::{Proposal, Proposals};

/// Carries out a verb.
pub(crate) async fn run(
    verb: ProposalVerb,
    settings: &Connection,
    output: &Output,
) -> anyhow::Result<()> {
    let mut admin = connect(settings, output.now()).await?.admin;
    if let ProposalVerb::Approve { id } = verb {
        let id = id.as_bytes().to_vec();
        // What is seen is what is agreed with, however late the call arrives.
        let seen = list(&mut admin).await?.into_iter().find(|proposal| proposal.id == id);
        let seen = Some(v1::Seen { at: seen.and_then(|proposal| proposal.asked_at) });
        let request = v1::ApproveProposalRequest { id, seen };
        admin.approve_proposal(ask(request)).await.map_err(|s| of_status(&s))?;
    }
    let proposals = list(&mut admin).await?;
    output.show(&Proposals { proposals: proposals.into_iter().map(Proposal::from).collect() })
}

async fn list(admin: &mut AdminServiceClient<Channel>) -> anyhow::Result<Vec<v1::Proposal>> {
    let reply = admin.list_proposals(ask(v1::ListProposalsRequest {})).await;
    Ok(reply.map_err(|s| of_status(&s))?.into_inner().proposals)
}
