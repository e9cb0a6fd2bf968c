//! What can be asked of who signs plans.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum PlanVerb {
    /// Make a key to sign plans with: writes FILE, which only its owner may read, and prints the public key
    #[command(after_help = "\
The public key goes to the sites, by a way that they trust; each names it in its own policy:
  [plan]
  signers = [\"ed25519:...\"]
No certificate is involved, so neither the coordinator nor the federation's root can sign in its place.")]
    Keygen {
        /// The file to write; it must not be there yet
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Sign a plan: writes PLAN.sig, which `fedctl run create --signature` takes
    #[command(after_help = "\
What is signed is what the plan says, not how it is written; it holds for whatever run has that plan.")]
    Sign {
        /// The plan
        plan: PathBuf,
        /// The key that `fedctl plan keygen` made
        #[arg(long = "with", value_name = "FILE")]
        with: PathBuf,
        /// The file to write; it must not be there yet [default: PLAN.sig]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}
