//! `fedctl operator`: what operators may do.

use anyhow::Context;
use fedpaint_proto::v1;

use crate::cli::{Connection, DeskRole, OperatorVerb};
use crate::connect::{ask, connect};
use crate::output::Output;
use crate::problem::of_status;
use crate::view::{Operator, Operators};

/// Carries out a verb.
pub(crate) async fn run(
    verb: OperatorVerb,
    settings: &Connection,
    output: &Output,
) -> anyhow::Result<()> {
    let mut admin = connect(settings, output.now()).await?.admin;
    match verb {
        OperatorVerb::List => {
            let reply = admin.list_operators(ask(v1::ListOperatorsRequest {})).await;
            let operators = reply.map_err(|s| of_status(&s))?.into_inner().operators;
            output
                .show(&Operators { operators: operators.into_iter().map(Operator::from).collect() })
        }
        OperatorVerb::Set { name, roles } => {
            // What is seen is what is changed, however late the call arrives.
            let reply = admin.list_operators(ask(v1::ListOperatorsRequest {})).await;
            let listed = reply.map_err(|s| of_status(&s))?.into_inner().operators;
            let listed = listed.into_iter().find(|operator| operator.name == name.as_str());
            let seen = Some(v1::Seen { at: listed.and_then(|operator| operator.since) });
            let roles = roles.into_iter().map(|role| role.wire().into()).collect();
            let request = v1::SetOperatorRequest { name: name.into(), roles, seen };
            let reply = admin.set_operator(ask(request)).await.map_err(|s| of_status(&s))?;
            let operator = reply.into_inner().operator;
            output.show(&Operator::from(
                operator.context("the coordinator answered without an operator")?,
            ))
        }
    }
}

impl DeskRole {
    fn wire(self) -> v1::OperatorRole {
        match self {
            DeskRole::Viewer => v1::OperatorRole::Viewer,
            DeskRole::Runner => v1::OperatorRole::Runner,
            DeskRole::Approver => v1::OperatorRole::Approver,
            DeskRole::Auditor => v1::OperatorRole::Auditor,
            DeskRole::Admin => v1::OperatorRole::Admin,
        }
    }
}
