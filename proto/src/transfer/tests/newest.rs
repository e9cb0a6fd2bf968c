//! Transfers whose way to the coordinator is replaced while they last.

use super::*;

/// A way that is replaced, and how often it is told that it broke.
struct Replaced {
    newest: Mutex<Channel>,
    broken: Mutex<u32>,
}

impl Replaced {
    async fn new(fake: &Fake) -> Replaced {
        Replaced { newest: Mutex::new(fake.channel().await), broken: Mutex::new(0) }
    }

    fn by(&self, channel: &Channel) {
        *self.newest.lock().unwrap() = channel.clone();
    }
}

impl Way for Replaced {
    fn channel(&self) -> Channel {
        self.newest.lock().unwrap().clone()
    }

    fn broke(&self, _: &Status) {
        *self.broken.lock().unwrap() += 1;
    }
}

#[tokio::test]
async fn an_upload_that_is_cut_goes_on_over_the_newest_connection() {
    let (folder, bytes) = (folder(), noise(14, 5000));
    let (path, purpose) = (folder.path().join("update"), v1::UploadPurpose::default());
    std::fs::write(&path, &bytes).unwrap();
    let (old, new) = (Fake::giving(&[], [Cut::After(1)]), Fake::default());
    let (way, next) = (Replaced::new(&old).await, new.channel().await);
    // The connection is replaced while the first attempt is under way.
    let mut progress = |_, _| way.by(&next);
    send::send(&way, &purpose, blob_of(&bytes), &path, &mut progress, &hasty()).await.unwrap();
    assert_eq!((old.state().streams, new.state().streams), (1, 1));
    assert_eq!(new.state().held, bytes);
    assert_eq!(*way.broken.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_download_that_is_cut_goes_on_over_the_newest_connection() {
    let (folder, bytes) = (folder(), noise(15, 5000));
    let path = folder.path().join("base");
    let (old, new) = (Fake::giving(&bytes, [Cut::After(3000)]), Fake::giving(&bytes, []));
    let (way, next) = (Replaced::new(&old).await, new.channel().await);
    let mut progress = |done: u64, _| {
        if done > 0 {
            way.by(&next);
        }
    };
    let (blob, patience) = (blob_of(&bytes), hasty());
    receive::receive(&way, blob, &path, Keep::ForNow, &mut progress, &patience).await.unwrap();
    assert_eq!((old.state().streams, new.state().streams), (1, 1));
    assert_eq!(new.state().moved, 2000, "only the rest is sent");
    assert_eq!(*way.broken.lock().unwrap(), 1);
}
