//! Which blobs were seen, as they came, to hold finite numbers alone. It is forgotten with the process and with time:
//! of a blob that is not known here, whoever wants to know reads it.

use std::collections::VecDeque;
use std::sync::Mutex;

use fedpaint_proto::names::Digest;

use super::{Blobs, lock};

/// The most that are kept in mind: as many updates as may have come and not been submitted.
const CAME_MAX: usize = 4096;

/// The newest, the oldest of them first.
pub(super) type Came = Mutex<VecDeque<Digest>>;

impl Blobs {
    /// Whether the blob was seen to hold nothing but finite numbers, if it holds f32 numbers at all.
    pub fn came_finite(&self, digest: &Digest) -> bool {
        lock(&self.came).contains(digest)
    }

    /// Takes note that it was.
    pub(super) fn note_finite(&self, digest: Digest) {
        let mut came = lock(&self.came);
        if came.contains(&digest) {
            return;
        }
        if came.len() == CAME_MAX {
            came.pop_front();
        }
        came.push_back(digest);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use fedpaint_proto::identity::Role;
    use fedpaint_proto::names::Blob;

    use super::*;
    use crate::testing::{START, write_model};

    /// Brings the pieces of a blob in so many goes.
    async fn bring(blobs: &Blobs, bytes: &[u8], goes: usize) -> Digest {
        let blob = Blob { digest: Digest::of(bytes), size: bytes.len() as u64 };
        let sender = Role::Site("mayo".parse().unwrap());
        let mut here = 0;
        for go in bytes.chunks(bytes.len().div_ceil(goes)) {
            let mut upload = blobs.upload(&sender, blob, here).await.unwrap();
            for piece in go.chunks(7) {
                upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            here = upload.finish().await.unwrap();
        }
        assert_eq!(blobs.find(&blob.digest).await.unwrap(), Some(blob));
        blob.digest
    }

    #[tokio::test]
    async fn a_model_of_finite_numbers_is_known_once_it_has_come_in_one_go_and_no_other_is() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path(), START).await.unwrap();
        let model = |values: &[f32]| {
            let path = blobs.scratch("model");
            write_model(&path, &[("a", &values[..1]), ("b", values)]);
            std::fs::read(path).unwrap()
        };
        let finite = bring(&blobs, &model(&[1.0, f32::MAX, -0.0]), 1).await;
        assert!(blobs.came_finite(&finite));
        for wrong in [f32::NAN, f32::INFINITY] {
            let wrong = bring(&blobs, &model(&[1.0, wrong, -0.0]), 1).await;
            assert!(!blobs.came_finite(&wrong));
        }
        // What was here before the upload went on was not looked at.
        let in_two = bring(&blobs, &model(&[2.0, 3.0]), 2).await;
        assert!(!blobs.came_finite(&in_two));
        let again = Blobs::open(folder.path(), START).await.unwrap();
        assert!(!again.came_finite(&finite));
    }

    #[test]
    fn of_more_than_are_kept_in_mind_the_newest_are() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::attach(folder.path());
        let digests: Vec<Digest> = (0..=CAME_MAX).map(|at| Digest::of(&at.to_le_bytes())).collect();
        digests.iter().chain(&digests[1..]).for_each(|digest| blobs.note_finite(*digest));
        assert!(!blobs.came_finite(&digests[0]));
        assert!(digests[1..].iter().all(|digest| blobs.came_finite(digest)));
    }
}
