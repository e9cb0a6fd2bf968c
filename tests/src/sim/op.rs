//! What can be done to a simulated federation, as text and back, and what a seed does to it.

use std::fmt;
use std::str::FromStr;

use anyhow::Context;

use super::dice::Dice;

/// How many sites there are.
pub const SITES: usize = 5;

/// How many operations a seed has, at least and at most.
const OPS: (u64, u64) = (30, 140);

/// The purpose of the stream that operations are drawn from.
const STREAM: u64 = 1;

macro_rules! ops {
    ($($(#[$doc:meta])* $op:ident { $($field:ident),* } = $word:literal;)*) => {
        /// One operation. Sites are numbered from 0 in the order of their names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Op {
            $($(#[$doc])* $op {
                $(#[doc = "See the operation."] $field: u64,)*
            },)*
        }

        impl fmt::Display for Op {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Op::$op { $($field),* } => {
                        f.write_str($word)?;
                        $(write!(f, " {}", $field)?;)*
                        Ok(())
                    })*
                }
            }
        }

        impl FromStr for Op {
            type Err = anyhow::Error;
            fn from_str(line: &str) -> anyhow::Result<Op> {
                let mut words = line.split_whitespace();
                let word = words.next().context("an operation is missing")?;
                let mut number = || -> anyhow::Result<u64> {
                    let word = words.next().with_context(|| format!("{line}: a number is missing"))?;
                    word.parse().with_context(|| format!("{line}: {word} is no number"))
                };
                let op = match word {
                    $($word => Op::$op { $($field: number()?),* },)*
                    _ => anyhow::bail!("there is no operation {word}"),
                };
                anyhow::ensure!(number().is_err(), "{line}: there is a word too many");
                Ok(op)
            }
        }
    };
}

ops! {
    /// Time passes.
    Advance { ms } = "advance";
    /// The clocks are set forward; timers that run meanwhile are late by as much.
    Jump { ms } = "jump";
    /// A site's heartbeat comes out of its turn.
    Beat { site } = "beat";
    /// A site's link is down for a while.
    Cut { site, ms } = "cut";
    /// A site's next requests do not arrive.
    DropRequests { site, count } = "drop-requests";
    /// The next replies to a site do not arrive, whatever was done for them.
    DropReplies { site, count } = "drop-replies";
    /// A site's next request arrives late, after later ones.
    Delay { site, ms } = "delay";
    /// A site's newest request arrives once more, later.
    Replay { site, ms } = "replay";
    /// The next bytes to or from a site are not what was sent.
    Corrupt { site } = "corrupt";
    /// The coordinator is killed.
    Crash {} = "crash";
    /// The coordinator's machine loses power: what was not synced may be gone.
    PowerLoss {} = "power-loss";
    /// The coordinator is killed right after (`before` 0) or right before (1) its n-th save from now.
    CrashAtSave { count, before } = "crash-at-save";
    /// The coordinator starts again.
    Restart {} = "restart";
    /// A site's agent and trainer are killed.
    CrashSite { site } = "crash-site";
    /// A site's agent starts again.
    RestartSite { site } = "restart-site";
    /// A site trains so many times slower from now on.
    Slow { site, factor } = "slow";
    /// An operator revokes a site.
    Revoke { site } = "revoke";
    /// An operator lets a site in.
    Enroll { site } = "enroll";
    /// An operator closes the phase in hand.
    Close {} = "close";
    /// An operator gives the round in hand up.
    Abandon {} = "abandon";
    /// An operator pauses the run.
    Pause {} = "pause";
    /// An operator resumes the run.
    Resume {} = "resume";
    /// The coordinator's disk is full.
    DiskFull {} = "disk-full";
    /// The coordinator's disk has space again.
    DiskFree {} = "disk-free";
    /// A site's disk is full.
    SiteDiskFull { site } = "site-disk-full";
    /// A site's disk has space again.
    SiteDiskFree { site } = "site-disk-free";
    /// The next saves fail and save nothing.
    SavesFail { count } = "saves-fail";
    /// The next saves happen, and are said to have failed.
    SavesDoubtful { count } = "saves-doubtful";
    /// A bit flips in a blob of the coordinator's.
    FlipBlob { pick } = "flip-blob";
    /// A bit flips in a site's update.
    FlipUpdate { site } = "flip-update";
}

