//! What an update has to pass before anybody looks into its file: decided from the state alone.
//! Whatever changes while the file is looked at is decided again when the update is applied.

use fedpaint_proto::limits::EXAMPLES_MAX;
use fedpaint_proto::names::{Blob, Digest, RoundId, SiteName};
use fedpaint_proto::signing::Unbound;
use jiff::Timestamp;

use super::state::State;
use crate::driver::error::Error;
use crate::round::{Refusal, Report, Update};
use crate::run::{Drop, Late, Straggler};

/// "This blob, which I have uploaded, is my update."
#[derive(Clone, Debug, PartialEq)]
pub struct Submission {
    /// For which round.
    pub round: RoundId,
    /// The model the training began from.
    pub base: Digest,
    /// The trained model.
    pub weights: Blob,
    /// Training examples seen.
    pub examples: u64,
    /// What the site tells of its training.
    pub report: Report,
    /// The site's signature over the envelope; who may leave it out is decided by the shell.
    pub signature: Option<Unbound>,
}

impl Submission {
    /// What of it the round is given.
    pub fn update(&self) -> Update {
        let Submission { weights, examples, report, .. } = *self;
        Update { weights, examples, report }
    }
}

/// What is to be done with an update that was not refused at once.
#[derive(Debug)]
pub enum Review {
    /// Nothing: the round holds this very update already, the reply to an earlier call was lost.
    Held,
    /// The round is past. If it holds this very update ([`crate::round::Round::holds`]), that is a
    /// reply that was lost too; if not, this is why the update is refused.
    Past(Error),
    /// Its file is to be found and checked against the round's base model.
    Check(Update),
}

/// Reviews a site's update at `now`.
///
/// # Errors
/// Why it is refused.
pub fn review(
    state: &State,
    site: &SiteName,
    submission: &Submission,
    now: Timestamp,
) -> Result<Review, Error> {
    state.access(site)?;
    let update = submission.update();
    if state.run(&submission.round.run)?.holds(&submission.round, site, &update) {
        return Ok(Review::Held);
    }
    let base = match state.awaits(site, &submission.round, now) {
        Ok(base) => base,
        // The update may have been the last one that a round waited for.
        Err(over @ Error::Round { refusal: Refusal::RoundOver, .. }) => {
            return Ok(Review::Past(over));
        }
        Err(other) => return Err(other),
    };
    claims(submission, &base)?;
    Ok(Review::Check(update))
}

/// Whether an update that was dropped before it came is kept when it comes: its row, which is `noted`, has none
/// yet, and what the update says of itself could be so. Nobody looks into the file, because it counts nowhere.
pub fn is_kept(noted: &Straggler, submission: &Submission) -> bool {
    let waits = |why| noted.late == Late::Dropped { update: None, why };
    let dropped = [Drop::ByPlan, Drop::TooLate].into_iter().any(waits);
    dropped && claims(submission, &noted.base).is_ok()
}

/// Looks at what an update says of itself, for a round that is trained from `base`.
fn claims(submission: &Submission, base: &Blob) -> Result<(), Error> {
    let round = || submission.round.clone();
    let (found, expected) = (submission.base, base.digest);
    if found != expected {
        return Err(Error::WrongBaseModel { round: round(), found, expected });
    }
    let examples = submission.examples;
    if !(1..=EXAMPLES_MAX).contains(&examples) {
        return Err(Error::WrongExamples { round: round(), examples });
    }
    if !submission.report.is_finite() {
        return Err(Error::Invalid { what: "report", must: "made of finite numbers" });
    }
    Ok(())
}
