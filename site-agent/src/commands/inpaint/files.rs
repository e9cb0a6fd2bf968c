//! Which files a call writes: none that it reads, none twice, none of somebody else's.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Refuses a call that would write over a file it reads, write one file twice, or write over a sidecar
/// that lies beside no painted scan. `outputs` are named by the option that names them.
pub(super) fn check(
    inputs: &[(&str, &Path)],
    outputs: &[(&str, &Path)],
    [out, sidecar]: [&Path; 2],
) -> Result<()> {
    let placed = |named: &[(&str, &Path)]| -> Result<Vec<(String, PathBuf)>> {
        let place = |&(name, path): &(&str, &Path)| Ok((name.to_owned(), place(path)?));
        named.iter().map(place).collect()
    };
    let mut taken = placed(inputs)?;
    let sidecar_too = [outputs, &[("the .json beside --out", sidecar)]].concat();
    for (name, place) in placed(&sidecar_too)? {
        let same = taken.iter().find(|(_, other)| *other == place);
        if let Some((other, _)) = same {
            anyhow::bail!("{name} and {other} are one file, {}: rename one", place.display());
        }
        taken.push((name, place));
    }
    ensure!(
        out.exists() || !sidecar.exists(),
        "{} exists and belongs to no painted scan: choose another name for --out",
        sidecar.display()
    );
    Ok(())
}

/// Where a file is or will be, whatever way its path takes.
fn place(path: &Path) -> Result<PathBuf> {
    if let Ok(place) = path.canonicalize() {
        return Ok(place);
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
    let name = path.file_name().with_context(|| format!("{} names no file", path.display()))?;
    Ok(folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(folder: &Path, inputs: &[&str], outputs: &[&str]) -> Option<String> {
        let in_folder = |names: &[&str]| -> Vec<PathBuf> {
            names.iter().map(|name| folder.join(name)).collect()
        };
        let (inputs, outputs) = (in_folder(inputs), in_folder(outputs));
        let inputs: Vec<(&str, &Path)> = inputs.iter().map(|path| ("--in", &**path)).collect();
        let named: Vec<(&str, &Path)> = outputs.iter().map(|path| ("--out", &**path)).collect();
        let found = check(&inputs, &named, [&outputs[0], &folder.join("x.json")]);
        found.err().map(|error| error.to_string())
    }

    #[test]
    fn no_file_is_read_and_written_or_written_twice_by_whatever_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::create_dir(path.join("d")).unwrap();
        std::fs::write(path.join("scan"), b"").unwrap();
        std::os::unix::fs::symlink(path.join("scan"), path.join("link")).unwrap();
        assert_eq!(refusal(path, &["scan"], &["x", "y"]), None);
        for (inputs, outputs) in [
            (&["scan"][..], &["scan"][..]),
            (&["scan"], &["d/../scan"]),
            (&["scan"], &["link"]),
            (&["scan"], &["x", "d/../x"]),
            (&["scan", "x.json"], &["x"]),
            (&["scan"], &["y", "x.json"]),
        ] {
            let text = refusal(path, inputs, outputs);
            assert!(text.is_some_and(|t| t.contains("are one file")), "{inputs:?} {outputs:?}");
        }
        assert!(refusal(path, &["scan"], &["absent/x"]).unwrap().contains("absent"));
    }

    #[test]
    fn a_sidecar_that_lies_beside_no_painted_scan_is_somebody_elses() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x.json"), b"{}").unwrap();
        let text = refusal(folder.path(), &[], &["x"]).unwrap();
        assert!(text.contains("belongs to no painted scan"), "{text}");
        std::fs::write(folder.path().join("x"), b"painted").unwrap();
        assert_eq!(refusal(folder.path(), &[], &["x"]), None);
    }
}
