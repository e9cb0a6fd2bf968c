//! An update as a site submits it: parsed once, by whoever takes it. What may be wrong with what it says is another
//! matter.

use crate::names::{Blob, Digest, FederationName, RoundId, SiteName};
use crate::signing::{Malformed, Unbound};
use crate::statement::Envelope;
use crate::v1::{SubmitUpdateRequest, TrainingReport};

/// "This blob, which I have uploaded, is my update", not yet believed.
#[derive(Clone, Debug, PartialEq)]
pub struct Submitted {
    /// For which attempt at which round.
    pub round: RoundId,
    /// The model that it was trained from.
    pub base: Digest,
    /// The trained model.
    pub update: Blob,
    /// Training examples behind it.
    pub examples: u64,
    /// What the site tells of its training: finite numbers.
    pub report: TrainingReport,
    /// Over the envelope, where the site signs.
    pub signature: Option<Unbound>,
}

impl Submitted {
    /// What travelled.
    ///
    /// # Errors
    /// What of it is not there or is none.
    pub fn from_wire(request: SubmitUpdateRequest) -> Result<Submitted, Malformed> {
        let SubmitUpdateRequest { round, base_model_digest, weights, examples, report, signature } =
            request;
        let round = round.and_then(|round| RoundId::try_from(&round).ok());
        let update = weights.and_then(|weights| Blob::try_from(&weights).ok());
        Ok(Submitted {
            round: round.filter(|id| id.number > 0 && id.attempt > 0).ok_or(Malformed("round"))?,
            base: Digest::try_from(&base_model_digest[..]).map_err(|_| Malformed("base model"))?,
            update: update.filter(|blob| blob.size > 0).ok_or(Malformed("update"))?,
            examples,
            report: report.filter(is_finite).ok_or(Malformed("report of finite numbers"))?,
            signature: signature.map(Unbound::from_wire).transpose()?,
        })
    }

    /// What `site` has signed, if this is its own and was trained by this plan.
    pub fn envelope(&self, federation: FederationName, site: SiteName, plan: Digest) -> Envelope {
        Envelope {
            federation,
            round: self.round.clone(),
            site,
            base: self.base,
            plan,
            update: self.update,
            examples: self.examples,
        }
    }
}

fn is_finite(report: &TrainingReport) -> bool {
    let TrainingReport { steps: _, loss_mean, loss_first, loss_last, .. } = report;
    let TrainingReport { gradient_norm_p50, gradient_norm_p99, .. } = report;
    let numbers = [loss_mean, loss_first, loss_last, gradient_norm_p50, gradient_norm_p99];
    numbers.iter().all(|number| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{BlobRef, RoundRef, Signature};

    fn request() -> SubmitUpdateRequest {
        SubmitUpdateRequest {
            round: Some(RoundRef { run: "t1".into(), number: 1, attempt: 1 }),
            base_model_digest: vec![1; 32],
            weights: Some(BlobRef { digest: vec![2; 32], size: 9 }),
            examples: 5,
            report: Some(TrainingReport { steps: 3, ..TrainingReport::default() }),
            signature: None,
        }
    }

    #[test]
    fn an_update_whose_fields_do_not_parse_is_refused_by_the_part_that_does_not() {
        let submitted = Submitted::from_wire(request()).unwrap();
        assert_eq!((submitted.report.steps, submitted.signature), (3, None));
        let infinite = TrainingReport { loss_last: f64::INFINITY, ..TrainingReport::default() };
        let round = |run: &str, number| Some(RoundRef { run: run.into(), number, attempt: 1 });
        let short = Signature { signature: vec![0; 63], certificate: Vec::new() };
        for (request, part) in [
            (SubmitUpdateRequest { round: None, ..request() }, "round"),
            (SubmitUpdateRequest { round: round("T1", 1), ..request() }, "round"),
            (SubmitUpdateRequest { round: round("t1", 0), ..request() }, "round"),
            (SubmitUpdateRequest { base_model_digest: vec![1; 31], ..request() }, "base model"),
            (SubmitUpdateRequest { weights: None, ..request() }, "update"),
            (
                SubmitUpdateRequest {
                    weights: Some(BlobRef { digest: vec![2; 32], size: 0 }),
                    ..request()
                },
                "update",
            ),
            (SubmitUpdateRequest { report: None, ..request() }, "report of finite numbers"),
            (
                SubmitUpdateRequest { report: Some(infinite), ..request() },
                "report of finite numbers",
            ),
            (SubmitUpdateRequest { signature: Some(short), ..request() }, "signature"),
        ] {
            assert_eq!(Submitted::from_wire(request), Err(Malformed(part)));
        }
    }
}
