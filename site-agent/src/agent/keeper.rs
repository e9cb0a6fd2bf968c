//! Keeps the newest head of the coordinator's log that was believed on the disk, beside the heartbeats: none
//! waits for the disk, and no disk is kept busy by heads, of which a round brings several.

use std::sync::Arc;
use std::time::Duration;

use fedpaint_proto::log::SignedHead;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::workspace::Workspace;

/// How long after a head was written the next one waits for newer ones. So much of what was believed a crash
/// forgets: an older head does as well for a later start, and each that is written holds up what a round syncs.
const PAUSE: Duration = Duration::from_millis(250);

/// Writes one head after the other. Where several come before the next is written, it is the newest.
#[derive(Debug)]
pub(super) struct Keeper {
    newest: watch::Sender<Option<SignedHead>>,
    /// Fires when nothing more comes.
    ends: CancellationToken,
    task: JoinHandle<()>,
}

impl Keeper {
    pub(super) fn begin(workspace: Arc<Workspace>) -> Keeper {
        let (newest, mut heads) = watch::channel(None);
        let ends = CancellationToken::new();
        let ending = ends.clone();
        let task = tokio::spawn(async move {
            // The last one is still seen when nobody sends any more.
            while heads.changed().await.is_ok() {
                let Some(head) = heads.borrow_and_update().clone() else { continue };
                let workspace = Arc::clone(&workspace);
                let kept = tokio::task::spawn_blocking(move || workspace.keep_head(&head)).await;
                // Until the disk takes one, an older one is on it, which does as well for a later start.
                match kept {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!("the head of the log is not kept: {error}"),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                }
                // Whoever ends waits for the disk alone.
                let _ = ending.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
            }
        });
        Keeper { newest, ends, task }
    }

    /// Has a head kept in place of the one before it.
    pub(super) fn keep(&self, head: SignedHead) {
        self.newest.send_replace(Some(head));
    }

    /// Waits until the newest one is kept.
    pub(super) async fn end(self) {
        drop(self.newest);
        self.ends.cancel();
        // It ends early by its own panic alone, which has been told.
        let _ = self.task.await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::time::Instant;

    use super::*;

    /// Nobody has signed it, and nobody asks here.
    fn head(size: u64) -> SignedHead {
        let head = serde_json::json!({
            "statement": {
                "federation": "brain",
                "size": size,
                "root": "00".repeat(32),
                "at": "2026-11-29T00:00:00Z",
            },
            "signature": format!("{}==", "A".repeat(86)),
            "certificate": "",
        });
        serde_json::from_value(head).unwrap()
    }

    #[tokio::test]
    async fn the_newest_head_is_on_the_disk_when_the_keeper_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Arc::new(Workspace::open(folder.path()).unwrap());
        let keeper = Keeper::begin(Arc::clone(&workspace));
        for size in 1..=100 {
            keeper.keep(head(size));
            tokio::task::yield_now().await;
        }
        keeper.end().await;
        assert_eq!(workspace.head().unwrap(), Some(head(100)));
    }

    #[tokio::test]
    async fn of_heads_that_come_in_a_row_few_are_written_and_the_last_one_is_among_them() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Arc::new(Workspace::open(folder.path()).unwrap());
        let keeper = Keeper::begin(Arc::clone(&workspace));
        let (begun, mut last, mut seen) = (Instant::now(), 0, BTreeSet::new());
        while begun.elapsed() < 4 * PAUSE {
            last += 1;
            keeper.keep(head(last));
            tokio::task::yield_now().await;
            seen.extend(workspace.head().unwrap().map(|head| head.statement.size));
        }
        // On a slow machine there are fewer.
        let written_max = begun.elapsed().as_millis() / PAUSE.as_millis() + 1;
        assert!(seen.len() as u128 <= written_max, "{seen:?} of {last}");
        keeper.end().await;
        assert_eq!(workspace.head().unwrap(), Some(head(last)));
    }
}
