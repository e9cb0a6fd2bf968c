//! Tables and JSON of fixed messages, as they are printed.

use fedpaint_proto::v1;

use super::*;
use crate::view::{Event, Sites};

const NOW: i64 = 1_795_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn at(offset: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: NOW + offset, nanos: 0 })
}

fn blob(byte: u8) -> Option<v1::BlobRef> {
    Some(v1::BlobRef { digest: vec![byte; 32], size: 4 << 20 })
}

fn a_run() -> v1::Run {
    v1::Run {
        name: "t1".into(),
        state: v1::RunState::Paused.into(),
        reason: "3 attempts in a row were abandoned".into(),
        rounds_planned: 10,
        rounds_committed: 3,
        initial_model: blob(1),
        model: blob(2),
        created_at: at(-7200),
        plan_signature: None,
        plan_toml: "version = 1\n\n[round]\nsites_min = 2\n".into(),
        rounds_short: 1,
        missing: vec![v1::SiteTally { site: "ucl".into(), missing: 1, folded: 1, quarantined: 0 }],
        readmitted: vec!["mayo".into()],
    }
}

fn a_round() -> v1::Round {
    let report = v1::TrainingReport {
        steps: 200,
        loss_mean: 0.25,
        loss_first: 0.5,
        loss_last: 0.125,
        gradient_norm_p50: 0.75,
        gradient_norm_p99: 3.5,
    };
    let reported = v1::Member {
        site: "mayo".into(),
        state: v1::MemberState::Reported.into(),
        examples: 1600,
        update: blob(3),
        report: Some(report),
        ..v1::Member::default()
    };
    let joined = v1::Member {
        site: "ucl".into(),
        state: v1::MemberState::Joined.into(),
        progress: Some(v1::TrainingProgress { step: 40, steps: 200, loss: Some(0.5) }),
        ..v1::Member::default()
    };
    let withdrawn = v1::Member {
        site: "zurich".into(),
        state: v1::MemberState::Withdrawn.into(),
        reason: "out of memory".into(),
        ..v1::Member::default()
    };
    let uploading = v1::Missing {
        site: "ucl".into(),
        reason: v1::MissingReason::Uploading.into(),
        since: at(-9),
        detail: "uploading, 1024 of 4194304 bytes".into(),
        heard_at: at(-2),
        uploaded_bytes: 1024,
        upload_bytes: 4_194_304,
        ..v1::Missing::default()
    };
    let absent = v1::Missing {
        site: "oxford".into(),
        reason: v1::MissingReason::NeverJoined.into(),
        detail: "has not joined".into(),
        ..v1::Missing::default()
    };
    v1::Round {
        r#ref: Some(v1::RoundRef { run: "t1".into(), number: 4, attempt: 2 }),
        phase: v1::RoundPhase::Reporting.into(),
        base_model: blob(2),
        until: at(600),
        opened_at: at(-60),
        members: vec![reported, joined, withdrawn],
        counts: Some(v1::RoundCounts {
            joined: 3,
            reported: 1,
            folded: 1,
            withdrawn: 1,
            missing: 1,
            quarantined: 0,
        }),
        late: vec![v1::LateUpdate {
            site: "oslo".into(),
            round: Some(v1::RoundRef { run: "t1".into(), number: 3, attempt: 1 }),
            update: blob(6),
            staleness: 1,
            ..v1::LateUpdate::default()
        }],
        due: at(-5),
        missing: vec![uploading, absent],
        standings: vec![v1::Standing {
            site: "mayo".into(),
            late: false,
            norm: 12.5,
            cosine: Some(0.5),
            outlier: v1::Outlier::Twin.into(),
            excluded: true,
            nearest_cosine: Some(0.9997),
        }],
        ..v1::Round::default()
    }
}

