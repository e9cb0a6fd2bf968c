//! A history that breaks an invariant, made as short as it goes (Zeller and Hildebrandt 2002, delta
//! debugging), and written down so that it can be played again.

use anyhow::Context;

use super::history::play;
use super::ledger::Invariant;
use super::op::Op;
use super::world::Bug;

/// The most histories that are played to shorten one.
const PLAYS_MAX: u32 = 2_000;

/// The shortest list found of `ops`, in their order, that breaks the same invariant.
///
/// # Errors
/// If the simulation itself is wrong.
pub fn shrink(
    seed: u64,
    ops: &[Op],
    bug: Option<Bug>,
    invariant: Invariant,
) -> anyhow::Result<Vec<Op>> {
    let mut plays = 0;
    let mut still_breaks = |ops: &[Op]| -> anyhow::Result<bool> {
        plays += 1;
        let broken = play(seed, ops, bug, false)?.broken;
        Ok(plays <= PLAYS_MAX && broken.is_some_and(|broken| broken.invariant == invariant))
    };
    let mut shortest = ops.to_vec();
    let mut width = shortest.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut shorter = false;
        while at < shortest.len() {
            let mut without = shortest.clone();
            without.drain(at..(at + width).min(without.len()));
            if still_breaks(&without)? {
                shortest = without;
                shorter = true;
            } else {
                at += width;
            }
        }
        match (shorter, width) {
            (false, 1) => break,
            (true, _) => {}
            (false, _) => width = width.div_ceil(2),
        }
    }
    merge_waits(&mut shortest, &mut still_breaks)?;
    Ok(shortest)
}

/// Joins stretches of time that follow each other.
fn merge_waits(
    ops: &mut Vec<Op>,
    still_breaks: &mut impl FnMut(&[Op]) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let mut at = 1;
    while at < ops.len() {
        let (Op::Advance { ms: first }, Op::Advance { ms: second }) = (ops[at - 1], ops[at]) else {
            at += 1;
            continue;
        };
        let mut joined = ops.clone();
        joined[at - 1] = Op::Advance { ms: first + second };
        joined.remove(at);
        if still_breaks(&joined)? {
            *ops = joined;
        } else {
            at += 1;
        }
    }
    Ok(())
}

/// A history as text: its seed, then an operation a line.
pub fn write(seed: u64, ops: &[Op]) -> String {
    let lines: Vec<String> = ops.iter().map(Op::to_string).collect();
    format!("seed {seed}\n{}\n", lines.join("\n"))
}

/// Reads what [`write`] wrote. Empty lines and what follows a `#` say nothing.
///
/// # Errors
/// If it is no history.
pub fn read(text: &str) -> anyhow::Result<(u64, Vec<Op>)> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let mut lines = lines.filter(|line| !line.is_empty());
    let first = lines.next().context("a history begins with a line such as `seed 17`")?;
    let seed = first.strip_prefix("seed ").and_then(|seed| seed.trim().parse().ok());
    let seed = seed.with_context(|| format!("{first}: a history begins with `seed 17`"))?;
    Ok((seed, lines.map(str::parse).collect::<anyhow::Result<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::op::of_seed;

    #[test]
    fn a_history_is_read_as_it_is_written() {
        let ops = of_seed(7);
        assert_eq!(read(&write(7, &ops)).unwrap(), (7, ops));
        assert!(read("advance 1").is_err());
        assert!(read("").is_err());
    }
}
