//! The study's scans: phantoms dealt out to sites, or folders of real ones split by the program, each
//! as a folder that trains and one that is judged on, and the training patients of all in one folder.
//! Files are linked, not read, but for their digests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use fedpaint_proto::names::{Digest, SiteName};
use serde::Deserialize;

use crate::plan::{DataPlan, PhantomPlan, SitePlan, StudyPlan};
use crate::shop::{Key, Shop, finish, text};

/// Cases of a real site that are looked at.
const CASES_MAX: usize = 10_000;

/// Files of a case: four contrasts, a segmentation, masks.
const FILES_MAX: usize = 32;

/// A folder of cases.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    /// Of every file's name and content.
    pub(crate) key: Key,
    pub(crate) cases: usize,
}

/// A hospital's scans.
#[derive(Clone, Debug)]
pub(crate) struct SiteData {
    pub(crate) name: SiteName,
    pub(crate) training: Folder,
    pub(crate) held_out: Folder,
}

/// Everybody's scans.
#[derive(Clone, Debug)]
pub(crate) struct Data {
    pub(crate) sites: Vec<SiteData>,
    /// The training cases of all sites.
    pub(crate) pooled: Folder,
}

/// A case: its name and its files.
#[derive(Clone, Debug)]
struct Case {
    name: String,
    files: Vec<PathBuf>,
}

/// A site's cases.
struct Split {
    training: Vec<Case>,
    held_out: Vec<Case>,
}

/// Makes or finds the scans of every site; `folders` are those of the sites without phantoms.
pub(crate) async fn prepare(
    shop: &Shop,
    plan: &StudyPlan,
    folders: &BTreeMap<SiteName, PathBuf>,
) -> anyhow::Result<Data> {
    let mut dealt = phantoms(shop, plan).await?;
    let (mut sites, mut pooled) = (Vec::new(), Vec::new());
    for SitePlan { name, phantom } in &plan.sites {
        let split = match phantom {
            Some(phantom) => deal(&mut dealt, phantom)?,
            None => {
                let folder = folders.get(name).with_context(|| {
                    format!("site {name} has no phantoms: give its scans as --data {name}=DIR")
                })?;
                split(shop, &plan.data, name, folder).await?
            }
        };
        pooled.extend(split.training.clone());
        let training = link(shop, &format!("{name}-training"), &split.training)?;
        let held_out = link(shop, &format!("{name}-held-out"), &split.held_out)?;
        sites.push(SiteData { name: name.clone(), training, held_out });
    }
    Ok(Data { sites, pooled: link(shop, "pooled-training", &pooled)? })
}

/// Every scanner's phantoms, in order.
async fn phantoms(
    shop: &Shop,
    plan: &StudyPlan,
) -> anyhow::Result<BTreeMap<String, std::vec::IntoIter<Case>>> {
    let mut patients: BTreeMap<String, u32> = BTreeMap::new();
    for PhantomPlan { scanner, training, held_out } in
        plan.sites.iter().filter_map(|site| site.phantom.as_ref())
    {
        *patients.entry(scanner.clone()).or_default() += training + held_out;
    }
    let mut cohorts = BTreeMap::new();
    for (scanner, patients) in patients {
        let DataPlan { seed, voxel_mm, .. } = &plan.data;
        let options = [
            ("--patients", patients.to_string()),
            ("--scanner", scanner.clone()),
            ("--seed", seed.to_string()),
            ("--size", voxel_mm.to_string()),
        ];
        let args: Vec<String> =
            options.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        let label = format!("phantoms-{scanner}");
        let key = Key::of(&label, &args.iter().map(String::as_str).collect::<Vec<_>>());
        let path = shop.path("data").join(format!("{label}-{}", key.as_str()));
        if !path.exists() {
            shop.say(&format!("making {patients} phantoms of scanner {scanner}"));
            let made = shop.scratch(&label, &key);
            let verb = ["phantom", "--out", &text(&made)].map(str::to_owned);
            shop.tool(&[&verb[..], &args].concat()).await?;
            finish(&made, &path)?;
        }
        cohorts.insert(scanner, cases(&path)?.into_values().collect::<Vec<_>>().into_iter());
    }
    Ok(cohorts)
}

/// The next phantoms of the site's scanner.
fn deal(
    dealt: &mut BTreeMap<String, std::vec::IntoIter<Case>>,
    phantom: &PhantomPlan,
) -> anyhow::Result<Split> {
    let PhantomPlan { scanner, training, held_out } = phantom;
    let cases = dealt.get_mut(scanner).context("every scanner has its phantoms")?;
    let mut take = |count: &u32| -> anyhow::Result<Vec<Case>> {
        let taken: Vec<Case> = cases.take(*count as usize).collect();
        ensure!(taken.len() == *count as usize, "the phantoms of scanner {scanner} ran out");
        Ok(taken)
    };
    Ok(Split { training: take(training)?, held_out: take(held_out)? })
}

