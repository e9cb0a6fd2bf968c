//! `plan`: what the coordinator wants of this site, what the policy says of it, and a human's yes. It reads
//! and writes the workspace beside an agent that runs, and asks nobody.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use comfy_table::{Table, presets};
use fedpaint_proto::names::Digest;
use serde::Serialize;

use super::output::{self, Format};
use super::run::now;
use crate::agent;
use crate::config::Config;
use crate::plans::{APPROVER_CHARS_MAX, Approved, Plans, Shown};
use crate::policy::judge::Verdict;

/// Options of `plan`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the plans that the coordinator has shown this site, and what its policy says of each.
    Show {
        /// The agent's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Only the plan whose digest begins so.
        digest: Option<String>,
        /// How to print.
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Approve a plan, for whatever run has it. The other rules of the policy still hold.
    Approve {
        /// The agent's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The plan's digest, or its beginning.
        digest: String,
        /// Who approves; by default the user of this machine.
        #[arg(long, value_name = "NAME")]
        by: Option<String>,
    },
    /// Take an approval back: no further round of the plan is joined, and no update of it leaves.
    TakeBack {
        /// The agent's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The plan's digest, or its beginning.
        digest: String,
    },
}

/// A plan as it is shown.
#[derive(Serialize)]
struct View {
    digest: Digest,
    #[serde(flatten)]
    shown: Shown,
    approved: Option<Approved>,
    /// Whether a round of it would be joined now.
    passes: bool,
    rules: Vec<Verdict>,
}

/// Does what was asked for.
///
/// # Errors
/// If configuration, policy or workspace do not read, or there is no such plan.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.verb {
        Verb::Show { config, digest, output } => show(config, digest.as_deref(), *output),
        Verb::Approve { config, digest, by } => {
            let plans = plans(config)?;
            let (digest, _) = plans.find(digest)?;
            let by = who(by.as_deref())?;
            plans.approve(digest, &Approved { by: by.clone(), at: now() })?;
            output::print(&format!("{digest} approved by {by}"))?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::TakeBack { config, digest } => {
            let plans = plans(config)?;
            let (digest, _) = plans.find(digest)?;
            plans.take_back(digest)?;
            output::print(&format!("{digest} is no longer approved"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn plans(config: &std::path::Path) -> Result<Plans> {
    Ok(Plans::of(&Config::load(config)?.workspace))
}

/// Who approves: what was said, or the user of this machine.
fn who(said: Option<&str>) -> Result<String> {
    let user = |name| std::env::var(name).ok().filter(|user| !user.is_empty());
    let by = said.map(str::to_owned).or_else(|| user("SUDO_USER")).or_else(|| user("USER"));
    let by = by.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let fits = by.chars().count() <= APPROVER_CHARS_MAX && !by.contains(char::is_control);
    ensure!(fits, "--by is one line of at most {APPROVER_CHARS_MAX} characters");
    Ok(by)
}

fn show(config: &std::path::Path, prefix: Option<&str>, output: Format) -> Result<ExitCode> {
    let config = Config::load(config)?;
    let gate = agent::gate(&config, now)?;
    let plans = Plans::of(&config.workspace);
    let only = prefix.map(|prefix| plans.find(prefix)).transpose()?.map(|(digest, _)| digest);
    let mut views = Vec::new();
    for (digest, shown) in plans.list()? {
        if only.is_some_and(|only| only != digest) {
            continue;
        }
        let plan = shown
            .read()
            .with_context(|| format!("the plan {digest} that is kept in the workspace"))?;
        let rules = gate.verdicts(&plan);
        let passes = rules.iter().all(|verdict| verdict.passes);
        views.push(View { digest, shown, approved: plans.approved(digest)?, passes, rules });
    }
    let text = match output {
        Format::Json => serde_json::to_string_pretty(&views)?,
        Format::Table if views.is_empty() => "the coordinator has shown no plan yet".to_owned(),
        Format::Table => views.iter().map(in_words).collect::<Vec<_>>().join("\n\n"),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn in_words(view: &View) -> String {
    let View { digest, shown, approved, passes, rules } = view;
    let approved = match approved {
        Some(Approved { by, at }) => format!("approved by {by} at {at}"),
        None => format!("not approved: plan approve {}", digest.short()),
    };
    let passes = if *passes { "its rounds are joined" } else { "its rounds are NOT joined" };
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(["rule", "says", "because"]);
    for Verdict { rule, passes, detail } in rules {
        let says = if *passes { "pass" } else { "REFUSE" };
        table.add_row([rule.as_str(), says, detail.as_str()]);
    }
    let signed = match &shown.signature {
        Some(signature) => format!("by {}", signature.key),
        None => "by nobody".to_owned(),
    };
    format!(
        "plan {digest}\nof run {}, shown at {}; signed {signed}; {approved}; {passes}\n\n{}\n{table}",
        shown.run,
        shown.at,
        shown.plan_toml.trim_end(),
    )
}
