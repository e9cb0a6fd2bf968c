//! The rules for Prometheus in `deploy/prometheus`: what they name a real coordinator exports, and what it exports for
//! an alarm has a rule.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use fedpaint_proto::v1;
use fedpaint_tests::fake_site::FakeSite;
use fedpaint_tests::lab::{Lab, LabOptions};
use fedpaint_tests::models;

use crate::canaries::get;
use crate::plan;

const RULES: &str = include_str!("../deploy/prometheus/alerts.yml");

/// What is exported to be looked at: no value of it is an alarm.
const SHOWN: [&str; 9] = [
    "fedpaint_aggregation_seconds",
    "fedpaint_blob_freed_bytes",
    "fedpaint_blob_in_bytes",
    "fedpaint_blob_out_bytes",
    "fedpaint_blobs_freed",
    "fedpaint_heartbeats",
    "fedpaint_run_rounds_committed",
    "fedpaint_updates_accepted",
    "fedpaint_uploads_put_off",
];

/// What the names of a metric's values end with, behind the metric's own.
const ENDS: [&str; 6] = ["", "_total", "_info", "_bucket", "_sum", "_count"];

/// The rules, each by its fields: the file is YAML of one field a line.
fn rules() -> Vec<BTreeMap<&'static str, &'static str>> {
    let mut rules: Vec<BTreeMap<&str, &str>> = Vec::new();
    let lines = RULES.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (key, value) = line.trim_start_matches("- ").split_once(':').unwrap();
        // In a text without quotes YAML takes these for something else.
        let plain = !value.contains(": ") && !value.contains(" #");
        assert!(plain || value.starts_with(" \"") || value.starts_with(" {"), "{line}");
        match key {
            "groups" | "name" | "rules" | "annotations" => {}
            "alert" => rules.push(BTreeMap::from([(key, value.trim())])),
            "expr" | "for" | "labels" | "summary" => {
                assert_eq!(rules.last_mut().unwrap().insert(key, value.trim()), None, "{line}");
            }
            _ => panic!("no field of a rule: {line}"),
        }
    }
    rules
}

/// A metric's name in an expression, and what it asks of a label.
#[derive(Debug)]
struct Selector {
    name: String,
    label: Option<(&'static str, &'static str)>,
}

fn selectors(expression: &'static str) -> Vec<Selector> {
    let selector = |rest: &'static str| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let (name, rest) = rest.split_at(end.unwrap_or(rest.len()));
        let asked = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let label = asked.map(|(asked, _)| {
            let (label, value) = asked.split_once('=').unwrap();
            (label, value.trim_start_matches('~').trim_matches('"'))
        });
        Selector { name: format!("fedpaint_{name}"), label }
    };
    expression.split("fedpaint_").skip(1).map(selector).collect()
}

/// The value of a label of an exported line, if the line is of this metric and has it.
fn label<'a>(line: &'a str, name: &str, label: &str) -> Option<&'a str> {
    let labels = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once('}')?.0;
    let begin = format!("{label}=\"");
    let at = if labels.starts_with(&begin) { 0 } else { labels.find(&format!(",{begin}"))? + 1 };
    labels[at + begin.len()..].split('"').next()
}

/// Whether a value is one of the alternatives of a pattern, each of which is a text, or a beginning, `.*` and an end.
fn fits(pattern: &str, value: &str) -> bool {
    pattern.split('|').any(|one| match one.split_once(".*") {
        Some((begin, end)) => value.strip_prefix(begin).is_some_and(|rest| rest.ends_with(end)),
        None => value == one,
    })
}

/// What a coordinator exports that has held a round, refused an update and issues certificates.
async fn exported(folder: &Path) -> String {
    let options = LabOptions { leaf_s: Some(3_600), ..LabOptions::default() };
    let mut lab = Lab::prepare(&folder.join("lab"), options).unwrap();
    lab.start_coordinator().unwrap();
    let model = folder.join("base.safetensors");
    let base = models::write(&model, models::specs(), |_, _| 0.5).unwrap();
    lab.create_run("brain", &plan(1, 1, 1, ""), &model, base).await.unwrap();
    let mut mayo = FakeSite::enroll(&lab, "mayo").await.unwrap();
    mayo.join().await.unwrap();
    let round = mayo.task().await.unwrap().round.unwrap();
    let file = folder.join("update.safetensors");
    let update = models::write(&file, models::specs(), |_, _| 1.0).unwrap();
    mayo.upload(&round, update, &file).await.unwrap();
    mayo.submit(&round, base.digest, update, 0).await.unwrap_err();
    mayo.submit(&round, base.digest, update, 8).await.unwrap();
    lab.watch("brain", |run, _| run.state() == v1::RunState::Finished).await.unwrap();
    String::from_utf8(get(lab.status_address(), "/metrics")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_names_what_a_coordinator_exports_and_every_alarm_that_it_exports_has_a_rule() {
    let folder = tempfile::tempdir().unwrap();
    let text = exported(folder.path()).await;
    let (rules, mut used) = (rules(), BTreeSet::new());
    assert!(rules.len() >= 10, "{rules:?}");
    for rule in &rules {
        for field in ["alert", "expr", "labels", "summary"] {
            assert!(rule.get(field).is_some_and(|text| !text.is_empty()), "{field}: {rule:?}");
        }
        assert!(
            matches!(rule["labels"], "{severity: critical}" | "{severity: warning}"),
            "{rule:?}"
        );
        let selectors = selectors(rule["expr"]);
        assert!(!selectors.is_empty(), "{rule:?}");
        for Selector { name, label: asked } in selectors {
            let values = text.lines().filter(|line| {
                let rest = line.strip_prefix(name.as_str());
                rest.is_some_and(|rest| rest.starts_with([' ', '{']))
            });
            let values: Vec<&str> = values.collect();
            assert!(!values.is_empty(), "{name} of {} is not in\n{text}", rule["alert"]);
            if let Some((asked, pattern)) = asked {
                let found = values.iter().filter_map(|line| label(line, &name, asked));
                let found: Vec<&str> = found.collect();
                let any = found.iter().any(|value| fits(pattern, value));
                assert!(any, "{}: {asked} is {pattern}, exported is {found:?}", rule["alert"]);
            }
            used.insert(name);
        }
    }
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let metrics: BTreeSet<&str> = kinds.filter_map(|kind| kind.split(' ').next()).collect();
    for metric in &metrics {
        let has_rule = ENDS.iter().any(|end| used.contains(&format!("{metric}{end}")));
        assert!(has_rule || SHOWN.contains(metric), "{metric} is no alarm and is not shown");
    }
    for shown in SHOWN {
        assert!(metrics.contains(shown), "{shown} is not exported");
    }
}
