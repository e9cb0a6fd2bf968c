//! Averages that do not end, or not well, while other runs go on.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, mkfifoat};

use super::*;
use crate::round::Abandonment;

const NAMES: [&str; 3] = ["aachen", "kyoto", "mayo"];

fn liver() -> RunName {
    "liver".parse().unwrap()
}

/// A file that does not answer until this is dropped.
struct Silent(PathBuf);

impl Silent {
    fn new(path: PathBuf) -> Silent {
        fs::remove_file(&path).unwrap();
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        Silent(path)
    }

    /// What ends the silence once it is dropped; an error while nobody reads.
    fn end(&self) -> io::Result<fs::File> {
        let mut options = fs::OpenOptions::new();
        options.write(true).custom_flags(libc::O_NONBLOCK).open(&self.0)
    }

    /// The same once somebody reads. From here on nobody else finds the file.
    async fn taken(&self) -> fs::File {
        let end = loop {
            match self.end() {
                Ok(end) => break end,
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENXIO), "{error}"),
            }
            tokio::task::yield_now().await;
        };
        fs::remove_file(&self.0).unwrap();
        end
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // Whoever reads hears of its end; without a reader there is nobody to tell. Whoever comes after finds no
        // file, and does not wait for another end.
        let end = self.end();
        let _ = fs::remove_file(&self.0);
        drop(end);
    }
}

impl Coordinator {
    /// brain's round is sealed; what becomes of kyoto's update before that.
    async fn seal_brain<T>(&self, meanwhile: impl FnOnce(PathBuf) -> T) -> T {
        self.join(&NAMES).await;
        self.submit(round(1, 1), "aachen", 2.0, 1).await;
        let kyoto = self.submission(round(1, 1), "kyoto", 4.0, 1);
        let path = self.blobs.path(&kyoto.weights.digest);
        self.handle.submit(&site("kyoto"), kyoto).await.unwrap();
        let told = meanwhile(path);
        self.submit(round(1, 1), "mayo", 6.0, 1).await;
        told
    }

    /// A second run, whose round is sealed.
    async fn seal_liver(&self) {
        let base = self.put("base", BASE);
        self.handle.create_run(&ada(), &liver(), plan(1, 2), base).await.unwrap();
        self.join(&NAMES).await;
        let id = RoundId { run: liver(), number: 1, attempt: 1 };
        for (name, value) in NAMES.into_iter().zip([8.0, 9.0, 10.0]) {
            self.submit(id.clone(), name, value, 1).await;
        }
    }

    /// Has the driver do all that is owed at the time it is now.
    async fn turn(&self) {
        // The second is heard after what was owed when the first was.
        for _ in 0..2 {
            self.beat("mayo", Activity::Idle).await;
        }
    }

    async fn until_of(
        &self,
        run: &RunName,
        wanted: impl Fn(&RunView, &RoundView) -> bool,
    ) -> RunView {
        let mut watch = self.handle.watch(run).unwrap();
        loop {
            let (run, round) = watch.next().await.expect("the run goes on");
            if wanted(&run, &round) {
                return run;
            }
        }
    }
}

#[tokio::test]
async fn a_run_whose_files_do_not_read_says_so_and_keeps_no_other_run_from_its_average() {
    let coordinator = Coordinator::start(1).await;
    let path = coordinator.seal_brain(|path| {
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        path
    });
    let path = path.await;
    let (_, view) = coordinator.until(|_, round| round.reason().is_some()).await;
    let told = view.reason().unwrap();
    let begins =
        format!("no average since {START}; it is begun again, because the update of site kyoto");
    assert!(told.starts_with(&begins), "{told}");
    let day = Timestamp::from_second(24 * 3_600).unwrap();
    assert_eq!((view.phase, view.average.unwrap().until), (Phase::Aggregating, Some(day)));
    let (_, shown) = coordinator.handle.run_now(&brain()).unwrap();
    assert_eq!((shown.until(), shown.reason()), (Some(day), Some(told)));

    coordinator.seal_liver().await;
    let run = coordinator.until_of(&liver(), |run, _| run.rounds_committed == 1).await;
    assert_eq!(coordinator.values(&run.model), [9.0, -9.0]);
    assert_eq!(coordinator.handle.run(&brain()).unwrap().rounds_committed, 0);

    fs::remove_dir(&path).unwrap();
    coordinator.put("kyoto", 4.0);
    coordinator.clock.advance(Duration::from_secs(5));
    let run = coordinator.until_committed(1).await;
    assert_eq!(coordinator.values(&run.model), [4.0, -4.0]);
    let over = coordinator.handle.round(&round(1, 1)).await.unwrap();
    assert_eq!((over.until(), over.reason()), (None, None));
}