/// The program's own split of a real site, patient by patient; what it sets aside is in neither part.
async fn split(
    shop: &Shop,
    plan: &DataPlan,
    name: &SiteName,
    folder: &Path,
) -> anyhow::Result<Split> {
    #[derive(Deserialize)]
    struct Manifest {
        cases: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        case: String,
        part: String,
    }
    let out = shop.scratch(&format!("{name}-split"), &Key::of("split", &[name.as_str()]));
    let mut args =
        ["data", "split", &text(folder), "--out", &text(&out)].map(str::to_owned).to_vec();
    let (held_out, contrasts) = (plan.held_out.to_string(), plan.contrasts.join(","));
    let more = ["--held-out", &held_out, "--salt", &plan.split_salt, "--contrasts", &contrasts];
    args.extend(more.iter().chain(&["--label-scheme", &plan.label_scheme]).map(|&s| s.to_owned()));
    shop.tool(&args).await.with_context(|| format!("splitting site {name}"))?;
    let manifest: Manifest = serde_json::from_slice(&std::fs::read(&out)?)?;
    let mut cases = cases(folder)?;
    let mut part = |part: &str| -> anyhow::Result<Vec<Case>> {
        let named = manifest.cases.iter().filter(|entry| entry.part == part);
        let found = named.map(|Entry { case, .. }| {
            cases.remove(case).with_context(|| {
                format!("case {case} of site {name} is not in a folder of its name: move it there")
            })
        });
        let found = found.collect::<anyhow::Result<Vec<Case>>>()?;
        ensure!(!found.is_empty(), "site {name} has no case for the part {part}");
        Ok(found)
    };
    Ok(Split { training: part("training")?, held_out: part("held_out")? })
}

/// The cases of a folder by name: its folders and the files in each.
fn cases(folder: &Path) -> anyhow::Result<BTreeMap<String, Case>> {
    let read = |path: &Path| -> anyhow::Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(path).with_context(|| path.display().to_string())?;
        let mut paths = entries.map(|e| Ok(e?.path())).collect::<anyhow::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    };
    let mut cases = BTreeMap::new();
    for path in read(folder)?.into_iter().filter(|path| path.is_dir()) {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.with_context(|| format!("{} is no case's name", path.display()))?;
        let files: Vec<PathBuf> = read(&path)?.into_iter().filter(|path| path.is_file()).collect();
        ensure!(
            cases.len() < CASES_MAX && files.len() <= FILES_MAX,
            "{} holds more than {CASES_MAX} cases, or one more than {FILES_MAX} files",
            folder.display()
        );
        cases.insert(name.to_owned(), Case { name: name.to_owned(), files });
    }
    Ok(cases)
}

/// A folder that holds `cases` and nothing else, named by their content.
fn link(shop: &Shop, label: &str, cases: &[Case]) -> anyhow::Result<Folder> {
    let mut parts = Vec::new();
    for Case { name, files } in cases {
        for file in files {
            let content = std::fs::read(file).with_context(|| file.display().to_string())?;
            parts.extend([name.clone(), file_name(file)?, Digest::of(&content).to_string()]);
        }
    }
    let unique: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    ensure!(unique.len() == cases.len(), "two sites have a case of one name: rename one of them");
    let key = Key::of("folder of cases", &parts.iter().map(String::as_str).collect::<Vec<_>>());
    let path = shop.path("data").join(format!("{label}-{}", key.as_str()));
    if !path.exists() {
        let made = shop.scratch(label, &key);
        for Case { name, files } in cases {
            let folder = made.join(name);
            std::fs::create_dir_all(&folder)?;
            for file in files {
                let link = folder.join(file_name(file)?);
                // Another file system takes no links from here.
                if std::fs::hard_link(file.canonicalize()?, &link).is_err() {
                    std::fs::copy(file, &link)?;
                }
            }
        }
        finish(&made, &path)?;
    }
    Ok(Folder { path, key, cases: cases.len() })
}

fn file_name(file: &Path) -> anyhow::Result<String> {
    let name = file.file_name().and_then(|name| name.to_str());
    Ok(name.with_context(|| format!("{} has no readable name", file.display()))?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, case: &str, content: &str) -> Case {
        let file = folder.join(case).join(format!("{case}-t1n.nii.gz"));
        std::fs::create_dir_all(folder.join(case)).unwrap();
        std::fs::write(&file, content).unwrap();
        Case { name: case.into(), files: vec![file] }
    }

    #[test]
    fn a_folder_of_cases_is_found_again_and_is_another_if_a_file_says_something_else() {
        let folder = tempfile::tempdir().unwrap();
        let shop = Shop::open(&folder.path().join("out"), 1).unwrap();
        let cases = [write(folder.path(), "A-1", "one"), write(folder.path(), "A-2", "two")];
        let first = link(&shop, "north", &cases).unwrap();
        assert_eq!(first.path, link(&shop, "north", &cases).unwrap().path);
        assert_eq!(std::fs::read(first.path.join("A-2/A-2-t1n.nii.gz")).unwrap(), b"two");
        let other = [cases[0].clone(), write(&folder.path().join("b"), "A-2", "other")];
        assert_ne!(first.path, link(&shop, "north", &other).unwrap().path);
        let twice = [cases[0].clone(), cases[0].clone()];
        assert!(link(&shop, "north", &twice).unwrap_err().to_string().contains("rename"));
    }

    #[test]
    fn no_phantom_is_dealt_twice() {
        let case = |i: u32| Case { name: format!("P-{i}"), files: Vec::new() };
        let all: Vec<Case> = (0..6).map(case).collect();
        let mut dealt = BTreeMap::from([("A".to_owned(), all.into_iter())]);
        let phantom = PhantomPlan { scanner: "A".into(), training: 2, held_out: 1 };
        let mut names = BTreeSet::new();
        for _ in 0..2 {
            let Split { training, held_out } = deal(&mut dealt, &phantom).unwrap();
            assert_eq!((training.len(), held_out.len()), (2, 1));
            assert!(training.into_iter().chain(held_out).all(|case| names.insert(case.name)));
        }
        assert!(deal(&mut dealt, &phantom).is_err());
    }
}
