//! The same with real programs: a coordinator whose database was rewritten while it was stopped, and the
//! agent of a site that had believed it before; and an export that was changed as a file.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fedpaint_coordinator::evidence::export::Line;
use fedpaint_proto::log::Entry;
use fedpaint_proto::tls::TlsFiles;
use fedpaint_tests::lab::{AgentOptions, Lab, LabOptions};
use fedpaint_tests::outcome::{Outcome, rounded};
use fedpaint_tests::process::{Process, output};

use super::book::{Book, KINDS, Kind, attacked, entry, in_order, write_database};
use crate::say;

/// The exit code of an agent that has caught the coordinator.
const CAUGHT: i32 = 70;

/// How long a program may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a program is looked at.
const LOOK: Duration = Duration::from_millis(20);

const SITE: &str = "mayo";

/// The entry that is changed in an exported file; nothing was done to it before.
const CHANGED: u64 = 7;

/// Rewrites the log of a real coordinator in every way.
///
/// # Errors
/// If a program does not start.
pub(crate) async fn real(work: &Path, book: &Book, outcome: &mut Outcome) -> anyhow::Result<()> {
    let folder = work.join("federation");
    let mut lab = Lab::prepare(&folder, LabOptions::default())?;
    lab.issue("site", SITE, &[])?;
    let database = folder.join("coordinator").join("coordinator.db");
    fs::create_dir_all(folder.join("coordinator"))?;
    let (mut caught, mut offline, mut seconds) = (0_u64, 0_u64, Vec::new());
    for kind in KINDS {
        remove_database(&database)?;
        write_database(&database, SITE, &book.entries).await?;
        lab.start_coordinator()?;
        let workspace = folder.join(format!("workspace-{SITE}"));
        if workspace.exists() {
            fs::remove_dir_all(&workspace)?;
        }
        let more = "[rehearsal]\nsteps_ms = 1\n".into();
        let options = AgentOptions { more, ..AgentOptions::default() };
        let mut agent = lab.start_agent(SITE, &folder, &options)?;
        // Its workspace is new: there is a head in it once it has believed one.
        wait(&mut agent, |_| Ok(workspace.join("head.json").exists())).await?;
        lab.coordinator()?.stop()?;

        let size = book.size();
        let mut entries = in_order(attacked(&book.entries, kind, size / 3));
        if kind != Kind::Truncate {
            let more = entries.len() as u64 + 1..=size + 3;
            entries.extend(more.map(entry));
        }
        remove_database(&database)?;
        write_database(&database, SITE, &entries).await?;
        let started = Instant::now();
        lab.start_coordinator()?;
        wait(&mut agent, |agent| Ok(!agent.is_running()?)).await?;
        let took = started.elapsed().as_secs_f64();
        seconds.push(took);
        let code = agent.ended()?.and_then(|status| status.code());
        let kept = fs::read_dir(workspace.join("evidence")).map(Iterator::count).unwrap_or(0);
        let found = code == Some(CAUGHT) && kept == 1;
        caught += u64::from(found);
        outcome.require(found, || {
            format!("{kind:?}: the agent ended with {code:?}, {kept} proofs: {:?}", agent.log())
        });
        let told = export_and_verify(&lab, &workspace.join("head.json"), &format!("{kind:?}"))?;
        let refused = told.contains("fork") || told.contains("cut short");
        offline += u64::from(refused);
        outcome.require(refused, || format!("{kind:?}: fedctl says {told}"));
        say(&format!("real: {kind:?}: caught after {took:.1} s; {}", told.trim()));
        lab.coordinator()?.stop()?;
    }
    outcome.set("real_attacks", KINDS.len());
    outcome.set("real_caught_by_agent", caught);
    outcome.set("real_found_by_fedctl", offline);
    let longest = seconds.into_iter().fold(0.0, f64::max);
    outcome.set("real_seconds_max", rounded(longest, 1));
    Ok(())
}

/// What `fedctl audit verify` says of the coordinator's log as it is now, by the head that the site kept. Without
/// that head it believes the export, and no other than that.
fn export_and_verify(lab: &Lab, head: &Path, name: &str) -> anyhow::Result<String> {
    let file = lab.path(&format!("log-{name}.jsonl"));
    lab.fedctl(&["audit", "export", "--out", &file])?;
    let (listed, events) = (lab.fedctl(&["audit", "list"])?, lab.fedctl(&["events"])?);
    ensure!(!listed.is_empty() && listed == events, "`audit list` is not `events`: {listed}");
    let TlsFiles { ca, .. } = lab.tls("ada");
    let (ca, head) = (ca.display().to_string(), head.display().to_string());
    let alone = output("fedctl", &["audit", "verify", &file, "--ca", &ca])?;
    let with = output("fedctl", &["audit", "verify", &file, "--ca", &ca, "--head", &head])?;
    ensure!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stderr));
    ensure!(with.status.code() == Some(1), "the log is believed: {with:?}");
    let other = lab.path(&format!("log-{name}-changed.jsonl"));
    change_detail(&file, &other)?;
    let changed = output("fedctl", &["audit", "verify", &other, "--ca", &ca])?;
    let told = String::from_utf8_lossy(&changed.stderr);
    let is_named = told.contains(&format!("entry {CHANGED} was changed"));
    ensure!(changed.status.code() == Some(1) && is_named, "a changed file: {changed:?}");
    Ok(String::from_utf8_lossy(&with.stderr).into_owned())
}

/// Writes an exported log once more, in which one entry has another detail and all else is as it was.
fn change_detail(from: &str, to: &str) -> anyhow::Result<()> {
    let (exported, mut lines) = (fs::read_to_string(from)?, Vec::new());
    for text in exported.lines() {
        lines.push(match serde_json::from_str(text)? {
            Line::Entry { entry, leaf } if entry.seq == CHANGED => {
                let detail = format!("{}, on second thoughts not", entry.detail);
                Line::Entry { entry: Entry { detail, ..entry }, leaf }.to_text()
            }
            _ => format!("{text}\n"),
        });
    }
    fs::write(to, lines.concat())?;
    Ok(())
}

async fn wait(
    agent: &mut Process,
    done: impl Fn(&mut Process) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let started = Instant::now();
    while !done(agent)? {
        ensure!(started.elapsed() < PATIENCE, "nothing happens: {}", agent.log()?);
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

fn remove_database(file: &Path) -> anyhow::Result<()> {
    for end in ["", "-wal", "-shm"] {
        let path = format!("{}{end}", file.display());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context(path);
            }
            _ => {}
        }
    }
    Ok(())
}
