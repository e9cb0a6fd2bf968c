//! The command line: one file per verb. Data goes to standard output, everything else to standard
//! error; 0 is done, 1 failed, 2 misused.

pub mod bench;
pub mod completions;
pub mod data;
pub mod devices;
pub mod doctor;
pub mod evaluate;
pub mod head;
pub mod init_model;
pub mod inpaint;
pub mod join;
pub mod model;
pub mod options;
pub mod output;
pub mod phantom;
pub mod plan;
pub mod run;
pub mod sampling;
pub mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// fedpaint's site agent: trains a brain MRI inpainting model together with other hospitals, on scans
/// that never leave this one.
#[derive(Debug, Parser)]
#[command(name = "fedpaint-site-agent", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  fedpaint-site-agent data check scans --label-scheme brats2023   what is there, what is wrong?
  fedpaint-site-agent doctor --config site-agent.toml    is this site ready?
  fedpaint-site-agent join TOKEN --coordinator https://fed.example.org:8443 --data scans
  fedpaint-site-agent run --config site-agent.toml       take part until SIGTERM
  fedpaint-site-agent plan show --config site-agent.toml   what does the coordinator want?
  fedpaint-site-agent phantom --out scans --patients 8 --scanner A --seed 1 --size 2
  fedpaint-site-agent init-model --preset tiny --seed 1 --out initial.safetensors
  fedpaint-site-agent model export --model final.safetensors --out for-pytorch.safetensors
  fedpaint-site-agent evaluate --model final.safetensors --data scans --label-scheme brats2023
  fedpaint-site-agent evaluate --prediction P.nii.gz --truth T.nii.gz --voided V.nii.gz --mask M.nii.gz
  fedpaint-site-agent inpaint --model final.safetensors --image X-t1n.nii.gz --mask mask.nii.gz \\
      --out X-inpainted.nii.gz --panel panel.png";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Take part in the federation until SIGTERM or Ctrl-C, which keep the round in hand for the next start;
    /// SIGUSR1 withdraws from it.
    Run(run::Args),
    /// Join a federation with a token, as a new site.
    Join(join::Args),
    /// Look at the plans that the coordinator shows, and approve them.
    Plan(plan::Args),
    /// Check certificate, coordinator, clock, device, data and disk, one line each.
    Doctor(doctor::Args),
    /// The coordinator's log, as this site was last shown it.
    Head(head::Args),
    /// List what this build can compute on here, with memory.
    Devices,
    /// Write a new model with random weights.
    InitModel(init_model::Args),
    /// Exchange a model with PyTorch, or run its bare network.
    Model(model::Args),
    /// Train at this site alone, as one round after the other of a federation of one.
    Train(train::Args),
    /// Look at a folder of scans, or make one from DICOM files.
    Data(data::Args),
    /// Score a model on held-out patients, inside fixed healthy masks, or one scan by its files.
    Evaluate(Box<evaluate::Args>),
    /// Paint what a mask hides in a scan, or what a map of labels asks for.
    Inpaint(inpaint::Args),
    /// Make a synthetic cohort to rehearse with.
    Phantom(phantom::Args),
    /// Print a completion script for a shell.
    Completions(completions::Args),
    /// Time training steps on examples that are drawn; started by the benchmark of training.
    #[command(hide = true)]
    Bench(bench::Args),
    /// The trainer's process; started by `run`, never by hand.
    #[command(hide = true)]
    Trainer,
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    output::log();
    let done = match cli.verb {
        Verb::Run(args) => run::run(&args),
        Verb::Join(args) => join::run(&args),
        Verb::Plan(args) => plan::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Head(args) => head::run(&args),
        Verb::Devices => devices::run(),
        Verb::InitModel(args) => init_model::run(&args),
        Verb::Model(args) => model::run(&args),
        Verb::Train(args) => train::run(&args),
        Verb::Data(args) => data::run(&args),
        Verb::Evaluate(args) => evaluate::run(&args),
        Verb::Inpaint(args) => inpaint::run(&args),
        Verb::Phantom(args) => phantom::run(&args),
        Verb::Completions(args) => completions::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Trainer => return crate::trainer::run(),
    };
    done.unwrap_or_else(|error| output::failed(&error))
}
