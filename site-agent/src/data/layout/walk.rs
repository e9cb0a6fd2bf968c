//! Walks a data folder for files whose names make cases, within bounds of depth and number.
//!
//! A folder that holds files of a case is a leaf: what lies deeper (healthy counterparts, results) is
//! no case of its own. It never opens a file and follows no link to a folder.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::FileType;
use std::io;
use std::path::{Path, PathBuf};

use crate::data::layout::names::{self, Role};
use crate::data::layout::{DEPTH_MAX, Discovery, ENTRIES_MAX, Error, Found, FoundFile, SetAside};
use crate::data::problem::{Kind, Problem};

/// The cases below `dir`, and a discovery that holds what is no case.
pub(super) fn found(dir: &Path) -> Result<(Vec<Found>, Discovery), Error> {
    let failed = |source| Error::Io { path: dir.to_path_buf(), source };
    let root = dir.canonicalize().map_err(failed)?;
    let mut walk =
        Walk { dir, root, entries: 0, found: Vec::new(), discovery: Discovery::default() };
    let entries = walk.entries(dir)?.map_err(failed)?;
    walk.folder(dir, entries, 0)?;
    Ok((walk.found, walk.discovery))
}

struct Walk<'a> {
    dir: &'a Path,
    root: PathBuf,
    /// How many entries have been seen.
    entries: usize,
    found: Vec<Found>,
    discovery: Discovery,
}

/// The files of one folder by the case that their names begin with.
type Groups = BTreeMap<String, Vec<FoundFile>>;

impl Walk<'_> {
    /// The sorted entries of a folder, or why it does not read.
    fn entries(&mut self, folder: &Path) -> Result<io::Result<Vec<(OsString, FileType)>>, Error> {
        let listing = match std::fs::read_dir(folder) {
            Ok(listing) => listing,
            Err(error) => return Ok(Err(error)),
        };
        let mut entries = Vec::new();
        for entry in listing {
            if self.entries == ENTRIES_MAX {
                return Err(Error::TooMany { path: self.dir.to_path_buf() });
            }
            self.entries += 1;
            match entry.and_then(|entry| Ok((entry.file_name(), entry.file_type()?))) {
                Ok(entry) => entries.push(entry),
                Err(error) => return Ok(Err(error)),
            }
        }
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(Ok(entries))
    }

    fn folder(
        &mut self,
        folder: &Path,
        entries: Vec<(OsString, FileType)>,
        depth: usize,
    ) -> Result<(), Error> {
        let mut groups = Groups::new();
        let mut folders = Vec::new();
        for (name, kind) in entries {
            let path = folder.join(&name);
            let text = name.to_string_lossy();
            if text.starts_with('.') {
                continue;
            }
            if let Some((case, role)) = names::parse(&text) {
                let flaw = flaw_of_name(&name).or_else(|| self.flaw_of_file(&path, kind));
                groups.entry(case.to_owned()).or_default().push(FoundFile { role, path, flaw });
            } else if kind.is_dir() {
                folders.push((text.into_owned(), path, flaw_of_name(&name)));
            } else if kind.is_symlink() && self.is_folder_outside(&path) {
                self.set_aside(text.into_owned(), outside().in_file(&path));
            } else if names::stem(&text).is_some() {
                self.discovery.files_passed_over += 1;
            }
        }
        if self.take_cases(folder, groups) {
            return Ok(());
        }
        for (name, path, flaw) in folders {
            if let Some(flaw) = flaw {
                self.set_aside(name, flaw.in_file(&path));
            } else if depth < DEPTH_MAX {
                match self.entries(&path)? {
                    Ok(entries) => self.folder(&path, entries, depth + 1)?,
                    Err(error) => self.set_aside(name, Problem::io(&error).in_file(&path)),
                }
            }
        }
        Ok(())
    }

    /// Takes the cases of one folder; false if there is none.
    fn take_cases(&mut self, folder: &Path, mut groups: Groups) -> bool {
        // In a folder named after a case, files of other names are strays.
        let own = folder.file_name().and_then(|name| groups.remove_entry(name.to_str()?));
        let is_own = own.as_ref().is_some_and(|(_, files)| is_case(files));
        let place = folder.strip_prefix(self.dir).unwrap_or(folder);
        let place = match place.to_string_lossy() {
            here if here.is_empty() => "the data folder itself".to_owned(),
            below => below.into_owned(),
        };
        let before = self.found.len();
        for (name, files) in own.into_iter().chain(groups) {
            let is_stray = is_own && self.found.len() > before;
            if is_stray || !is_case(&files) {
                self.discovery.files_passed_over += files.len();
                continue;
            }
            let place = place.clone();
            self.found.push(Found { name, patient: None, label_scheme: None, place, files });
        }
        self.found.len() > before
    }

    fn set_aside(&mut self, case: String, problem: Problem) {
        self.discovery.set_aside.push(SetAside { case, problem });
    }

    /// Why a file cannot be opened, as far as its entry tells.
    fn flaw_of_file(&self, path: &Path, kind: FileType) -> Option<Problem> {
        if kind.is_symlink() {
            flaw_of_target(path, &self.root, false)
        } else {
            (!kind.is_file()).then(not_a_file)
        }
    }

    fn is_folder_outside(&self, link: &Path) -> bool {
        let target = link.canonicalize();
        target.is_ok_and(|target| target.is_dir() && !target.starts_with(&self.root))
    }
}

/// Why what lies at `path`, behind links if there are any, may not be opened: it must lie in `root` and
/// be a file, or a folder where one `may_be_folder`.
pub(super) fn flaw_of_target(path: &Path, root: &Path, may_be_folder: bool) -> Option<Problem> {
    let target = match path.canonicalize() {
        Ok(target) => target,
        Err(error) => return Some(Problem::io(&error)),
    };
    if !target.starts_with(root) {
        return Some(outside());
    }
    match std::fs::metadata(&target) {
        Ok(found) if found.is_file() || (may_be_folder && found.is_dir()) => None,
        Ok(_) => Some(not_a_file()),
        Err(error) => Some(Problem::io(&error)),
    }
}

/// Whether the files make a case, or would if they were whole.
fn is_case(files: &[FoundFile]) -> bool {
    files.iter().any(|file| match file.role {
        Role::Scan(_) | Role::Segmentation | Role::Voided => true,
        Role::MaskUnhealthy | Role::Mask | Role::MaskHealthy => false,
    })
}

fn flaw_of_name(name: &OsString) -> Option<Problem> {
    let detail = match name.to_str() {
        None => "the name is not UTF-8, rename it",
        Some(name) if name.contains(char::is_control) => {
            "the name holds a control character, rename it"
        }
        Some(_) => return None,
    };
    Some(Problem::error(Kind::Name, detail))
}

fn outside() -> Problem {
    Problem::error(Kind::Outside, "the link leads out of the data folder, move the files into it")
}

fn not_a_file() -> Problem {
    Problem::error(Kind::Unreadable, "not a file")
}
