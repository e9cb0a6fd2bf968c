//! What can be asked of fedctl, as clap reads it. The help text is what is written here.

mod audit;
mod members;
mod plan;

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use fedpaint_coordinator::ca::DAYS_MAX;
use fedpaint_proto::limits::REASON_BYTES_MAX;
use fedpaint_proto::names::{FederationName, RunName, SiteName};
use rustls::pki_types::ServerName;

pub(crate) use self::audit::{AuditVerb, EventsAsked};
pub(crate) use self::members::{DeskRole, OperatorVerb, ProposalVerb};
pub(crate) use self::plan::PlanVerb;
use crate::output::{Format, Output};

const EXAMPLES: &str = "\
Examples:
  fedctl ca init --federation brain --out pki/ca
  fedctl ca issue coordinator main --ca pki/ca --out pki --host fed.example.org
  fedctl ca issue operator ada --ca pki/ca --out pki
  fedctl site invite mayo
  fedctl run create t1 --plan run.toml --model initial.safetensors
  fedctl run watch t1
  fedctl model export t1 --out t1.safetensors

Where the coordinator is, and who asks, comes from flags, then FEDCTL_* variables, then the file
~/.config/fedpaint/fedctl.toml:
  coordinator = \"https://fed.example.org:8443\"
  ca = \"ca.pem\"
  cert = \"ada.pem\"
  key = \"ada.key\"
Relative paths in the file are taken from its own folder.

Exit status: 0 done, 1 failed, 2 asked wrongly.";

/// Manage a fedpaint federation
#[derive(Debug, Parser)]
#[command(name = "fedctl", version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// What the output looks like: a table for people, JSON for programs
    #[arg(long, value_enum, global = true, default_value_t, env = "FEDCTL_OUTPUT")]
    pub(crate) output: Format,

    #[command(flatten)]
    pub(crate) connection: Connection,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the coordinator is, and who asks.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// The coordinator's address, https://HOST:PORT
    #[arg(long, global = true, value_name = "URL", env = "FEDCTL_COORDINATOR")]
    pub(crate) coordinator: Option<String>,

    /// The HTTP proxy on the way there, http://[USER:PASSWORD@]HOST:PORT [default: that of HTTPS_PROXY,
    /// unless NO_PROXY excepts the coordinator]
    #[arg(long, global = true, value_name = "URL", env = "FEDCTL_PROXY", hide_env_values = true)]
    pub(crate) proxy: Option<String>,

    /// The federation's root certificate; for `ca issue`, the folder that `ca init` filled
    #[arg(long, global = true, value_name = "PATH", env = "FEDCTL_CA")]
    pub(crate) ca: Option<PathBuf>,

    /// The operator's certificate
    #[arg(long, global = true, value_name = "FILE", env = "FEDCTL_CERT")]
    pub(crate) cert: Option<PathBuf>,

    /// The private key of the operator's certificate
    #[arg(long, global = true, value_name = "FILE", env = "FEDCTL_KEY")]
    pub(crate) key: Option<PathBuf>,

    /// The file with what is not given otherwise [default: ~/.config/fedpaint/fedctl.toml]
    #[arg(long, global = true, value_name = "FILE", env = "FEDCTL_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the federation's certificates; needs no coordinator
    Ca {
        #[command(subcommand)]
        verb: CaVerb,
    },
    /// The institutions that train
    Site {
        #[command(subcommand)]
        verb: SiteVerb,
    },
    /// What operators may do
    Operator {
        #[command(subcommand)]
        verb: OperatorVerb,
    },
    /// What takes two persons and one has asked for
    Proposal {
        #[command(subcommand)]
        verb: ProposalVerb,
    },
    /// Sign the plan of a run, for sites that ask who stands behind it; needs no coordinator
    Plan {
        #[command(subcommand)]
        verb: PlanVerb,
    },
    /// Trainings of one model over many rounds
    Run {
        #[command(subcommand)]
        verb: RunVerb,
    },
    /// The rounds of a run
    Round {
        #[command(subcommand)]
        verb: RoundVerb,
    },
    /// The global models a run has made
    Model {
        #[command(subcommand)]
        verb: ModelVerb,
    },
    /// The audit log: who did what, and when
    Events(EventsAsked),
    /// The audit log as evidence: every entry is in a tree that the coordinator signs
    Audit {
        #[command(subcommand)]
        verb: AuditVerb,
    },
    /// Sites, runs and the rounds in hand, on one page
    Status,
    /// Renew the operator's certificate with a fresh key, if a third of its life is over
    #[command(after_help = "\
