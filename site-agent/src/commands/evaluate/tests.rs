use clap::Parser;
use clap::error::ErrorKind;

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
    let args = parse(&format!("{FILES} --output json")).unwrap();
    assert!(args.files.chosen().is_some() && args.data.is_none());
    assert_eq!(parse("--model m --data d").unwrap().baselines, super::Baseline::ALL);
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
