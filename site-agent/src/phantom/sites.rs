//! A synthetic federation: one cohort per site, as unequal as hospitals are.
//!
//! Sizes are those of a real federation; the example scanners go round and each site's is a little
//! different from the next of its kind. No two sites share a patient.

use std::path::PathBuf;

use crate::data::stream::stream;
use crate::phantom::scanner::Scanner;
use crate::phantom::{Error, Source, write_sources};

/// The cases of the 23 institutions of the FeTS challenge 2022 (partitioning 1), largest first.
pub const FETS_CASES: [usize; 23] =
    [511, 382, 47, 35, 35, 34, 33, 30, 22, 15, 14, 13, 12, 11, 9, 8, 8, 7, 6, 6, 5, 4, 4];

/// The fewest patients a site gets: one to train on and one to hold out.
pub const PATIENTS_MIN: usize = 2;

/// The domain of the hash that a site's scanner is drawn from.
const DOMAIN: &str = "fedpaint phantom site v1";

/// What to make.
#[derive(Clone, Debug, PartialEq)]
pub struct FederationSpec {
    /// The folder, which must be empty or absent. It gets a folder per site: `site-01`, ….
    pub out: PathBuf,
    /// The sites' patients relative to [`FETS_CASES`].
    pub scale: f64,
    /// The same seed makes the same files.
    pub seed: u64,
    /// The edge of a voxel.
    pub size_mm: f64,
}

/// One site of a federation that has been made.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Its folder's name.
    pub name: String,
    /// Whose kind of scanner it has.
    pub scanner: Scanner,
    /// How many patients.
    pub patients: usize,
}

/// How many patients each site has at a scale.
///
/// # Errors
/// [`Error::Scale`] unless the scale is a number above 0.
pub fn sizes(scale: f64) -> Result<Vec<usize>, Error> {
    if !(scale.is_finite() && scale > 0.0) {
        return Err(Error::Scale(scale));
    }
    // A conversion from float to integer saturates; too many are refused later.
    let scaled = |cases: usize| (cases as f64 * scale).round().min(1e9) as usize;
    Ok(FETS_CASES.into_iter().map(|cases| scaled(cases).max(PATIENTS_MIN)).collect())
}

/// Makes a federation, patients in parallel, and calls `progress(done, total)` after each. Each
/// site's folder is a cohort as [`write_cohort`](crate::phantom::write_cohort) makes it.
///
/// # Errors
/// [`Error`]; patients finished before it are kept.
pub fn write_federation(
    spec: &FederationSpec,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Site>, Error> {
    let sizes = sizes(spec.scale)?;
    let (mut sites, mut sources) = (Vec::new(), Vec::new());
    let mut first = 0;
    for (index, patients) in sizes.into_iter().enumerate() {
        let name = format!("site-{:02}", index + 1);
        let scanner = Scanner::ALL[index % Scanner::ALL.len()];
        let number = index as u64;
        let mut rng = stream(DOMAIN, &[&spec.seed.to_le_bytes(), &number.to_le_bytes()]);
        sources.push(Source {
            out: spec.out.join(&name),
            scanner,
            protocol: scanner.protocol().jittered(&mut rng),
            patients: first..first + patients,
        });
        sites.push(Site { name, scanner, patients });
        first += patients;
    }
    write_sources(&spec.out, &sources, spec.seed, spec.size_mm, progress)?;
    Ok(sites)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::phantom::MANIFEST;

    fn spec(out: PathBuf, scale: f64) -> FederationSpec {
        FederationSpec { out, scale, seed: 3, size_mm: 8.0 }
    }

    #[test]
    fn at_scale_1_the_sites_are_those_of_fets() {
        assert_eq!(sizes(1.0).unwrap(), FETS_CASES);
        assert_eq!(FETS_CASES.iter().sum::<usize>(), 1251);
        // 511 / 20 and 382 / 20 rounded; 47 / 20 and all others are less than 2.5.
        let small = sizes(0.05).unwrap();
        assert_eq!(small[..3], [26, 19, 2]);
        assert!(small[2..].iter().all(|&n| n == PATIENTS_MIN));
    }

    #[test]
    fn a_federation_has_a_folder_per_site_and_no_patient_twice() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("federation");
        let sites = write_federation(&spec(out.clone(), 0.001), &mut |_, _| {}).unwrap();
        assert_eq!(sites.len(), 23);
        let scanners: Vec<char> = sites[..5].iter().map(|s| s.scanner.letter()).collect();
        assert_eq!(scanners, ['A', 'B', 'C', 'D', 'A']);
        let mut seen = BTreeSet::new();
        for site in &sites {
            for entry in std::fs::read_dir(out.join(&site.name)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(name == MANIFEST || seen.insert(name.clone()), "{name} twice");
            }
        }
        assert_eq!(seen.len(), 46);
    }

    #[test]
    fn sites_of_one_kind_of_scanner_differ() {
        let protocol = |site: u64| {
            let mut rng = stream(DOMAIN, &[&3_u64.to_le_bytes(), &site.to_le_bytes()]);
            Scanner::A.protocol().jittered(&mut rng)
        };
        assert_ne!(protocol(0), protocol(4));
        assert_eq!(protocol(4), protocol(4));
    }

    #[test]
    fn a_scale_without_patients_or_with_too_many_is_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        for scale in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(sizes(scale), Err(Error::Scale(_))));
        }
        let refused = write_federation(&spec(folder.path().join("x"), 1e6), &mut |_, _| {});
        assert!(matches!(refused, Err(Error::Patients(_))));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
