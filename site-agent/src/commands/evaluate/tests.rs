use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::Args;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn parse(line: &str) -> Result<Args, clap::Error> {
    let words = std::iter::once("evaluate").chain(line.split_whitespace());
    Line::try_parse_from(words).map(|line| line.args)
}

const FILES: &str = "--prediction p --truth t --voided v --mask m";

#[test]
fn there_are_three_ways_to_ask_and_each_is_understood() {
    for line in ["--model m --data d", "--model m --data d --twin t --no-baselines"] {
        let args = parse(line).unwrap();
        assert!(args.files.chosen().is_none() && args.data.is_some(), "{line}");
    }
    let args = parse("--baselines-only --data d --baselines mean,harmonic").unwrap();
    assert!(args.model.is_none() && args.baselines.len() == 2);
    let args = parse("--model m --config c --all").unwrap();
    assert!(args.config.is_some() && args.data.is_none());
    assert!(parse("--model m --config c --data d").is_err());
    let args = parse(&format!("{FILES} --output json")).unwrap();
    assert!(args.files.chosen().is_some() && args.data.is_none());
    assert_eq!(parse("--model m --data d").unwrap().baselines, super::Baseline::ALL);
}

#[test]
fn beside_files_every_option_that_would_not_be_heeded_is_refused() {
    let heeded = ["prediction", "truth", "voided", "mask", "output"];
    for arg in Line::command().get_arguments() {
        let name = arg.get_long().unwrap();
        if heeded.contains(&name) || name == "help" {
            continue;
        }
        let words = arg.get_possible_values();
        let value = match name {
            _ if !arg.get_action().takes_values() => "",
            "baselines" => "zero",
            "contrasts" => "t1n",
            "label-scheme" => "brats2023",
            _ => words.first().map_or("1", |word| word.get_name()),
        };
        let line = format!("{FILES} --{name} {value}");
        let kind = parse(&line).err().map(|error| error.kind());
        let refused = [ErrorKind::ArgumentConflict, ErrorKind::MissingRequiredArgument];
        assert!(kind.is_some_and(|kind| refused.contains(&kind)), "{line}: {kind:?}");
    }
}

#[test]
fn the_masks_have_the_seed_of_the_noise_unless_they_are_given_their_own() {
    let seeds = |line: &str| parse(&format!("--model m --data d {line}")).unwrap().seeds();
    assert_eq!(seeds(""), [1, 1]);
    assert_eq!(seeds("--seed 7"), [7, 7]);
    assert_eq!(seeds("--seed 7 --mask-seed 2"), [7, 2]);
}

#[test]
fn two_ways_at_once_are_refused_and_half_of_one_names_what_is_missing() {
    let refused = |line: &str, kind, named: &str| {
        let error = parse(line).unwrap_err();
        assert_eq!(error.kind(), kind, "{line}: {error}");
        assert!(error.to_string().contains(named), "{line}: {error}");
    };
    for other in ["--model m", "--data d", "--baselines-only", "--twin t", "--steps 3", "--all"] {
        let named = other.split(' ').next().unwrap();
        refused(&format!("{FILES} {other}"), ErrorKind::ArgumentConflict, named);
    }
    refused("--model m --data d --baselines-only", ErrorKind::ArgumentConflict, "--model");
    refused("--data d", ErrorKind::MissingRequiredArgument, "--model");
    refused("--model m", ErrorKind::MissingRequiredArgument, "--data");
    refused("--prediction p --truth t", ErrorKind::MissingRequiredArgument, "--voided");
    refused("--model m --data d --truth t", ErrorKind::MissingRequiredArgument, "--prediction");
    let word = "--model m --data d --baselines laplace";
    refused(word, ErrorKind::ValueValidation, "harmonic");
}
