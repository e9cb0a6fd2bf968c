//! The benchmark of training: how long a step takes, where its time goes, what memory it needs, and, with
//! `--torch`, how that compares with PyTorch doing the same work in turns.
//!
//! Every measurement is a process of its own: the real program's training (`fedpaint-site-agent bench`)
//! or `tests/reference/bench_train.py`. This one starts them one after the other and does the sums. It
//! judges only that both did the same work. `tests/README.md` says what the numbers mean.

mod load;
mod measure;
mod summary;
mod table;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::measure::{Job, Turn};

/// Times training steps, alone or in turns with PyTorch.
#[derive(Debug, Parser)]
#[command(name = "bench-train", version)]
struct Args {
    /// The size of the model: tiny, small, base or mayo.
    #[arg(long, default_value = "small")]
    preset: String,
    /// Slices of a step.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Timed steps of a turn.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Steps of a turn before them that are not timed.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    warmup: u32,
    /// Turns, each with processes of its own.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    turns: u32,
    /// auto, cpu, or gpu:N.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// What convolutions compute in: f32, bf16 or f16. PyTorch does the same by autocast, but for f16.
    #[arg(long, default_value = "f32")]
    precision: String,
    /// Threads of the processor. By default one per core.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
    /// Measure PyTorch too, with this Python, and both with one thread as well.
    #[arg(long, value_name = "PYTHON")]
    torch: Option<PathBuf>,
    /// Measure torch.compile once as well, which compiles for minutes.
    #[arg(long, requires = "torch")]
    compile: bool,
    /// End with one JSON object on the last line instead of the table.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match bench(&Args::parse()) {
        Ok(text) => match writeln!(std::io::stdout(), "{text}") {
            Ok(()) => ExitCode::SUCCESS,
            // A reader that has seen enough has closed the pipe.
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> anyhow::Result<String> {
    let job = Job {
        preset: args.preset.clone(),
        batch: args.batch,
        steps: args.steps,
        warmup: args.warmup,
        device: args.device.clone(),
        precision: args.precision.clone(),
        python: args.torch.clone(),
    };
    let folder = tempfile::tempdir()?;
    if job.python.is_some() {
        job.write(folder.path())?;
    }
    // How much more cores are worth is asked only where all of it is compared.
    let few = (job.python.is_some() && args.threads > 1).then_some(1);
    let mut turns = Vec::new();
    for number in 1..=args.turns {
        let mut turn = |threads: usize| -> anyhow::Result<Turn> {
            eprintln!("turn {number} of {}, {threads} threads", args.turns);
            job.turn(threads, folder.path())
        };
        turns.push((turn(args.threads)?, few.map(&mut turn).transpose()?));
    }
    let (all, one): (Vec<Turn>, Vec<Option<Turn>>) = turns.into_iter().unzip();
    let one: Vec<Turn> = one.into_iter().flatten().collect();
    let compiled = args.compile.then(|| job.compiled(args.threads, folder.path())).transpose()?;
    let summary = summary::summary(&all, &one, compiled)?;
    if args.json { Ok(serde_json::to_string(&summary)?) } else { Ok(table::table(&summary)) }
}
