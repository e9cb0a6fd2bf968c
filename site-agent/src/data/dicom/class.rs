//! Which contrast a series has, told from its tags by a table of rules.
//!
//! It never guesses: where the physics (TE, TR, TI), the name and the contrast agent do not agree, or
//! say too little, the series is doubtful and a human decides.

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use serde::Serialize;

use crate::data::dicom::frame::{Groups, first_groups};
use crate::data::dicom::tags::{codes, item, items, number, text};
use crate::data::layout::Contrast;

/// What a series is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// One of the four contrasts, beyond doubt.
    Certain(Contrast),
    /// Perhaps one of them: why a human has to say.
    Doubtful(String),
    /// None of them: what it is instead.
    Excluded(&'static str),
}

/// What is looked at. The words may name people: they stay in this process and are never shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    pub(super) modality: String,
    image_type: Vec<String>,
    gradient_echo: bool,
    spin_echo: bool,
    /// EchoTime, RepetitionTime and InversionTime in milliseconds.
    pub(super) te_ms: Option<f64>,
    pub(super) tr_ms: Option<f64>,
    pub(super) ti_ms: Option<f64>,
    agent: bool,
    /// The words of SeriesDescription and ProtocolName, lower case.
    words: Vec<String>,
}

/// What a word or an image type rules out.
const EXCLUDED: [(&[&str], &str); 9] = [
    (&["synthetic"], "synthetic, never to be learnt from"),
    (
        &["localizer", "localiser", "loc", "scout", "survey", "pilot", "plan", "3plane", "aahead"],
        "a localiser",
    ),
    (
        &[
            "adc",
            "dadc",
            "eadc",
            "trace",
            "tracew",
            "dwi",
            "dti",
            "diff",
            "diffusion",
            "ep2d",
            "fa",
            "tensor",
            "colfa",
            "b1000",
            "b0",
        ],
        "diffusion",
    ),
    (
        &[
            "perf",
            "perfusion",
            "dsc",
            "dce",
            "asl",
            "pasl",
            "pcasl",
            "cbf",
            "cbv",
            "rcbv",
            "rcbf",
            "mtt",
            "ttp",
            "tmax",
            "pwi",
        ],
        "perfusion",
    ),
    (
        &["swi", "swan", "venobold", "pha", "phase", "t2star", "qsm", "haemo", "hemo"],
        "susceptibility",
    ),
    (&["tof", "mra", "mrv", "angio", "angiography", "pca"], "angiography"),
    (&["mip", "minip", "projection"], "a projection"),
    (&["sub", "subtraction", "subtracted", "subtract"], "a subtraction"),
    (
        &[
            "bold",
            "fmri",
            "spectroscopy",
            "svs",
            "csi",
            "fieldmap",
            "calibration",
            "asset",
            "stir",
            "pd",
            "dir",
            "map",
            "mosaic",
            "b1",
            "screen",
            "capture",
        ],
        "another kind of series",
    ),
];

/// Words for the weighting, which may be part of a longer word: t1, t1w, mprage.
const T1: [&str; 12] = [
    "t1", "t1w", "t1wi", "mprage", "mpr", "bravo", "spgr", "fspgr", "tfl3d", "t1tfe", "t1se",
    "vibe",
];
const T2: [&str; 5] = ["t2", "t2w", "t2wi", "t2tse", "t2fse"];
const FLAIR: [&str; 5] = ["flair", "darkfluid", "tirm", "vflair", "cubeflair"];

/// Words that say that contrast agent was given, and that none was.
const AFTER: [&str; 18] = [
    "gd",
    "gad",
    "gado",
    "gadolinium",
    "post",
    "postcontrast",
    "ce",
    "t1ce",
    "t1c",
    "contrast",
    "km",
    "pc",
    "pg",
    "dotarem",
    "gadovist",
    "prohance",
    "magnevist",
    "enhanced",
];
const BEFORE: [&str; 9] = [
    "pre",
    "precontrast",
    "native",
    "nativ",
    "noncontrast",
    "without",
    "unenhanced",
    "plain",
    "non",
];

/// A weighting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weighting {
    T1,
    T2,
    Flair,
}

