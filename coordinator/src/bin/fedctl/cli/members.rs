//! What can be asked about operators, and about what takes two of them.

use clap::{Subcommand, ValueEnum};
use fedpaint_proto::names::{Digest, OperatorName};

#[derive(Debug, Subcommand)]
pub(crate) enum OperatorVerb {
    /// Show who may do what; while nobody is listed, everybody with an operator's certificate is an admin
    List,
    /// Say what an operator may do; without roles nothing, and its connections are cut
    #[command(after_help = "\
viewer    sees sites, runs and rounds
runner    creates and steers runs, uploads and exports models
approver  invites, approves and revokes sites
auditor   reads the audit log
admin     may do all of it, enrols sites by name, and says what others may do")]
    Set {
        /// The operator, as in its certificate
        name: OperatorName,
        /// Its roles
        #[arg(value_enum)]
        roles: Vec<DeskRole>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProposalVerb {
    /// Show what waits for a second person, and what had one, of the last day
    List,
    /// Agree with what another operator has asked for, who then repeats the command
    Approve {
        /// The proposal
        id: Digest,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeskRole {
    /// Sees sites, runs and rounds
    Viewer,
    /// Creates and steers runs, moves models
    Runner,
    /// Lets sites in and shuts them out
    Approver,
    /// Reads the audit log
    Auditor,
    /// May do all of it
    Admin,
}