fn sites() -> Sites {
    let mayo = v1::Site {
        name: "mayo".into(),
        enrolled_at: at(-86_400),
        seen_at: at(-3),
        agent_version: "0.1.0".into(),
        wire_version: Some(1),
        certificate_until: at(5 * 86_400),
        signing_until: at(20 * 86_400),
        ..v1::Site::default()
    };
    let evil = v1::Site {
        name: "evil".into(),
        enrolled_at: at(-86_400),
        revoked_at: at(-200),
        ..v1::Site::default()
    };
    Sites { sites: vec![mayo.into(), evil.into()], invites: vec![] }
}

#[test]
fn sites_are_a_table() {
    let expected = "\
SITE  STATE              SEEN     AGENT  WIRE  ENROLLED  CERTIFICATE  SIGNING
mayo  enrolled           3 s ago  0.1.0     1  24 h ago  in 5 d       in 20 d, ENDS SOON
evil  revoked 3 min ago  -        -         -  24 h ago  -            -";
    assert_eq!(sites().table(now()), expected);
}

#[test]
fn an_end_of_a_sites_certificate_that_is_near_or_past_is_told_in_capitals() {
    for (offset, told) in [
        (36 * 3600, "in 36 h"),
        (36 * 3600 - 1, "in 35 h, ENDS SOON"),
        (1, "in 1 s, ENDS SOON"),
        (0, "now, EXPIRED"),
        (-300, "5 min ago, EXPIRED"),
    ] {
        let end = Timestamp::from_second(NOW + offset).unwrap();
        assert_eq!(members::site_end(Some(end), now()), told);
    }
    assert_eq!(members::site_end(None, now()), "-", "it has shown none");
}

#[test]
fn an_end_of_what_a_site_signs_with_is_told_in_capitals_as_soon_as_that_of_the_authority() {
    for (offset, told) in
        [(30 * 86_400, "in 30 d"), (30 * 86_400 - 1, "in 29 d, ENDS SOON"), (0, "now, EXPIRED")]
    {
        let end = Timestamp::from_second(NOW + offset).unwrap();
        assert_eq!(members::signing_end(Some(end), now()), told);
    }
    assert_eq!(members::signing_end(None, now()), "-", "it has said none");
}

#[test]
fn a_run_is_shown_with_its_plan() {
    let expected = "\
run                   t1
state                 paused
reason                3 attempts in a row were abandoned
rounds                3 of 10
without every member  1
initial model         010101010101
model                 020202020202
size                  4.0 MiB
created               2 h ago
plan signed by        -
readmitted            mayo
plan
  version = 1

  [round]
  sites_min = 2";
    assert_eq!(Run::from(a_run()).table(now()), expected);
    let expected = "\
RUN  STATE   ROUNDS  SHORT  MODEL         CREATED  REASON
t1   paused    3/10      1  020202020202  2 h ago  3 attempts in a row were abandoned";
    assert_eq!(Runs { runs: vec![a_run().into()] }.table(now()), expected);
}

#[test]
fn a_round_is_shown_with_what_each_site_did() {
    let expected = "\
ROUND  PHASE      REPORTED  LATE  WITHDREW  MISSING  EXAMPLES  UPDATES    LOSS  MODEL  ENDS       REASON
4.2    reporting       1/3     1         1        1     1,600  8.0 MiB  0.2500  -      in 10 min  -

was due 5 s ago: an update still arrives

SITE    STATE       STEPS  EXAMPLES   UPDATE    LOSS  FIRST > LAST QUARTER  GRADIENT P50, P99  REASON
mayo    reported      200     1,600  4.0 MiB  0.2500  0.5000 > 0.1250       0.75, 3.50         -
ucl     joined     40/200         -        -  0.5000  -                     -                  -
zurich  withdrawn       -         -        -       -  -                     -                  out of memory

LATE SITE  OF ROUND  ROUNDS LATE  EXAMPLES
oslo       3.1                 1         0

UPDATE     NORM  COSINE  NEAREST  CAUSE  SO IT WAS
mayo    1.250e1   0.500   0.9997  twin   quarantined

MISSING  WHY                               SINCE    HEARD
ucl      uploading, 1024 of 4194304 bytes  9 s ago  2 s ago
oxford   has not joined                    -        -";
    assert_eq!(Round::from(a_round()).table(now()), expected);
}

