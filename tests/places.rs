//! No place at which a program may die or its disk may fail is without a test that tries it.

use std::collections::BTreeSet;
use std::path::Path;

use fedpaint_tests::places::{ELSEWHERE, PASSED};

use crate::house::{root, sources};

/// Where the programs' sources are.
const SOURCES: [&str; 3] = ["coordinator/src", "site-agent/src", "proto/src"];

/// What stands before a place's name where it is passed, or goes to whoever passes it: by this a first word is known
/// to be one of places.
const BEFORE: [&str; 7] =
    ["reach(", "create: ", "write: ", "sync: ", "rename: ", "folder: ", "save::whole("];

/// The first word of those that only a test of the sources passes.
const OF_A_TEST: &str = "a";

/// Second words that are those of files.
const FILES: [&str; 2] = ["json", "safetensors"];

/// What uses the disk so that it matters where it fails.
const USES: [&str; 7] = [
    "fs::write(",
    "fs::rename(",
    "fs::copy(",
    "File::create(",
    "create_new(",
    "sync_all()",
    "NamedTempFile::new",
];

/// How many lines from such a use its place is passed, before it or behind.
const LINES_NEAR: usize = 12;

/// Files that use the disk and pass no place.
const WITHOUT: [&str; 13] = [
    // Places have names with whoever calls these.
    "proto/src/transfer/append.rs",
    "proto/src/weights.rs",
    // Of tests alone, or with a part that is.
    "coordinator/src/maintenance/every_row.rs",
    "coordinator/src/maintenance/log.rs",
    // Commands: what they make appears whole or not, and is made by the same command again.
    "coordinator/src/bin/fedctl/ca.rs",
    "site-agent/src/commands/data/import.rs",
    "site-agent/src/commands/output.rs",
    "site-agent/src/data/dicom/cases.rs",
    "site-agent/src/data/dicom/derived.rs",
    "site-agent/src/data/nifti.rs",
    "site-agent/src/model/checkpoint.rs",
    "site-agent/src/panel.rs",
    "site-agent/src/phantom.rs",
];

/// Every literal `"word.words"` of a source, with what stands before it.
fn literals(text: &str) -> Vec<(&str, &str)> {
    let quotes: Vec<usize> = text.match_indices('"').map(|(at, _)| at).collect();
    let pairs = quotes.iter().zip(quotes.iter().skip(1));
    let between = pairs.map(|(begin, end)| (&text[..*begin], &text[begin + 1..*end]));
    between.filter(|(_, literal)| is_name(literal)).collect()
}

fn is_name(literal: &str) -> bool {
    let is_word =
        |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    literal
        .split_once('.')
        .is_some_and(|(part, rest)| is_word(part) && is_word(rest) && !FILES.contains(&rest))
}

fn part(name: &str) -> &str {
    name.split_once('.').map_or(name, |(part, _)| part)
}

#[test]
fn every_place_of_the_sources_is_passed_by_a_federation_or_tried_by_a_test_that_is_named() {
    let files = SOURCES.iter().flat_map(|folder| sources(&root().join(folder)));
    // The rules' own file has places of its tests.
    let files = files.filter(|path| !path.ends_with("proto/src/failpoint.rs"));
    let texts: Vec<String> = files.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let literals: Vec<(&str, &str)> = texts.iter().flat_map(|text| literals(text)).collect();
    let is_passed = |before: &str| BEFORE.iter().any(|word| before.ends_with(word));
    let known = PASSED.into_iter().chain(ELSEWHERE.map(|(place, _)| place));
    let known: BTreeSet<&str> = known.collect();
    assert_eq!(known.len(), PASSED.len() + ELSEWHERE.len(), "one is twice in the lists");
    let said = literals.iter().filter(|(before, _)| is_passed(before));
    let parts: BTreeSet<&str> = said.map(|(_, name)| part(name)).collect();
    let names = literals.iter().map(|(_, name)| *name);
    let names: BTreeSet<&str> =
        names.filter(|name| parts.contains(part(name)) && part(name) != OF_A_TEST).collect();
    let unlisted: Vec<_> = names.difference(&known).collect();
    let gone: Vec<_> = known.difference(&names).collect();
    assert!(unlisted.is_empty(), "in no list of tests/src/places.rs: {unlisted:?}");
    assert!(gone.is_empty(), "in a list of tests/src/places.rs and no source: {gone:?}");
}

#[test]
fn the_file_that_is_named_for_a_place_is_there() {
    for (place, file) in ELSEWHERE {
        assert!(root().join(file).is_file(), "{place}: {file}");
    }
}

#[test]
fn whatever_uses_the_disk_passes_a_place_or_is_one_of_the_files_that_need_none() {
    let is_of_a_test = |path: &Path| {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        path.iter().any(|part| part == "tests") || stem == "tests" || stem.ends_with("_tests")
    };
    let mut without = BTreeSet::new();
    for path in SOURCES.iter().flat_map(|folder| sources(&root().join(folder))) {
        let name = path.strip_prefix(root()).unwrap();
        if is_of_a_test(name) {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines: Vec<&str> = code.lines().collect();
        let is_use = |line: &str| {
            !line.trim_start().starts_with("//") && USES.iter().any(|used| line.contains(used))
        };
        let is_near_a_place = |at: usize| {
            let end = lines.len().min(at + LINES_NEAR + 1);
            lines[at.saturating_sub(LINES_NEAR)..end].iter().any(|line| line.contains("reach("))
        };
        if (0..lines.len()).any(|at| is_use(lines[at]) && !is_near_a_place(at)) {
            without.insert(name.display().to_string());
        }
    }
    let excused: BTreeSet<String> = WITHOUT.map(str::to_owned).into();
    assert_eq!(without, excused, "the left ones pass no place, the right ones need none");
}