/// Reads the facts of an image, from the top or from the functional groups of an Enhanced file.
pub(super) fn facts(object: &InMemDicomObject) -> Facts {
    let groups = first_groups(object);
    let scanning = codes(object, tags::SCANNING_SEQUENCE);
    let pulse = codes(object, tags::ECHO_PULSE_SEQUENCE);
    let is = |code: &str, enhanced: &str| {
        scanning.iter().any(|c| c == code) || pulse.iter().any(|c| c == enhanced || c == "BOTH")
    };
    let names = [tags::SERIES_DESCRIPTION, tags::PROTOCOL_NAME].map(|tag| text(object, tag));
    let modality = codes(object, tags::MODALITY).into_iter().next().unwrap_or_default();
    Facts {
        modality,
        image_type: codes(object, tags::IMAGE_TYPE),
        gradient_echo: is("GR", "GRADIENT"),
        spin_echo: is("SE", "SPIN"),
        te_ms: time(object, groups, tags::ECHO_TIME, TE),
        tr_ms: time(object, groups, tags::REPETITION_TIME, TR),
        ti_ms: time(object, groups, tags::INVERSION_TIME, TI).filter(|&ti| ti > 0.0),
        agent: has_agent(object),
        words: names.iter().flatten().flat_map(|name| words(name)).collect(),
    }
}

/// Where Enhanced files keep the times: the group's sequence and the attribute in it.
const TE: (Tag, Tag) = (tags::MR_ECHO_SEQUENCE, tags::EFFECTIVE_ECHO_TIME);
const TR: (Tag, Tag) = (tags::MR_TIMING_AND_RELATED_PARAMETERS_SEQUENCE, tags::REPETITION_TIME);
const TI: (Tag, Tag) = (tags::MR_MODIFIER_SEQUENCE, tags::INVERSION_TIMES);

fn time(
    object: &InMemDicomObject,
    groups: Groups<'_>,
    classic: Tag,
    (sequence, tag): (Tag, Tag),
) -> Option<f64> {
    let enhanced = || groups.item(sequence).and_then(|item| number(item, tag));
    number(object, classic).or_else(enhanced)
}

/// Whether the tags say that contrast agent was given. Silence says nothing.
fn has_agent(object: &InMemDicomObject) -> bool {
    let none = ["", "no", "none", "n", "0", "without", "ohne", "no contrast"];
    let named = |object, tag| {
        text(object, tag).is_some_and(|agent| !none.contains(&agent.to_ascii_lowercase().as_str()))
    };
    named(object, tags::CONTRAST_BOLUS_AGENT)
        || item(object, tags::CONTRAST_BOLUS_AGENT_SEQUENCE).is_some()
        || items(object, tags::CONTRAST_BOLUS_USAGE_SEQUENCE)
            .iter()
            .any(|usage| named(usage, tags::CONTRAST_BOLUS_AGENT_ADMINISTERED))
}

/// The words of a name, lower case. `+c` and `c+` are the word `gd`, `t2*` is `t2star`, and `dark
/// fluid` is `darkfluid`, as scanners write them.
fn words(name: &str) -> Vec<String> {
    let name = name.to_lowercase().replace("t2*", "t2star ").replace("w/o", "without ");
    let name = name.replace("dark-fluid", "darkfluid").replace("dark_fluid", "darkfluid");
    let name = name.replace("dark fluid", "darkfluid").replace("3-plane", "3plane");
    let name = format!(" {name} ").replace("+c ", " gd ").replace("+c_", " gd ");
    let name = name.replace("c+ ", " gd ").replace("+gd", " gd ");
    let words: Vec<&str> =
        name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let mut name = words.join(" ");
    for none in
        ["no contrast", "non contrast", "without contrast", "no gd", "without gd", "ohne km"]
    {
        name = name.replace(none, "noncontrast");
    }
    name.split(' ').filter(|word| !word.is_empty()).map(str::to_string).collect()
}

impl Facts {
    fn says(&self, any: &[&str]) -> bool {
        self.words.iter().any(|word| any.contains(&word.as_str()))
    }

