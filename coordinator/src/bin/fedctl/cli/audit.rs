//! What can be asked of the audit log.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum AuditVerb {
    /// Show the entries, as `fedctl events` does
    List(EventsAsked),
    /// Write the whole log to a file that proves itself
    Export {
        /// The file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Replace the file if it is there
        #[arg(long)]
        force: bool,
    },
    /// Write the head that the coordinator signs over the log now: for a site that has to accept it after
    /// the coordinator was restored from a backup
    Head {
        /// The file to write; it must not be there yet
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Check an exported log; needs no coordinator
    #[command(after_help = "\
Needs the root alone: --ca FILE. A head that was kept, such as `head.json` in a site's workspace, shows
that the log is the one that was shown then, and that nothing was cut from its end since.

Exit status: 0 whole, 1 broken: the very entry that is the first not to be what was logged is named; where its
head is gone too, or a version before has signed one for many, those of which it may be one.")]
    Verify {
        /// What `fedctl audit export` wrote
        file: PathBuf,
        /// A signed head that somebody kept; give it once for each
        #[arg(long = "head", value_name = "FILE")]
        heads: Vec<PathBuf>,
        /// A model that `fedctl model export` wrote: check its manifest, that it is that of the file, and
        /// that the log vouches for it
        #[arg(long, value_name = "FILE")]
        model: Option<PathBuf>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct EventsAsked {
    /// Only entries after the one with this number
    #[arg(long, default_value_t = 0, value_name = "SEQ")]
    pub(crate) after: u64,
    /// Keep showing what comes
    #[arg(long)]
    pub(crate) follow: bool,
}
