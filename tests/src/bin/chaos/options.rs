//! Which options a mode heeds. Whoever gave another one would believe that something is tried which is not.

use anyhow::ensure;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, ValueEnum};

use crate::{Args, Mode};

/// What every mode heeds, as [`Args`] names it.
const ALWAYS: [&str; 3] = ["work", "keep", "json"];

/// What a mode heeds beside that.
fn heeded(mode: Mode) -> &'static [&'static str] {
    match mode {
        Mode::Kills => &["count", "sites", "rounds", "encoding", "seed"],
        Mode::Cuts => &["count", "sites", "rounds", "seed"],
        Mode::CrashPoints => &["count", "sites", "rounds", "encoding", "seed"],
        Mode::Disk => &["count", "cases", "sites", "rounds", "encoding", "hold_s", "seed"],
        Mode::Flips => &["count", "sites", "seed"],
        Mode::Stragglers => &["count", "sites", "rounds", "seed"],
        Mode::Soak => &["count", "sites", "rounds", "seed", "minutes", "step_ms", "out"],
        Mode::Upgrade => &["old", "rounds"],
    }
}

/// Looks whether the mode heeds every option that was given.
///
/// # Errors
/// If it does not heed one.
pub(crate) fn check(given: &ArgMatches, mode: Mode) -> anyhow::Result<()> {
    let name = mode.to_possible_value().map(|value| value.get_name().to_owned());
    let name = name.unwrap_or_default();
    let heeded = heeded(mode);
    let told: Vec<String> = heeded.iter().map(|id| flag(id)).collect();
    for option in Args::command().get_arguments().filter(|option| !option.is_positional()) {
        let id = option.get_id().as_str();
        if given.value_source(id) != Some(ValueSource::CommandLine) {
            continue;
        }
        ensure!(
            ALWAYS.contains(&id) || heeded.contains(&id),
            "`{name}` does not heed {}, only {}",
            flag(id),
            told.join(", ")
        );
    }
    Ok(())
}

/// An option as it is written.
fn flag(id: &str) -> String {
    format!("--{}", id.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn refused(mode: Mode, words: &[&str]) -> Option<String> {
        let name = mode.to_possible_value().unwrap();
        let words = ["chaos", name.get_name()].into_iter().chain(words.iter().copied());
        let given = Args::command().try_get_matches_from(words).unwrap();
        check(&given, mode).err().map(|error| error.to_string())
    }

    #[test]
    fn every_option_is_heeded_by_a_mode_and_no_mode_heeds_one_that_there_is_not() {
        let command = Args::command();
        let options = command.get_arguments().filter(|option| !option.is_positional());
        let options: BTreeSet<&str> = options.map(|option| option.get_id().as_str()).collect();
        let heeded = Mode::value_variants().iter().flat_map(|mode| heeded(*mode));
        let heeded: BTreeSet<&str> = heeded.chain(&ALWAYS).copied().collect();
        assert_eq!(heeded, options);
        for option in command.get_arguments().filter(|option| !option.is_positional()) {
            assert_eq!(&flag(option.get_id().as_str())[2..], option.get_long().unwrap());
        }
    }

    #[test]
    fn what_is_the_same_in_every_mode_that_breaks_something_is_heeded_by_each() {
        let same = ["--count", "9", "--sites", "3", "--rounds", "5", "--seed", "3", "--json"];
        for mode in
            [Mode::Kills, Mode::Cuts, Mode::CrashPoints, Mode::Disk, Mode::Stragglers, Mode::Soak]
        {
            assert_eq!(refused(mode, &same), None, "{mode:?}");
        }
    }

    #[test]
    fn an_option_that_a_mode_does_not_heed_is_refused_with_both_their_names() {
        assert_eq!(refused(Mode::CrashPoints, &[]), None);
        assert_eq!(refused(Mode::Kills, &["--seed", "3", "--json", "--count", "9"]), None);
        let told = refused(Mode::CrashPoints, &["--hold-s", "3", "--seed", "3"]).unwrap();
        let heeded = "--count, --sites, --rounds, --encoding, --seed";
        assert_eq!(told, format!("`crash-points` does not heed --hold-s, only {heeded}"));
        let told = refused(Mode::Kills, &["--step-ms", "100"]).unwrap();
        assert!(told.contains("`kills`") && told.contains("--step-ms"), "{told}");
    }
}
