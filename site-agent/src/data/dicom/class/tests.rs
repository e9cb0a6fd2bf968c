//! Rows that scanners write, and what each is.

use super::*;

/// Modality MR, one echo of the given sequence.
fn facts(sequence: &str, times: [f64; 3], agent: bool, name: &str) -> Facts {
    let [te, tr, ti] = times;
    Facts {
        modality: "MR".to_string(),
        image_type: ["ORIGINAL", "PRIMARY", "M", "ND"].map(str::to_string).to_vec(),
        gradient_echo: sequence == "GR",
        spin_echo: sequence == "SE",
        te_ms: Some(te),
        tr_ms: Some(tr),
        ti_ms: (ti > 0.0).then_some(ti),
        agent,
        words: words(name),
    }
}

#[test]
fn common_sequences_are_told_apart() {
    for (sequence, times, agent, name, contrast) in [
        ("GR", [2.98, 2300.0, 900.0], false, "t1_mprage_sag_p2_iso native", Contrast::T1n),
        ("GR", [2.98, 2300.0, 900.0], true, "t1_mprage_sag_p2_iso", Contrast::T1c),
        ("GR", [2.98, 2300.0, 900.0], false, "Ax T1 +C", Contrast::T1c),
        ("SE", [9.0, 550.0, 0.0], false, "AX T1 SE PRE", Contrast::T1n),
        ("SE", [9.0, 550.0, 0.0], false, "t1_se_tra_km", Contrast::T1c),
        ("SE", [9.0, 550.0, 0.0], false, "T1 without contrast", Contrast::T1n),
        ("GR", [3.2, 8.2, 0.0], true, "SAG 3D T1 FSPGR", Contrast::T1c),
        ("SE", [24.0, 2500.0, 860.0], true, "AX T1 FLAIR", Contrast::T1c),
        ("SE", [100.0, 5000.0, 0.0], false, "t2_tse_tra_448", Contrast::T2w),
        ("SE", [240.0, 4000.0, 0.0], false, "", Contrast::T2w),
        ("SE", [125.0, 9000.0, 2500.0], false, "t2_tirm_tra_dark-fluid", Contrast::T2f),
        ("SE", [388.0, 5000.0, 1800.0], true, "Sag CUBE FLAIR", Contrast::T2f),
        ("SE", [125.0, 9000.0, 2500.0], false, "AX T2 FLAIR", Contrast::T2f),
    ] {
        let class = class(&facts(sequence, times, agent, name));
        assert_eq!(class, Class::Certain(contrast), "{name}");
    }
}

#[test]
fn what_does_not_agree_is_doubtful_and_says_why() {
    for (sequence, times, agent, name, why) in [
        ("GR", [2.98, 2300.0, 900.0], false, "t1_mprage", "contrast agent"),
        ("GR", [2.98, 2300.0, 900.0], true, "t1_mprage native", "disagree"),
        ("GR", [2.98, 2300.0, 900.0], false, "t1 pre post", "before and after"),
        ("SE", [9.0, 550.0, 0.0], false, "t2_tse", "different weightings"),
        ("SE", [100.0, 5000.0, 0.0], false, "FLAIR", "different weightings"),
        ("SE", [100.0, 5000.0, 0.0], false, "t2 flair", "different weightings"),
        ("SE", [9.0, 550.0, 0.0], false, "t1 t2", "both T1 and T2"),
        ("SE", [9.0, 5000.0, 0.0], false, "t1", "do not bear out"),
        ("GR", [4.0, 20.0, 0.0], false, "", "neither its times nor its name"),
    ] {
        let Class::Doubtful(told) = class(&facts(sequence, times, agent, name)) else {
            panic!("{name} is not doubtful");
        };
        assert!(told.contains(why), "{name}: {told}");
    }
    let mut derived = facts("SE", [100.0, 5000.0, 0.0], false, "t2_tse");
    derived.image_type[0] = "DERIVED".to_string();
    assert!(matches!(class(&derived), Class::Doubtful(_)));
    let mut silent = facts("SE", [100.0, 5000.0, 0.0], false, "t2_tse");
    silent.te_ms = None;
    assert!(matches!(class(&silent), Class::Doubtful(_)));
}

#[test]
fn localisers_maps_projections_and_our_own_results_are_excluded_by_name() {
    for (name, code, why) in [
        ("localizer", "", "a localiser"),
        ("3-plane loc", "", "a localiser"),
        ("ep2d_diff_ADC", "", "diffusion"),
        ("t1", "TRACEW", "diffusion"),
        ("t2*_gre", "", "susceptibility"),
        ("SWI_Images", "", "susceptibility"),
        ("TOF 3D", "", "angiography"),
        ("t1 mip", "", "a projection"),
        ("t1", "PROJECTION IMAGE", "a projection"),
        ("t1 sub", "", "a subtraction"),
        ("t2 stir", "", "another kind of series"),
        ("rCBV", "", "perfusion"),
        ("t2", "SYNTHETIC", "synthetic, never to be learnt from"),
    ] {
        let mut series = facts("SE", [100.0, 5000.0, 0.0], false, name);
        series.image_type.push(code.to_string());
        assert_eq!(class(&series), Class::Excluded(why), "{name} {code}");
    }
    let mut other = facts("SE", [100.0, 5000.0, 0.0], false, "t2_tse");
    other.modality = "CT".to_string();
    assert_eq!(class(&other), Class::Excluded("not MR"));
}
