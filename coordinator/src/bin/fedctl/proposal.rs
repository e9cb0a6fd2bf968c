//! `fedctl proposal`: what takes two persons.

use fedpaint_proto::v1;

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
        let request = v1::ApproveProposalRequest { id: id.as_bytes().to_vec() };
        admin.approve_proposal(ask(request)).await.map_err(|s| of_status(&s))?;
    }
    let reply = admin.list_proposals(ask(v1::ListProposalsRequest {})).await;
    let proposals = reply.map_err(|s| of_status(&s))?.into_inner().proposals;
    output.show(&Proposals { proposals: proposals.into_iter().map(Proposal::from).collect() })
}
