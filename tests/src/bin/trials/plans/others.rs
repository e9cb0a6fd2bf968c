//! Hospitals that refuse every plan: at this hour, because an update may not say how many slices it saw, or because
//! the coordinator is of a later version and its plan does not read.

use anyhow::Context;
use fedpaint_coordinator::clock::{Clock, SystemClock};
use fedpaint_proto::rule::Rule;
use fedpaint_tests::lab::{AgentOptions, OPEN_POLICY};
use fedpaint_tests::models;
use fedpaint_tests::outcome::Outcome;
use jiff::tz::TimeZone;

use super::newer::Newer;
use super::{Found, Hospital, Plan, SIGNER};

/// The hospitals, and by which rule each refuses.
const OTHERS: [(&str, Rule); 3] =
    [("asleep", Rule::Hours), ("silent", Rule::Metrics), ("older", Rule::Plan)];

/// In how many hours the hospital wakes that is asleep.
const SLEEPS_HOURS: i8 = 2;

/// The seed of the first one's plan, which no other plan of the trial has: none of them is approved by that.
const SEED_FIRST: usize = 1_000_000;

/// Has each of them refuse the plan that the first hospital allows; by which rules they did, in both logs.
pub(super) async fn refuse(
    hospital: &mut Hospital,
    outcome: &mut Outcome,
) -> anyhow::Result<Vec<Rule>> {
    let mut seen = Vec::new();
    let scans = hospital.folder.join("no-scans");
    for (number, (site, rule)) in OTHERS.into_iter().enumerate() {
        hospital.lab.enroll(site)?;
        let newer = match rule {
            Rule::Plan => Some(Newer::start(&hospital.lab, site).await?),
            _ => None,
        };
        let options = AgentOptions {
            policy: policy(rule),
            coordinator: newer.as_ref().map(Newer::address),
            more: "[rehearsal]\nsteps_ms = 0\n".into(),
            ..AgentOptions::default()
        };
        let mut agent = hospital.lab.start_agent(site, &scans, &options)?;
        let (name, plan) =
            (format!("other-{number}"), Plan { seed: SEED_FIRST + number, ..Plan::default() });
        hospital.create(&name, (&plan.to_toml(), Some(SIGNER)), models::specs()).await?;
        let found = hospital.tried(&name, (site, rule)).await.context(site)?;
        let Found { refused, in_site_log, left } = found;
        let well = refused && in_site_log && left == 0;
        outcome.require(well, || format!("{site} was to refuse by {rule}: {found:?}"));
        seen.extend(well.then_some(rule));
        agent.stop()?;
    }
    Ok(seen)
}

/// A policy that allows everything, but by `rule`.
fn policy(rule: Rule) -> String {
    match rule {
        Rule::Hours => {
            let now = TimeZone::system().to_datetime(SystemClock.now());
            let hour = (now.hour() + SLEEPS_HOURS) % 24;
            let hours = format!("hours = [\"{hour:02}:00-{hour:02}:30\"]");
            OPEN_POLICY.replace("hours = \"always\"", &hours)
        }
        Rule::Metrics => OPEN_POLICY.replace("\"examples\", ", ""),
        _ => OPEN_POLICY.to_owned(),
    }
}
