//! What the system keeps in memory of files that nobody reads soon.

use std::fs::File;

use fedpaint_proto::names::Digest;
use rustix::fs::{Advice, fadvise};

use super::Blobs;

impl Blobs {
    /// Lets the system forget the pages of these files, which are on the disk. What is written next has
    /// their room, instead of room that something else needs or that is dear to get: a virtual machine asks
    /// its host for every page that it has not used for a while. It is a hint, and nothing fails.
    pub(crate) fn let_go(&self, digests: impl IntoIterator<Item = Digest>) {
        for digest in digests {
            if let Ok(file) = File::open(self.path(&digest)) {
                let _ = fadvise(&file, 0, None, Advice::DontNeed);
            }
        }
    }
}