/// What a seed may do beside letting time pass: each kind with how often it is drawn.
const KINDS: &[(&str, u64)] = &[
    ("beat", 5),
    ("cut", 6),
    ("drop-requests", 5),
    ("drop-replies", 8),
    ("delay", 5),
    ("replay", 8),
    ("corrupt", 3),
    ("crash", 4),
    ("power-loss", 4),
    ("crash-at-save", 5),
    ("restart", 10),
    ("crash-site", 4),
    ("restart-site", 8),
    ("slow", 3),
    ("revoke", 1),
    ("enroll", 3),
    ("close", 4),
    ("abandon", 1),
    ("pause", 1),
    ("resume", 3),
    ("disk-full", 2),
    ("disk-free", 4),
    ("site-disk-full", 1),
    ("site-disk-free", 2),
    ("saves-fail", 3),
    ("saves-doubtful", 3),
    ("flip-blob", 1),
    ("flip-update", 1),
    ("jump", 3),
];

/// The operations of a seed. A seed leaves some kinds out altogether, so that what one kind hides is
/// found where it is missing.
pub fn of_seed(seed: u64) -> Vec<Op> {
    let mut dice = Dice::new(seed, STREAM);
    let kept = dice.between(20, 90);
    let kinds: Vec<(&str, u64)> = KINDS.iter().copied().filter(|_| dice.percent(kept)).collect();
    let weights: u64 = kinds.iter().map(|(_, weight)| weight).sum();
    let quiet = dice.between(30, 70);
    let count = dice.between(OPS.0, OPS.1);
    let draw = |_| {
        if weights == 0 || dice.percent(quiet) {
            let top = if dice.percent(15) { 120_000 } else { 20_000 };
            return Op::Advance { ms: dice.between(1, top) };
        }
        let mut left = dice.below(weights);
        let chosen = kinds.iter().find(|(_, weight)| {
            let here = left < *weight;
            left = left.saturating_sub(*weight);
            here
        });
        of_kind(chosen.map_or("restart", |(kind, _)| kind), &mut dice)
    };
    (0..count).map(draw).collect()
}

fn of_kind(kind: &str, dice: &mut Dice) -> Op {
    let site = dice.below(SITES as u64);
    match kind {
        "beat" => Op::Beat { site },
        "cut" => Op::Cut { site, ms: dice.between(100, 90_000) },
        "drop-requests" => Op::DropRequests { site, count: dice.between(1, 3) },
        "drop-replies" => Op::DropReplies { site, count: dice.between(1, 3) },
        "delay" => Op::Delay { site, ms: dice.between(100, 60_000) },
        "replay" => Op::Replay { site, ms: dice.between(0, 60_000) },
        "corrupt" => Op::Corrupt { site },
        "crash" => Op::Crash {},
        "power-loss" => Op::PowerLoss {},
        "crash-at-save" => Op::CrashAtSave { count: dice.between(1, 4), before: dice.below(2) },
        "crash-site" => Op::CrashSite { site },
        "restart-site" => Op::RestartSite { site },
        "slow" => Op::Slow { site, factor: dice.between(1, 20) },
        "revoke" => Op::Revoke { site },
        "enroll" => Op::Enroll { site },
        "close" => Op::Close {},
        "abandon" => Op::Abandon {},
        "pause" => Op::Pause {},
        "resume" => Op::Resume {},
        "disk-full" => Op::DiskFull {},
        "disk-free" => Op::DiskFree {},
        "site-disk-full" => Op::SiteDiskFull { site },
        "site-disk-free" => Op::SiteDiskFree { site },
        "saves-fail" => Op::SavesFail { count: dice.between(1, 3) },
        "saves-doubtful" => Op::SavesDoubtful { count: dice.between(1, 3) },
        "flip-blob" => Op::FlipBlob { pick: dice.below(1_000) },
        "flip-update" => Op::FlipUpdate { site },
        "jump" => Op::Jump { ms: dice.between(1_000, 400_000) },
        _ => Op::Restart {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_read_as_it_is_written() {
        for seed in 0..50 {
            for op in of_seed(seed) {
                assert_eq!(op.to_string().parse::<Op>().unwrap(), op);
            }
        }
        for wrong in ["", "nonsense", "advance", "advance x", "crash 1", "cut 1"] {
            assert!(wrong.parse::<Op>().is_err(), "{wrong:?}");
        }
    }
}
