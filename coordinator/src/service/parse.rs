//! Fields of requests to what they mean: parsed once here, trusted inside.

use std::str::FromStr;

use fedpaint_proto::limits::{DECLINED_MAX, REASON_BYTES_MAX};
use fedpaint_proto::names::{self, Blob, RoundId, RunName};
use fedpaint_proto::plan::{PlanSignature, RunPlan, SignedPlan};
use fedpaint_proto::reason::Reason;
use fedpaint_proto::rule::Rule;
use fedpaint_proto::v1::{self, BlobRef, Declined, RoundPhase, RoundRef};
use fedpaint_proto::wire::WIRE_VERSIONS_SERVED;
use jiff::Timestamp;
use prost_types::Timestamp as WireTimestamp;
use tonic::Status;

use crate::driver::{Sight, Stage};
use crate::roster::{OperatorRole, Roles};

/// The longest version an agent may tell.
const VERSION_BYTES_MAX: usize = 64;

/// A field that is not what it must be; `what` names it.
pub(crate) fn invalid(what: impl std::fmt::Display) -> Status {
    Reason::InvalidRequest.status(what.to_string())
}

/// A name.
pub(crate) fn name<N: FromStr<Err = names::Error>>(text: &str) -> Result<N, Status> {
    text.parse().map_err(invalid)
}

/// A plan with its signature, if there is one, which must be over it.
pub(crate) fn signed(
    plan: RunPlan,
    signature: Option<&v1::PlanSignature>,
) -> Result<SignedPlan, Status> {
    let signature = signature.map(PlanSignature::from_wire).transpose().map_err(invalid)?;
    match signature {
        Some(signature) if !signature.is_over(&plan) => {
            let key = signature.key;
            let detail = format!("the signature of {key} is not over this plan: sign it anew");
            Err(Reason::BadSignature.status(detail))
        }
        _ => Ok(SignedPlan { plan, signature }),
    }
}

/// A time.
pub(crate) fn time(time: WireTimestamp) -> Result<Timestamp, Status> {
    Timestamp::new(time.seconds, time.nanos).map_err(invalid)
}

/// What an operator saw of what its call is to change.
pub(crate) fn sight(seen: Option<v1::Seen>) -> Result<Sight, Status> {
    let Some(v1::Seen { at }) = seen else { return Ok(Sight::Unsaid) };
    Ok(at.map(time).transpose()?.map_or(Sight::None, Sight::Of))
}

/// The newest round of a run, as an operator saw it.
pub(crate) fn round_of(run: &RunName, seen: Option<&RoundRef>) -> Result<Option<RoundId>, Status> {
    let seen = seen.map(|seen| round(Some(seen))).transpose()?;
    match seen {
        Some(id) if id.run != *run => Err(invalid(format_args!("{id} is no round of run {run}"))),
        seen => Ok(seen),
    }
}

/// A field that must be there.
pub(crate) fn present<T>(what: &str, field: Option<T>) -> Result<T, Status> {
    field.ok_or_else(|| invalid(format_args!("the request has no {what}")))
}

/// A round.
pub(crate) fn round(round: Option<&RoundRef>) -> Result<RoundId, Status> {
    let id = RoundId::try_from(present("round", round)?).map_err(invalid)?;
    if id.number == 0 || id.attempt == 0 {
        return Err(invalid(format_args!("{id} is no round: both its numbers begin with 1")));
    }
    Ok(id)
}

/// The phase that an operator ends; none is the one that the round is in.
pub(crate) fn stage(phase: RoundPhase) -> Result<Option<Stage>, Status> {
    match phase {
        RoundPhase::Unspecified => Ok(None),
        RoundPhase::Selecting => Ok(Some(Stage::Selection)),
        RoundPhase::Reporting => Ok(Some(Stage::Reporting)),
        RoundPhase::Aggregating | RoundPhase::Committed | RoundPhase::Abandoned => {
            Err(invalid("only selecting and reporting can be ended"))
        }
    }
}

/// A blob.
pub(crate) fn blob(blob: Option<&BlobRef>) -> Result<Blob, Status> {
    let blob = Blob::try_from(present("blob", blob)?).map_err(invalid)?;
    if blob.size == 0 {
        return Err(invalid("a blob has at least one byte"));
    }
    Ok(blob)
}

/// The version of an agent, fit for a table and the log.
pub(crate) fn agent_version(text: String) -> Result<String, Status> {
    let fits = text.len() <= VERSION_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits {
        return Ok(text);
    }
    Err(invalid(format_args!(
        "the agent's version must have at most {VERSION_BYTES_MAX} visible characters (VERSION_BYTES_MAX)"
    )))
}

/// The protocol's version that an agent speaks, if it can be served.
pub(crate) fn wire_version(version: u32) -> Result<u32, Status> {
    if WIRE_VERSIONS_SERVED.contains(&version) {
        return Ok(version);
    }
    let (first, last) = (WIRE_VERSIONS_SERVED.start(), WIRE_VERSIONS_SERVED.end());
    let what = format!(
        "the agent speaks version {version} of the protocol, this coordinator serves {first} to \
         {last}; bring the older of the two up to date"
    );
    Err(Reason::WireVersion.status(what))
}

/// What an operator may do.
pub(crate) fn roles(roles: impl Iterator<Item = v1::OperatorRole>) -> Result<Roles, Status> {
    let role = |role| match role {
        v1::OperatorRole::Viewer => Ok(OperatorRole::Viewer),
        v1::OperatorRole::Runner => Ok(OperatorRole::Runner),
        v1::OperatorRole::Approver => Ok(OperatorRole::Approver),
        v1::OperatorRole::Auditor => Ok(OperatorRole::Auditor),
        v1::OperatorRole::Admin => Ok(OperatorRole::Admin),
        v1::OperatorRole::Unspecified => Err(invalid("that is no operator's role")),
    };
    roles.map(role).collect::<Result<_, _>>().map(Roles)
}

