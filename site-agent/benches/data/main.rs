//! Benchmarks of what happens to scans before training, one a file:
//!
//! ```text
//! cargo bench --workspace --bench data -- cache [--cases N] [--steps N] [--size PIXELS] [--augment]
//! cargo bench --workspace --bench data -- feed [--cases N] [--steps N] [--size PIXELS] [--steps-per-s N] [--augment]
//! cargo bench --workspace --bench data -- masks
//! cargo bench --workspace --bench data -- phantom [--patients N] [--size MM]
//! cargo bench --workspace --bench data -- read [--repetitions N] [--case DIR] [--python PATH]
//! ```
//!
//! Each prints one JSON object. They measure and judge nothing.

#![expect(clippy::expect_used, reason = "a benchmark that cannot go on panics")]
#![expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]

mod cache;
mod feed;
mod masks;
mod phantom;
mod read;

use std::io::Write;

fn main() {
    // Cargo adds `--bench`.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let report = match args.first().map(String::as_str) {
        Some("cache") => cache::run(&args[1..]),
        Some("feed") => feed::run(&args[1..]),
        Some("masks") => masks::run(&args[1..]),
        Some("phantom") => phantom::run(&args[1..]),
        Some("read") => read::run(&args[1..]),
        // `cargo test --all-targets` runs every benchmark without a name.
        None => return,
        Some(other) => panic!("there is no benchmark {other}: cache, feed, masks, phantom, read"),
    };
    writeln!(std::io::stdout(), "{report:#}").expect("a report can be printed");
}
