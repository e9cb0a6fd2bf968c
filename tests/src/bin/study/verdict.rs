//! What the scores say, in words: which arms a method beats that needs no training, and whether
//! diffusion pays over regression. Pure: what is said follows from the numbers.

use crate::plan::ArmKind;
use crate::results::{ArmResult, BaselineResult, PerSite, Results};

/// The paragraphs below a report's table.
pub(crate) fn paragraphs(results: &Results) -> Vec<String> {
    let beaters: Vec<String> =
        results.baselines.iter().filter_map(|baseline| beaten(baseline, &results.arms)).collect();
    let baselines = if beaters.is_empty() {
        "No baseline beats an arm, neither by mean error nor by mean SSIM.".to_owned()
    } else {
        format!("**Baselines, which need no training, beat arms.** {}", beaters.join(" "))
    };
    let twins: Vec<String> = twins(results).collect();
    let twins = if twins.is_empty() { vec![NO_TWIN.to_owned()] } else { twins };
    [vec![baselines], twins].concat()
}

/// What is said where no twin is compared with a pooled model.
const NO_TWIN: &str = "No pooled regression twin was trained beside a pooled model, so this does not say what \
     diffusion is worth: an arm with `kind = \"twin\"` does.";

/// Which arms a baseline beats, if there is one.
fn beaten(baseline: &BaselineResult, arms: &[ArmResult]) -> Option<String> {
    let BaselineResult { name, scores, .. } = baseline;
    let those = |is_beaten: &dyn Fn(&PerSite) -> bool| {
        let beaten = arms.iter().filter(|arm| is_beaten(arm.last()));
        named(&beaten.map(|arm| arm.name.as_str()).collect::<Vec<_>>(), arms.len())
    };
    let by_error = those(&|arm| scores.mean < arm.mean);
    let everywhere = those(&|arm| scores.mse.iter().zip(&arm.mse).all(|(own, arm)| own < arm));
    let by_ssim = those(&|arm| scores.ssim > arm.ssim);
    let error = by_error.map(|arms| match &everywhere {
        Some(same) if *same == arms => format!("less mean error than {arms}, at every site"),
        Some(some) => format!("less mean error than {arms} (at every site than {some})"),
        None => format!("less mean error than {arms}"),
    });
    let ssim = by_ssim.map(|arms| format!("a higher mean SSIM than {arms}"));
    let said = match (error, ssim) {
        (Some(error), Some(ssim)) => format!("{error}, and {ssim}"),
        (Some(error), None) => format!("{error}, but no higher mean SSIM than any"),
        (None, Some(ssim)) => format!("{ssim}, but no less mean error than any"),
        (None, None) => return None,
    };
    Some(format!("`{name}` has {said}."))
}

/// Names in a row; nothing for none, "every arm" for `count`.
fn named(names: &[&str], count: usize) -> Option<String> {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.as_slice() {
        [] => None,
        all if all.len() == count => Some("every arm".to_owned()),
        [one] => Some(one.clone()),
        [first @ .., last] => Some(format!("{} and {last}", first.join(", "))),
    }
}

