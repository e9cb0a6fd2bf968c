//! `fedctl round`: what happened in a round, and the two ways to end one early.

use anyhow::Context;
use fedpaint_proto::v1;

use crate::cli::{Connection, RoundAsked, RoundVerb};
use crate::connect::{Session, ask, connect};
use crate::output::Output;
use crate::pages;
use crate::problem::of_status;
use crate::view::{Round, Rounds};

/// Carries out a verb.
pub(crate) async fn run(
    verb: RoundVerb,
    settings: &Connection,
    output: &Output,
) -> anyhow::Result<()> {
    let mut session = connect(settings, output.now()).await?;
    let round = match verb {
        RoundVerb::List { run } => {
            let rounds = list(&mut session, run.into()).await?;
            return output.show(&Rounds { rounds: rounds.into_iter().map(Round::from).collect() });
        }
        RoundVerb::Show(asked) => Some(find(&mut session, asked).await?),
        RoundVerb::Close(asked) => {
            let found = find(&mut session, asked).await?;
            // The phase that is seen is the one that is ended, however often this is asked.
            let ends =
                matches!(found.phase(), v1::RoundPhase::Selecting | v1::RoundPhase::Reporting);
            let phase = if ends { found.phase } else { v1::RoundPhase::Unspecified.into() };
            let request = v1::CloseRoundRequest { round: found.r#ref, phase };
            let reply = session.admin.close_round(ask(request)).await;
            reply.map_err(|s| of_status(&s))?.into_inner().round
        }
        RoundVerb::Abandon { round, reason } => {
            let round = find(&mut session, round).await?.r#ref;
            let request = v1::AbandonRoundRequest { round, reason };
            let reply = session.admin.abandon_round(ask(request)).await;
            reply.map_err(|s| of_status(&s))?.into_inner().round
        }
    };
    output.show(&Round::from(round.context("the coordinator answered without a round")?))
}

/// Every attempt at every round of a run, oldest first.
pub(crate) async fn list(session: &mut Session, run: String) -> anyhow::Result<Vec<v1::Round>> {
    let id = |round: &v1::Round| round.r#ref.as_ref().map_or((0, 0), |id| (id.number, id.attempt));
    pages::all(id, async |before| {
        let (before_number, before_attempt) = before.unwrap_or((0, 0));
        let run = run.clone();
        let request = v1::ListRoundsRequest { run, before_number, before_attempt, limit: 0 };
        let reply = session.admin.list_rounds(ask(request)).await;
        Ok(reply.map_err(|s| of_status(&s))?.into_inner().rounds)
    })
    .await
}

/// The round that was asked for; without a number, the newest of the run.
async fn find(session: &mut Session, asked: RoundAsked) -> anyhow::Result<v1::Round> {
    const WITHOUT: &str = "the coordinator answered without a round";
    let RoundAsked { run, number, attempt } = asked;
    let Some(number) = number else {
        let reply = session.admin.get_run(ask(v1::GetRunRequest { name: run.into() })).await;
        return reply.map_err(|s| of_status(&s))?.into_inner().round.context(WITHOUT);
    };
    // On the wire, attempt 0 is the newest.
    let request =
        v1::GetRoundRequest { run: run.into(), number, attempt: attempt.unwrap_or_default() };
    let reply = session.admin.get_round(ask(request)).await;
    let round = reply.map_err(|s| of_status(&s))?.into_inner().round;
    round.context(WITHOUT)
}