/// The rounds that a site declines, and by which rules.
pub(crate) fn declined(declined: &[Declined]) -> Result<Vec<(RoundId, Rule)>, Status> {
    if declined.len() > DECLINED_MAX {
        return Err(invalid(format_args!(
            "a site declines at most {DECLINED_MAX} rounds at once (DECLINED_MAX)"
        )));
    }
    let parse = |declined: &Declined| -> Result<(RoundId, Rule), Status> {
        Ok((round(declined.round.as_ref())?, declined.rule().into()))
    };
    declined.iter().map(parse).collect()
}

/// An operator's reason, fit for one line of the log.
pub(crate) fn reason(text: &str) -> Result<String, Status> {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.len() {
        0 => Err(invalid("the request has no reason")),
        1..=REASON_BYTES_MAX if !line.contains(char::is_control) => Ok(line),
        _ => Err(invalid(format_args!(
            "a reason is one line of at most {REASON_BYTES_MAX} bytes (REASON_BYTES_MAX)"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use fedpaint_proto::wire::WIRE_VERSION;

    use super::*;

    #[test]
    fn a_round_has_a_name_and_numbers_from_1_on() {
        let wire = |run: &str, number, attempt| RoundRef { run: run.into(), number, attempt };
        assert_eq!(round(Some(&wire("t1", 2, 3))).unwrap().to_string(), "t1/2.3");
        for bad in [wire("T1", 1, 1), wire("t1", 0, 1), wire("t1", 1, 0)] {
            let status = round(Some(&bad)).unwrap_err();
            assert_eq!(Reason::of(&status), Some(Reason::InvalidRequest));
        }
        assert!(round(None).unwrap_err().message().contains("round"));
    }

    #[test]
    fn what_was_seen_is_a_time_or_that_there_was_none_or_is_not_said() {
        let at = |seconds, nanos| Some(WireTimestamp { seconds, nanos });
        assert_eq!(sight(None).unwrap(), Sight::Unsaid);
        assert_eq!(sight(Some(v1::Seen { at: None })).unwrap(), Sight::None);
        let seen = sight(Some(v1::Seen { at: at(5, 7_000) })).unwrap();
        assert_eq!(seen, Sight::Of(Timestamp::constant(5, 7_000)));
        assert!(sight(Some(v1::Seen { at: at(i64::MAX, 0) })).is_err());
        let (run, wire) = ("t1".parse().unwrap(), |run: &str| RoundRef {
            run: run.into(),
            number: 2,
            attempt: 3,
        });
        assert_eq!(round_of(&run, None).unwrap(), None);
        assert_eq!(round_of(&run, Some(&wire("t1"))).unwrap().unwrap().to_string(), "t1/2.3");
        assert!(round_of(&run, Some(&wire("t2"))).unwrap_err().message().contains("t2/2.3"));
    }

    #[test]
    fn a_blob_has_a_whole_digest_and_at_least_one_byte() {
        let wire = |bytes, size| BlobRef { digest: vec![7; bytes], size };
        assert_eq!(blob(Some(&wire(32, 5))).unwrap().size, 5);
        for bad in [None, Some(&wire(31, 5)), Some(&wire(33, 5)), Some(&wire(32, 0))] {
            assert!(blob(bad).is_err());
        }
    }

    #[test]
    fn only_a_protocol_of_another_generation_is_refused_and_with_a_reason_of_its_own() {
        for version in [0, WIRE_VERSION, WIRE_VERSION + 1, *WIRE_VERSIONS_SERVED.end()] {
            assert_eq!(wire_version(version).unwrap(), version);
        }
        let status = wire_version(WIRE_VERSIONS_SERVED.end() + 1).unwrap_err();
        assert_eq!(Reason::of(&status), Some(Reason::WireVersion));
        assert!(status.message().contains("version 100"), "{status:?}");
    }

    #[test]
    fn rounds_that_are_declined_are_bounded_and_a_rule_of_a_later_version_is_unknown() {
        let round = Some(RoundRef { run: "t1".into(), number: 1, attempt: 1 });
        let wire = |rule| Declined { round: round.clone(), rule };
        let rules: Vec<Rule> =
            declined(&[wire(2), wire(99)]).unwrap().into_iter().map(|(_, rule)| rule).collect();
        assert_eq!(rules, [Rule::Hours, Rule::Unknown]);
        let refused = declined(&vec![wire(2); DECLINED_MAX + 1]).unwrap_err();
        assert!(refused.message().ends_with("64 rounds at once (DECLINED_MAX)"), "{refused}");
        assert!(declined(&[Declined { round: None, rule: 2 }]).is_err());
    }

    #[test]
    fn texts_for_people_are_one_bounded_line() {
        assert_eq!(agent_version("0.1.0-rc.1".into()).unwrap(), "0.1.0-rc.1");
        for bad in ["0 1", "a\nb", "\u{1b}[31m", &"1".repeat(65)] {
            let refused = agent_version(bad.into()).unwrap_err();
            assert!(refused.message().contains("(VERSION_BYTES_MAX)"), "{bad:?}: {refused}");
        }
        assert_eq!(reason(" a disk\n broke ").unwrap(), "a disk broke");
        for bad in ["", " \n", "\u{1b}[31m"] {
            assert!(reason(bad).is_err(), "{bad:?}");
        }
        let refused = reason(&"x".repeat(REASON_BYTES_MAX + 1)).unwrap_err();
        assert!(refused.message().ends_with("500 bytes (REASON_BYTES_MAX)"), "{refused}");
    }
}
