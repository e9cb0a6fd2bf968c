//! The demo: three synthetic hospitals, or those in a folder, train one model on this machine.
//!
//! Every process is the real program; this one only starts them, follows the run, and asks each site's
//! own `evaluate` how good the global models are on patients that nobody trained on.

mod federation;
mod report;
mod sites;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;

/// Runs a federation of hospitals on this machine and shows what it learned.
#[derive(Debug, Parser)]
#[command(name = "deploy/demo.sh", version)]
struct Args {
    /// Take DIR/<site>/<patient>/... as the sites' scans instead of making synthetic ones.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// What the labels in --data mean: brats2021, brats2023, brats_post or lesion. A lesion is hidden
    /// and healthy tissue is painted; its components are not told apart.
    #[arg(long, value_name = "SCHEME", default_value = "lesion")]
    label_scheme: String,
    /// How many rounds to train.
    #[arg(long, default_value_t = federation::ROUNDS, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Where the model, the inpainted scan and panel.png go.
    #[arg(long, value_name = "DIR", default_value = "demo-out")]
    out: PathBuf,
    /// Keep the working folder: configs, certificates, logs, every model.
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    // Whichever ends first; dropping the other kills every process it has started.
    let outcome = tokio::select! {
        outcome = demo(&args) => outcome,
        signal = interrupted() => signal.and_then(|name| anyhow::bail!("ended by {name}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn demo(args: &Args) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make {}; choose another --out", args.out.display()))?;
    let out = args.out.canonicalize()?;
    let work =
        tempfile::Builder::new().prefix("work-").disable_cleanup(args.keep).tempdir_in(&out)?;
    let start = Instant::now();
    let stage = |text: &str| eprintln!("[{:>4} s] {text}", start.elapsed().as_secs());

    stage(if args.data.is_some() {
        "reading the sites' folders"
    } else {
        "making three hospitals"
    });
    let sites = sites::prepare(args.data.as_deref(), &args.label_scheme, work.path())?;
    for site in &sites {
        stage(&format!("  {:<10} {}", site.name, site.about));
    }
    stage("starting the coordinator and one agent per site");
    let trained = federation::train(work.path(), &sites, args.rounds, &stage).await?;
    stage("asking every site how well each global model paints its held-out patients");
    let report = report::evaluate(&trained, &sites, args.rounds)?;
    stage("inpainting a held-out patient");
    let pictures = report::inpaint(&trained, &sites, &out)?;
    report.print(&trained)?;
    report.save(&trained, &out.join("summary.json"))?;
    eprintln!();
    for line in pictures {
        eprintln!("{line}");
    }
    if args.keep {
        eprintln!("kept the working folder {}", work.path().display());
    }
    stage("done");
    Ok(())
}

/// The signal that ends the demo before its time.
async fn interrupted() -> anyhow::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        done = tokio::signal::ctrl_c() => done.map(|()| "Ctrl-C").map_err(Into::into),
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = hang_up.recv() => Ok("SIGHUP"),
    }
}