/// Every pooled twin against the pooled model.
fn twins(results: &Results) -> impl Iterator<Item = String> {
    let twins = results.arms.iter().filter(|arm| arm.kind == ArmKind::Twin);
    twins.filter_map(|arm| {
        let (excess, model) = (arm.excess?, &results.arms[results.reference?]);
        let word = match excess.bounds {
            None => "there are too few held-out patients to tell whether diffusion pays",
            Some((_, high)) if high < 0.0 => "diffusion does not pay by this error",
            Some((low, _)) if low > 0.0 => "diffusion pays by this error",
            Some(_) => "whether diffusion pays by this error, these patients do not tell",
        };
        Some(format!(
            "**Diffusion against regression.** The error of `{}`, the same network without diffusion, \
             against that of `{}`: {excess}; {word}. Their mean SSIM is {:.5} and {:.5}.",
            arm.name,
            model.name,
            arm.last().ssim,
            model.last().ssim,
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Interval;

    fn scores(mse: [f64; 2], ssim: f64) -> PerSite {
        PerSite { mean: (mse[0] + mse[1]) / 2.0, mse: mse.into(), ssim, worst: 0 }
    }

    fn arm(name: &str, kind: ArmKind, scores: PerSite, bounds: Option<(f64, f64)>) -> ArmResult {
        ArmResult {
            name: name.into(),
            kind,
            reference: None,
            steps: 1,
            bytes_down: 0,
            bytes_up: 0,
            curve: vec![(9, scores)],
            excess: Some(Interval { value: -0.25, bounds }),
            against_alone: None,
            rounds_to_gain: None,
            rounds_to_equal: None,
        }
    }

    /// What is said when the baseline `fill` scores so, and the twin's error lies so.
    fn said(fill: PerSite, bounds: Option<(f64, f64)>) -> Vec<String> {
        paragraphs(&results_of(fill, bounds))
    }

    fn results_of(fill: PerSite, bounds: Option<(f64, f64)>) -> Results {
        let baseline = BaselineResult { name: "fill".into(), scores: fill, excess: None };
        Results {
            sites: vec!["north".into(), "south".into()],
            initial: scores([1.0, 1.0], 0.1),
            baselines: vec![baseline],
            arms: vec![
                arm("pooled", ArmKind::Pooled, scores([0.2, 0.4], 0.8), None),
                arm("fedavg", ArmKind::Federated, scores([0.3, 0.5], 0.7), None),
                arm("twin", ArmKind::Twin, scores([0.1, 0.3], 0.9), bounds),
            ],
            families: Vec::new(),
            reference: Some(0),
            elsewhere: [].into(),
        }
    }

    #[test]
    fn a_baseline_that_beats_an_arm_is_named_with_every_arm_it_beats_and_how() {
        for (fill, words) in [
            (
                scores([0.05, 0.05], 0.95),
                "less mean error than every arm, at every site, and a higher mean SSIM than every arm",
            ),
            (
                scores([0.15, 0.35], 0.75),
                "less mean error than `pooled` and `fedavg`, at every site, and a higher mean SSIM than `fedavg`",
            ),
            (
                scores([0.25, 0.25], 0.1),
                "less mean error than `pooled` and `fedavg` (at every site than `fedavg`), but no higher mean SSIM than any",
            ),
            (
                scores([0.9, 0.9], 0.85),
                "a higher mean SSIM than `pooled` and `fedavg`, but no less mean error than any",
            ),
        ] {
            let text = &said(fill, None)[0];
            assert!(text.ends_with(&format!("beat arms.** `fill` has {words}.")), "{text}");
        }
        let none = &said(scores([0.9, 0.9], 0.1), None)[0];
        assert!(none.starts_with("No baseline beats an arm"), "{none}");
    }

    #[test]
    fn a_study_without_a_twin_says_so_and_how_to_get_one() {
        let mut results = results_of(scores([0.9, 0.9], 0.1), None);
        assert!(!paragraphs(&results).iter().any(|said| said == NO_TWIN));
        results.arms.retain(|arm| arm.kind != ArmKind::Twin);
        assert_eq!(paragraphs(&results).last().unwrap(), NO_TWIN);
    }

    #[test]
    fn whether_diffusion_pays_is_said_as_far_as_the_interval_tells() {
        for (bounds, words) in [
            (Some((-0.3, -0.2)), "`pooled`: -25.0 % [-30.0, -20.0]; diffusion does not pay"),
            (Some((0.1, 0.2)), "; diffusion pays"),
            (Some((-0.1, 0.2)), "these patients do not tell"),
            (None, "too few held-out patients"),
        ] {
            let text = &said(scores([0.9, 0.9], 0.1), bounds)[1];
            assert!(text.contains(words) && text.contains("0.90000 and 0.80000"), "{text}");
        }
    }
}