Every command does so by itself. This one does nothing else, such as once a day from a timer where an operator
rarely comes by.")]
    Renew {
        /// However much of its life is left, such as before some weeks of absence
        #[arg(long)]
        now: bool,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CaVerb {
    /// Make a federation's root, `ca.pem`, which everybody gets, and `ca.key`, which nobody gets and which
    /// is needed no more, so keep it offline; and the authority that issues certificates under it,
    /// `issuing.pem` and `issuing.key`, which the coordinator may have
    Init {
        /// The federation's name: the trust domain of all its certificates
        #[arg(long)]
        federation: FederationName,
        /// The folder to write to; it must not hold a root yet
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// How long the root is to last
        #[arg(long, default_value_t = 3653, value_parser = days())]
        days: u32,
        /// How long the issuing authority is to last
        #[arg(long, default_value_t = 366, value_parser = days())]
        issuing_days: u32,
    },
    /// Make a further issuing authority under a root: `issuing.pem` and `issuing.key`
    Issuing {
        /// The folder to write to; it must not hold an issuing authority yet
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// How long it is to last
        #[arg(long, default_value_t = 366, value_parser = days())]
        days: u32,
    },
    /// Issue a certificate: writes NAME.pem, NAME.key and a copy of `ca.pem`; for who signs, a site and
    /// the coordinator, also NAME.signing.pem and NAME.signing.key
    #[command(after_help = "\
Examples:
  fedctl ca issue coordinator main --ca pki/ca --out pki --host fed.example.org --host 10.0.0.7
  fedctl ca issue site mayo --ca pki/ca --out pki/mayo --days 30")]
    Issue {
        /// What the holder is
        role: RoleKind,
        /// The holder's name
        name: String,
        /// The folder to write to; it must not hold files of that name yet
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// How long the certificate is to last [default: 7 days; it is renewed by itself where the
        /// coordinator has an issuing authority]
        #[arg(long, value_parser = days())]
        days: Option<u32>,
        /// Where a coordinator is reached: a DNS name or an IP address; give it once for each
        #[arg(long = "host", value_name = "HOST", value_parser = host)]
        hosts: Vec<ServerName<'static>>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleKind {
    /// The coordinator itself
    Coordinator,
    /// An institution that trains
    Site,
    /// A person or program that manages the federation
    Operator,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SiteVerb {
    /// Show the sites, enrolled and revoked
    List,
    /// Invite a site to join: prints a token for it, which holds for 24 hours and for one site once
    #[command(after_help = "\
Hand the token to the site's people; they run
  fedpaint-site-agent join TOKEN --coordinator https://HOST:PORT
and read you the six words that it shows. Then
  fedctl site approve NAME WORDS
lets the site in, if they are the words of its keys.")]
    Invite {
        /// A name for the site
        name: SiteName,
        /// Whoever shows the token is let in, without an approval: for demos
        #[arg(long)]
        auto_approve: bool,
    },
    /// Let in who asks to join, by the words that its people see
    Approve {
        /// The site
        name: SiteName,
        /// The six words, as they are read at the site
        words: String,
    },
    /// End an invitation, whoever has its token
    Reject {
        /// The site
        name: SiteName,
    },
    /// Let a site in by name that has a certificate from `fedctl ca issue`; the certificate alone does not
    Enroll {
        /// The site, as in its certificate
        name: SiteName,
    },
    /// Shut a site out at once: its connections are cut, and none of its keys is ever taken again
    Revoke {
        /// The site, as in its certificate
        name: SiteName,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RunVerb {
    /// Start a run: checks plan and model, uploads the model, opens the first round
    #[command(after_help = "\
A plan is TOML; what is left out has a default:
  version = 1
  rounds = 10
  [round]
  sites_min = 2
  sites_goal = 3
  [training]
  steps = 200

`fedpaint-site-agent init-model` makes a first model. Repeating the command is not an error.")]
    Create {
        /// A name for the run
        name: RunName,
        /// The plan
        #[arg(long, value_name = "FILE")]
        plan: PathBuf,
        /// Who stands behind the plan: what `fedctl plan sign` wrote
        #[arg(long, value_name = "FILE")]
        signature: Option<PathBuf>,
        /// The model to start from, a safetensors file
        #[arg(long, value_name = "FILE")]
        model: PathBuf,
    },
    /// Show the runs
    List,
    /// Show a run and its plan
    Show {
        /// The run
        name: RunName,
    },
    /// Follow a run until it is finished; fails if the run is paused or stopped before
    #[command(after_help = "\
On a terminal it draws progress bars; otherwise it writes a line for every change, or with
--output json an object for every change. It outlasts a restart of the coordinator.")]
    Watch {
        /// The run
        name: RunName,
    },
    /// Let nothing new begin; the round in hand is given up
    Pause {
        /// The run
        name: RunName,
    },
    /// Go on with a paused run
    Resume {
        /// The run
        name: RunName,
    },
    /// End a run early, for good; its models stay
    Stop {
        /// The run
        name: RunName,
    },
    /// Count what a site sends again, after a quarantine has left it out
    #[command(after_help = "\
`fedctl round show` tells who was left out and why. From the next round on that is not sealed the site's
updates count whatever they are; `fedctl site revoke` shuts out who should not send any.")]
    Readmit {
        /// The run
        name: RunName,
        /// The site
        site: SiteName,
    },
}

/// A round: by default the newest of the run, and the newest attempt at it.
#[derive(Args, Debug)]
pub(crate) struct RoundAsked {
    /// The run
    pub(crate) run: RunName,
    /// The round's number; the newest if left out
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) number: Option<u32>,
    /// The attempt at the round; the newest if left out
    #[arg(long, requires = "number", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) attempt: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RoundVerb {
    /// Show the rounds of a run, every attempt
    List {
        /// The run
        run: RunName,
    },
    /// Show a round and what each site did in it
    Show(RoundAsked),
    /// End selection or reporting now, if enough sites are there
    Close(RoundAsked),
    /// Give a round up; it is tried again
    Abandon {
        #[command(flatten)]
        round: RoundAsked,
        /// Why, for the audit log
        #[arg(long, value_parser = reason)]
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelVerb {
    /// Show the models of a run; round 0 is the one it started from
    List {
        /// The run
        run: RunName,
    },
    /// Download a model, with a note of its run and round as FILE.json; repeat it if it breaks off
    #[command(after_help = "\
A round has two models. The raw one is what the sites' updates made: the one that runs, rounds and
the audit log name, that the next round trains from, and that a new run should start from. The
moving average (EMA) follows it with less of each round's noise, which is what diffusion models are
usually used with once there were many rounds; it is not for training on. Both are models of the
same form, and the note says which one a file is.")]
    Export {
        /// The run
        run: RunName,
        /// The round that made the model; the newest if left out, 0 for the initial one
        #[arg(long)]
        round: Option<u32>,
        /// The moving average of the models up to that round
        #[arg(long)]
        ema: bool,
        /// The model as the round made it; this is the default
        #[arg(long, conflicts_with = "ema")]
        raw: bool,
        /// The file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Replace the file if it is there and is another one
        #[arg(long)]
        force: bool,
    },
}

/// Prints the completions of `shell`.
pub(crate) fn completions(shell: Shell, output: &Output) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "fedctl", &mut script);
    output.raw(&script)
}

fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(DAYS_MAX))
}

fn host(text: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.to_owned())
        .map_err(|_| "a host is a DNS name or an IP address, without port".to_owned())
}

fn reason(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("say why".to_owned()),
        1..=REASON_BYTES_MAX => Ok(text.to_owned()),
        _ => Err(format!("a reason may have at most {REASON_BYTES_MAX} bytes (REASON_BYTES_MAX)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("fedctl").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_sound_and_every_item_has_help() {
        let mut command = Arguments::command();
        command.clone().debug_assert();
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments() {
                let name = argument.get_id();
                assert!(argument.get_help().is_some(), "{} {name} has no help", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        command.build();
        check(&command);
    }

    #[test]
    fn settings_may_stand_before_and_after_the_verb() {
        for line in [
            "--coordinator https://a:1 --output json run list",
            "run --coordinator https://a:1 list --output json",
            "run list --output json --coordinator https://a:1",
        ] {
            let arguments = parse(line).unwrap();
            assert_eq!(arguments.connection.coordinator.as_deref(), Some("https://a:1"), "{line}");
            assert_eq!(arguments.output, Format::Json, "{line}");
        }
    }

    #[test]
    fn what_is_asked_wrongly_is_refused_before_anything_happens() {
        for line in [
            "",
            "site enroll Mayo",
            "site enroll",
            "ca issue admin x --ca d --out d",
            "ca issue site x --out d --days 0",
            "ca issue coordinator x --out d --host a:8443",
            "run create t1 --plan p",
            "run watch ../t1",
            "round abandon t1 3",
            "round show t1 0",
            "round show t1 --attempt 2",
            "model export t1",
            "model export t1 --out m --ema --raw",
            "run list --output xml",
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses_and_may_be_many() {
        let line = "ca issue coordinator main --ca d --out d --host fed.example.org --host ::1";
        let Command::Ca { verb: CaVerb::Issue { hosts, days, .. } } = parse(line).unwrap().command
        else {
            panic!("another command")
        };
        assert_eq!(hosts[0].to_str(), "fed.example.org");
        assert!(matches!(hosts[1], ServerName::IpAddress(_)));
        assert_eq!(days, None);
    }
}
