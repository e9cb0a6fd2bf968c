//! Maps an entry of the cache into memory: the one place of the workspace that needs `unsafe`.

#![expect(unsafe_code, reason = "a file can be mapped in no other way; see the comment below")]

use std::fs::File;
use std::io;

use memmap2::{Mmap, MmapOptions};

/// Maps the whole of `file`, read-only, of which the caller has found `bytes`.
///
/// # Errors
/// If the system has no address space left, or the file is not `bytes` long.
pub(super) fn map(file: &File, bytes: u64) -> io::Result<Mmap> {
    let length = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
    if length == 0 || file.metadata()?.len() != bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // Safety: mapped bytes must not change or shrink. The file is opened read-only from a folder that
    // only this user may enter; entries are written under another name and renamed when whole, never
    // written to afterwards, and removed by unlinking, which leaves a mapped file as it is. The
    // length is that of the file just above, and the cache has read every byte of it once. What is left
    // is a hand of the same user that truncates an entry in place, or a disk that loses a page after it
    // was read: the answer is a signal that ends the trainer, not the agent, and the next trainer finds
    // by reading that the entry is to be made again.
    unsafe { MmapOptions::new().len(length).map(file) }
}
