//! The protocol's version, told in every heartbeat and its answer, and a time as it travels.
//!
//! Within a generation a version only adds: fields, calls, values of an enum. So either side may be the
//! older one, and what it does not know it does not miss. It never says what a program can do; that is
//! seen from what it says.

use std::ops::RangeInclusive;

use jiff::Timestamp;

/// The version that this program speaks. 1 is the first that says so: it added versions themselves,
/// late updates and who is missing. A program from before says 0.
pub const WIRE_VERSION: u32 = 1;

/// The versions that this program can serve: its generation, from before versions were told to the last
/// number that may only add. A change that breaks older programs begins the next generation at 100.
pub const WIRE_VERSIONS_SERVED: RangeInclusive<u32> = 0..=99;

/// Nanoseconds of a second.
const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// A time, as a message has it.
pub fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    let nanos = time.as_nanosecond();
    prost_types::Timestamp {
        // A timestamp's seconds fit i64 by far, and the rest is below 10^9.
        seconds: nanos.div_euclid(NANOS_PER_SECOND) as i64,
        nanos: nanos.rem_euclid(NANOS_PER_SECOND) as i32,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;

    use super::*;
    use crate::v1::heartbeat_request::Activity;
    use crate::v1::heartbeat_response::Directive;
    use crate::v1::{
        HeartbeatRequest, HeartbeatResponse, Idle, Rest, RoundRef, Training, TrainingProgress,
    };

    /// What the protocol has had so far.
    const LISTED: &str = include_str!("../wire.txt");

    /// And what it has.
    const TODAY: &str = include_str!(concat!(env!("OUT_DIR"), "/wire.txt"));

    /// What an agent from before versions sends when it is idle: its version and an empty message.
    const OLD_IDLE: &[u8] = b"\x0a\x050.1.0\x12\x00";

    /// And at step 3 of 7 of round t1/1.2 with a loss of 0.25.
    const OLD_TRAINING: &[u8] = b"\x0a\x050.1.0\x22\x19\x0a\x08\x0a\x02t1\x10\x01\x18\x02\
        \x12\x0d\x08\x03\x10\x07\x19\x00\x00\x00\x00\x00\x00\xd0\x3f";

    /// What a coordinator from before versions answers: ask again after 50 ms, and rest.
    const OLD_REST: &[u8] = b"\x0a\x05\x10\x80\xe1\xeb\x17\x12\x00";

    #[test]
    fn what_an_agent_from_before_versions_says_is_read_as_version_0() {
        let idle = HeartbeatRequest {
            agent_version: "0.1.0".into(),
            activity: Some(Activity::Idle(Idle {})),
            ..HeartbeatRequest::default()
        };
        let round = Some(RoundRef { run: "t1".into(), number: 1, attempt: 2 });
        let progress = Some(TrainingProgress { step: 3, steps: 7, loss: Some(0.25) });
        let training = Activity::Training(Training { round, progress });
        let training = HeartbeatRequest { activity: Some(training), ..idle.clone() };
        for (golden, message) in [(OLD_IDLE, idle), (OLD_TRAINING, training)] {
            assert_eq!(HeartbeatRequest::decode(golden).unwrap(), message);
            assert_eq!(message.encode_to_vec(), golden, "what was said is said by the same bytes");
        }
        assert!(WIRE_VERSIONS_SERVED.contains(&0) && WIRE_VERSIONS_SERVED.contains(&WIRE_VERSION));
    }

    #[test]
    fn what_a_coordinator_from_before_versions_answers_is_read_as_version_0() {
        let rest = HeartbeatResponse {
            next_after: Some(prost_types::Duration { seconds: 0, nanos: 50_000_000 }),
            directive: Some(Directive::Rest(Rest {})),
            ..HeartbeatResponse::default()
        };
        assert_eq!(HeartbeatResponse::decode(OLD_REST).unwrap(), rest);
        assert_eq!(rest.encode_to_vec(), OLD_REST);
    }

    #[test]
    fn what_is_said_since_only_adds_to_the_bytes_that_an_older_program_reads() {
        let today = HeartbeatRequest {
            agent_version: "0.1.0".into(),
            activity: Some(Activity::Idle(Idle {})),
            wire_version: WIRE_VERSION,
            ..HeartbeatRequest::default()
        };
        // An unknown field at the end is skipped by every protobuf reader.
        assert_eq!(today.encode_to_vec(), [OLD_IDLE, b"\x38\x01"].concat());
        let today = HeartbeatResponse {
            wire_version: WIRE_VERSION,
            ..HeartbeatResponse::decode(OLD_REST).unwrap()
        };
        assert_eq!(today.encode_to_vec(), [OLD_REST, b"\x28\x01"].concat());
    }

    #[test]
    fn no_call_field_or_value_that_there_was_is_gone_or_another_and_what_is_new_is_listed() {
        let lines = |text: &'static str| -> BTreeSet<&'static str> {
            text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
        };
        let (listed, today) = (lines(LISTED), lines(TODAY));
        let gone: Vec<_> = listed.difference(&today).collect();
        assert!(gone.is_empty(), "an older program still has these, as they were: {gone:#?}");
        let new: Vec<_> = today.difference(&listed).collect();
        assert!(new.is_empty(), "these go into proto/wire.txt, and stay for good: {new:#?}");
    }

    #[test]
    fn a_time_on_the_wire_has_nanoseconds_that_count_forward() {
        for (microseconds, seconds, nanos) in
            [(0, 0, 0), (1_500_000, 1, 500_000_000), (-500_000, -1, 500_000_000)]
        {
            let time = Timestamp::from_microsecond(microseconds).unwrap();
            assert_eq!(timestamp(time), prost_types::Timestamp { seconds, nanos });
        }
    }
}