    /// What the words and the image type rule out.
    fn excluded(&self) -> Option<&'static str> {
        let typed = |word: &&str| {
            let upper = word.to_ascii_uppercase();
            self.image_type.iter().any(|code| code.split([' ', '_']).any(|part| part == upper))
        };
        let rules = EXCLUDED.iter();
        rules.clone().find(|(any, _)| self.says(any) || any.iter().any(typed)).map(|&(_, why)| why)
    }

    /// The weighting that the times have: a table of the ranges that clinical sequences use, with
    /// gaps between them. 2-D and 3-D FLAIR, T1 FLAIR, T1 spin echo, MPRAGE, T2 spin echo.
    fn weighting_of_times(&self) -> Option<Weighting> {
        let (te, tr) = (self.te_ms?, self.tr_ms?);
        let within = |value: f64, low: f64, high: f64| (low..=high).contains(&value);
        match self.ti_ms {
            Some(ti) if within(ti, 1400.0, 3500.0) && te >= 60.0 && tr >= 4000.0 => {
                Some(Weighting::Flair)
            }
            Some(ti) if within(ti, 350.0, 1400.0) && te <= 30.0 && tr <= 4000.0 => {
                Some(Weighting::T1)
            }
            Some(_) => None,
            None if self.spin_echo && te <= 30.0 && within(tr, 250.0, 1000.0) => {
                Some(Weighting::T1)
            }
            None if self.spin_echo && te >= 70.0 && tr >= 2000.0 => Some(Weighting::T2),
            None => None,
        }
    }

    /// The weightings that the name tells, which for a FLAIR may be two: T2 FLAIR.
    fn weightings_of_name(&self) -> Vec<Weighting> {
        let t1c = ["t1ce", "t1c"];
        let told = [
            (self.says(&T1) || self.says(&t1c), Weighting::T1),
            (self.says(&T2), Weighting::T2),
            (self.says(&FLAIR), Weighting::Flair),
        ];
        told.into_iter().filter_map(|(told, weighting)| told.then_some(weighting)).collect()
    }

    /// The weighting on which times and name agree.
    fn weighting(&self) -> Result<Weighting, String> {
        let named = self.weightings_of_name();
        if named.contains(&Weighting::T1) && named.contains(&Weighting::T2) {
            return Err("its name says both T1 and T2".to_string());
        }
        let Some(timed) = self.weighting_of_times() else {
            // A short gradient echo without inversion may be T1 or an angiography; the name decides.
            let spoiled = self.gradient_echo
                && self.te_ms.is_some_and(|te| te <= 10.0)
                && self.tr_ms.is_some_and(|tr| tr <= 50.0);
            return match named[..] {
                [Weighting::T1] if spoiled => Ok(Weighting::T1),
                [] => Err("neither its times nor its name tell the weighting".to_string()),
                _ => Err("its times do not bear out the weighting in its name".to_string()),
            };
        };
        if named.is_empty()
            || named.contains(&timed) && (timed != Weighting::T2 || named.len() == 1)
        {
            Ok(timed)
        } else {
            Err("its times and its name tell different weightings".to_string())
        }
    }
}

/// The class of a series.
pub fn class(facts: &Facts) -> Class {
    if facts.modality != "MR" {
        return Class::Excluded("not MR");
    }
    if let Some(why) = facts.excluded() {
        return Class::Excluded(why);
    }
    let weighting = match facts.weighting() {
        Ok(weighting) => weighting,
        Err(why) => return Class::Doubtful(why),
    };
    if facts.image_type.first().is_some_and(|code| code == "DERIVED") {
        return Class::Doubtful(
            "it is derived, perhaps reformatted from another series".to_string(),
        );
    }
    match weighting {
        Weighting::T2 => Class::Certain(Contrast::T2w),
        Weighting::Flair => Class::Certain(Contrast::T2f),
        Weighting::T1 => match (facts.agent, facts.says(&AFTER), facts.says(&BEFORE)) {
            (_, true, true) => Class::Doubtful("T1, its name says both before and after".into()),
            (true, _, true) => Class::Doubtful("T1, its name and its agent disagree".into()),
            (true, _, false) | (false, true, false) => Class::Certain(Contrast::T1c),
            (false, false, true) => Class::Certain(Contrast::T1n),
            (false, false, false) => {
                Class::Doubtful("T1, nothing tells whether contrast agent was given".into())
            }
        },
    }
}

#[cfg(test)]
mod tests;