#[test]
fn empty_lists_say_what_to_do() {
    let none = Sites { sites: vec![], invites: vec![] };
    assert!(none.table(now()).contains("fedctl site invite"));
    assert!(Runs { runs: vec![] }.table(now()).contains("fedctl run create"));
}

#[test]
fn json_has_stable_names_and_plain_values() {
    let digest = |byte: u8| format!("{byte:02x}").repeat(32);
    let round = serde_json::to_value(Round::from(a_round())).unwrap();
    let expected = serde_json::json!({
        "run": "t1", "number": 4, "attempt": 2, "phase": "reporting", "reason": null,
        "base_model": { "digest": digest(2), "size_bytes": 4_194_304 }, "model": null,
        "until": "2026-11-18T11:16:40Z", "opened_at": "2026-11-18T11:05:40Z", "closed_at": null,
        "members": [
            {
                "site": "mayo", "state": "reported", "reason": null, "examples": 1600,
                "update": { "digest": digest(3), "size_bytes": 4_194_304 },
                "report": {
                    "steps": 200, "loss_mean": 0.25, "loss_first": 0.5, "loss_last": 0.125,
                    "gradient_norm_p50": 0.75, "gradient_norm_p99": 3.5
                },
                "progress": null, "since": null
            },
            {
                "site": "ucl", "state": "joined", "reason": null, "examples": null,
                "update": null, "report": null,
                "progress": { "step": 40, "steps": 200, "loss": 0.5 }, "since": null
            },
            {
                "site": "zurich", "state": "withdrawn", "reason": "out of memory",
                "examples": null, "update": null, "report": null, "progress": null,
                "since": null
            }
        ],
        "counts": { "joined": 3, "reported": 1, "folded": 1, "withdrawn": 1, "missing": 1, "quarantined": 0 },
        "update_bytes": 8_388_608,
        "late": [{
            "site": "oslo", "number": 3, "attempt": 1, "examples": 0, "staleness": 1,
            "update": { "digest": digest(6), "size_bytes": 4_194_304 }
        }],
        "due": "2026-11-18T11:06:35Z",
        "missing": [
            {
                "site": "ucl", "why": "uploading", "detail": "uploading, 1024 of 4194304 bytes",
                "since": "2026-11-18T11:06:31Z", "heard_at": "2026-11-18T11:06:38Z",
                "progress": null, "uploaded_bytes": 1024, "upload_bytes": 4_194_304
            },
            {
                "site": "oxford", "why": "never_joined", "detail": "has not joined",
                "since": null, "heard_at": null, "progress": null,
                "uploaded_bytes": null, "upload_bytes": null
            }
        ],
        "standings": [{
            "site": "mayo", "late": false, "norm": 12.5, "cosine": 0.5, "nearest_cosine": 0.9997,
            "outlier": "twin", "excluded": true
        }]
    });
    assert_eq!(round, expected);

    let model =
        v1::Model { run: "t1".into(), round: 3, blob: blob(2), created_at: at(0), ema: blob(5) };
    let expected = serde_json::json!({
        "run": "t1", "round": 3, "digest": digest(2), "size_bytes": 4_194_304,
        "ema": { "digest": digest(5), "size_bytes": 4_194_304 },
        "created_at": "2026-11-18T11:06:40Z"
    });
    assert_eq!(serde_json::to_value(Model::from(model)).unwrap(), expected);

    let event = v1::Event {
        document: Vec::new(),
        seq: 1,
        at: at(0),
        actor: "operator/ada".into(),
        kind: "site_enrolled".into(),
        detail: "mayo".into(),
    };
    let expected = serde_json::json!({
        "seq": 1, "at": "2026-11-18T11:06:40Z", "actor": "operator/ada",
        "kind": "site_enrolled", "detail": "mayo"
    });
    assert_eq!(serde_json::to_value(Event::from(event)).unwrap(), expected);
    let site = &serde_json::to_value(sites()).unwrap()["sites"][1];
    assert_eq!((&site["state"], &site["agent_version"]), (&"revoked".into(), &().into()));
}
