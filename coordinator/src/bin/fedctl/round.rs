//! `fedctl round`: what happened in a round, and the two ways to end one early.

use anyhow::{Context, bail};
use fedpaint_proto::v1;

use crate::cli::{Connection, RoundAsked, RoundVerb};
use crate::connect::{Session, ask, connect};
use crate::output::Output;
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

async fn list(session: &mut Session, run: String) -> anyhow::Result<Vec<v1::Round>> {
    let reply = session.admin.list_rounds(ask(v1::ListRoundsRequest { run })).await;
    Ok(reply.map_err(|s| of_status(&s))?.into_inner().rounds)
}

/// The round that was asked for; without a number, the newest of the run.
async fn find(session: &mut Session, asked: RoundAsked) -> anyhow::Result<v1::Round> {
    let RoundAsked { run, number, attempt } = asked;
    let Some(number) = number else {
        let rounds = list(session, run.to_string()).await?;
        let Some(round) = newest(rounds) else { bail!("run {run} has no round yet") };
        return Ok(round);
    };
    // On the wire, attempt 0 is the newest.
    let request =
        v1::GetRoundRequest { run: run.into(), number, attempt: attempt.unwrap_or_default() };
    let reply = session.admin.get_round(ask(request)).await;
    let round = reply.map_err(|s| of_status(&s))?.into_inner().round;
    round.context("the coordinator answered without a round")
}

fn newest(rounds: Vec<v1::Round>) -> Option<v1::Round> {
    rounds.into_iter().max_by_key(|round| {
        let id = round.r#ref.as_ref();
        id.map(|id| (id.number, id.attempt))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_round_is_the_last_attempt_at_the_last_number() {
        let round = |number, attempt| v1::Round {
            r#ref: Some(v1::RoundRef { run: "t1".into(), number, attempt }),
            ..v1::Round::default()
        };
        let rounds = vec![round(2, 1), round(2, 3), round(1, 9), round(2, 2)];
        assert_eq!(newest(rounds), Some(round(2, 3)));
        assert_eq!(newest(Vec::new()), None);
    }
}