#[tokio::test]
async fn an_average_that_does_not_end_is_waited_for_until_its_day_has_passed() {
    let coordinator = Coordinator::start(1).await;
    let silent = coordinator.seal_brain(Silent::new).await;
    let end = silent.taken().await;
    coordinator.turn().await;
    coordinator.clock.advance(Duration::from_secs(24 * 3_600 - 1));
    coordinator.turn().await;
    // It ends after all, and finds no byte. Had it been let go of, the next one would find no file.
    drop(end);
    coordinator.until(|_, round| round.id.attempt == 2).await;
    let over = coordinator.handle.round(&round(1, 1)).await.unwrap();
    let Phase::Abandoned { reason } = over.phase else { panic!("{over:?}") };
    let told = reason.to_string();
    assert!(told.contains("site kyoto") && told.contains("has changed on the disk"), "{told}");
}

#[tokio::test]
async fn an_average_that_does_not_end_is_let_go_of_and_the_other_runs_get_theirs() {
    for by_operator in [false, true] {
        let coordinator = Coordinator::start(1).await;
        let silent = coordinator.seal_brain(Silent::new).await;
        let begun = |_: &RunView, round: &RoundView| {
            round.average.as_ref().is_some_and(|average| average.since.is_some())
        };
        let (_, view) = coordinator.until(begun).await;
        assert_eq!(view.reason(), None, "it is in the making");
        coordinator.seal_liver().await;
        let in_line = "its average waits for its turn";
        let waits = |_: &RunView, round: &RoundView| round.reason().as_deref() == Some(in_line);
        coordinator.until_of(&liver(), waits).await;
        if by_operator {
            let handle = &coordinator.handle;
            handle.abandon_round(&ada(), &round(1, 1), "it hangs").await.unwrap();
            coordinator.until(|_, round| round.id.attempt == 2).await;
            coordinator.clock.advance(Duration::from_secs(600));
        } else {
            coordinator.clock.advance(Duration::from_secs(24 * 3_600));
        }
        let run = coordinator.until_of(&liver(), |run, _| run.rounds_committed == 1).await;
        assert_eq!(coordinator.values(&run.model), [9.0, -9.0]);
        let over = coordinator.handle.round(&round(1, 1)).await.unwrap();
        let Phase::Abandoned { reason } = over.phase else { panic!("{over:?}") };
        let told = "24 hours were not enough: it has not ended".to_owned();
        let late = Abandonment::NoAverageInTime { reason: told };
        let given_up = Abandonment::ByOperator { reason: "it hangs".to_owned() };
        assert_eq!(reason, if by_operator { given_up } else { late });
        drop(silent);
    }
}

#[tokio::test]
async fn the_day_of_an_average_goes_on_over_every_restart_and_ends_where_it_did() {
    let mut coordinator = Coordinator::start(1).await;
    let broken = |path: PathBuf| {
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
    };
    coordinator.seal_brain(broken).await;
    let day = Timestamp::from_second(24 * 3_600).unwrap();
    for _ in 0..3 {
        let (_, view) = coordinator.until(|_, round| round.reason().is_some()).await;
        assert_eq!((&view.phase, view.until()), (&Phase::Aggregating, Some(day)));
        coordinator.clock.advance(Duration::from_secs(7 * 3_600));
        coordinator = coordinator.restart().await;
    }
    coordinator.clock.advance(Duration::from_secs(3 * 3_600));
    coordinator.until(|_, round| round.id.attempt == 2).await;
    let over = coordinator.handle.round(&round(1, 1)).await.unwrap();
    let Phase::Abandoned { reason } = over.phase else { panic!("{over:?}") };
    assert!(matches!(reason, Abandonment::NoAverageInTime { .. }), "{reason}");
}
