//! Files that appear whole or not at all.

use std::io::{Result, Write};
use std::path::Path;

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::weights::sync_folder;
use tempfile::NamedTempFile;

/// A file beside `path` that is gone unless it is given that name.
///
/// # Errors
/// If the disk fails.
pub(crate) fn beside(path: &Path) -> Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))
}

/// Writes `text` to `path` and to the disk, over what is there only if it `replaces` that. `place` is where a test
/// may have it fail.
///
/// # Errors
/// If the disk fails, or something is there that it does not replace; then that is as it was.
pub(crate) fn whole(place: &'static str, path: &Path, text: &[u8], replaces: bool) -> Result<()> {
    let mut file = beside(path)?;
    reach(place)?;
    file.write_all(text)?;
    file.as_file().sync_all()?;
    match replaces {
        true => file.persist(path)?,
        false => file.persist_noclobber(path)?,
    };
    sync_folder(path)
}
