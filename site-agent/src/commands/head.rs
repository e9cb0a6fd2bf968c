//! `head`: what this site was last shown of the coordinator's log, and taking another one by hand. Nothing
//! else makes a site forget what it was shown.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use fedpaint_proto::log::SignedHead;
use fedpaint_proto::signing::Authority;

use super::output;
use super::run::now;
use crate::config::Config;
use crate::workspace::Workspace;

/// The longest head that is read.
const HEAD_BYTES_MAX: u64 = 64 << 10;

/// Options of `head`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the last head that was believed, as JSON; `fedctl audit verify --head` takes it.
    Show {
        /// The agent's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Take a head that the federation's operator has sent, after the coordinator was restored from an older
    /// backup. What was believed before is kept as evidence. The agent must not be running.
    Accept {
        /// The agent's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// What `fedctl audit head` has written.
        #[arg(long, value_name = "FILE")]
        head: PathBuf,
    },
}

/// Shows or takes a head.
///
/// # Errors
/// If there is none, it is not signed by this federation's coordinator, or the agent runs.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.verb {
        Verb::Show { config } => {
            let path = Config::load(config)?.workspace.join("head.json");
            let text = std::fs::read_to_string(&path);
            let text = text.with_context(|| format!("no head was kept in {}", path.display()))?;
            output::print(text.trim_end())?;
        }
        Verb::Accept { config, head } => {
            let config = Config::load(config)?;
            let site = config.valid_site(now())?;
            let mut text = String::new();
            let read = || format!("cannot read the head {}", head.display());
            let file = File::open(head).with_context(read)?;
            file.take(HEAD_BYTES_MAX).read_to_string(&mut text).with_context(read)?;
            let head: SignedHead = serde_json::from_str(&text).with_context(read)?;
            let authority = Authority::load(site.federation, &config.tls.ca)?;
            head.by_coordinator(&authority, now())?;
            Workspace::open(&config.workspace)?.accept_head(&head, now())?;
            let (size, root) = (head.statement.size, head.statement.root);
            output::print(&format!("accepted: {size} entries, root {root}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
