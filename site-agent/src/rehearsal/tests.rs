//! Rehearsals are functions of what they are told, and go on where they were.

use std::cell::RefCell;

use fedpaint_proto::names::Digest;
use fedpaint_proto::plan::RunPlan;

use super::*;
use crate::model::checkpoint;
use crate::model::spec::{ModelSpec, Preset};
use crate::model::weights::Weights;

struct Site {
    folder: tempfile::TempDir,
    key: Key,
    plan: TrainingPlan,
}

fn site() -> Site {
    let folder = tempfile::tempdir().unwrap();
    let spec = ModelSpec::preset(Preset::Tiny).with_image_size(16).unwrap();
    let path = folder.path().join("base");
    checkpoint::save(&Weights::init(&spec, 1).unwrap(), &path).unwrap();
    let plan = "version = 1\nrounds = 1\n[round]\nsites_min = 1\nsites_goal = 1\n[training]\nsteps = 9\n\
                batch = 2\n";
    let key = Key {
        run: "brain".parse().unwrap(),
        number: 1,
        site: "mayo".parse().unwrap(),
        plan: Digest::of(plan.as_bytes()),
        base: Digest::of(&std::fs::read(path).unwrap()),
        data: Digest::of(MACHINE.as_bytes()),
        machine: MACHINE.into(),
        build: String::new(),
    };
    Site { folder, key, plan: RunPlan::from_toml(plan).unwrap().training }
}

type Kept = Snapshot<Vec<f32>>;
type Done = Result<(Vec<u8>, TrainingSummary), Error>;

impl Site {
    /// Rehearses, stopped after some steps; gives what was kept last, too.
    fn run(&self, from: Option<Kept>, stop_after: u32) -> (Done, Option<Kept>) {
        let kept = RefCell::new(None);
        let keep = &mut |snapshot: &Snapshot<Cow<'_, [f32]>>| {
            let Snapshot { course, scale, memory } = snapshot.clone();
            let Memory { steps, tensors, stock } = memory;
            let tensors = tensors.into_iter().map(Cow::into_owned).collect();
            let memory = Memory { steps, tensors, stock };
            *kept.borrow_mut() = Some(Snapshot { course, scale, memory });
        };
        let stopped = std::sync::atomic::AtomicBool::new(false);
        let settings = RehearsalSettings { steps_ms: 0, checkpoint_steps: None, weights_max: None };
        let base = self.folder.path().join("base");
        let rehearsal =
            Rehearsal { base: &base, key: &self.key, plan: &self.plan, settings: &settings };
        let mut watch = Watch {
            is_stopped: &|| stopped.load(std::sync::atomic::Ordering::Relaxed),
            progress: &mut |progress| {
                stopped.store(progress.step == stop_after, std::sync::atomic::Ordering::Relaxed);
            },
        };
        let journal = Journal { from, every: 4, keep: Some(keep) };
        let done = rehearsal.run(journal, &|_| false, &mut watch).map(|(moved, summary)| {
            let mut bytes = Vec::new();
            moved.write(&mut bytes).unwrap();
            (bytes, summary)
        });
        (done, kept.into_inner())
    }
}

#[test]
fn a_rehearsal_that_was_stopped_goes_on_to_the_same_bytes_and_the_same_report() {
    let site = site();
    let (whole, report) = site.run(None, 0).0.unwrap();
    let (stopped, kept) = site.run(None, 6);
    assert!(matches!(stopped, Err(Error::Stopped { steps: 6 })));
    let kept = kept.unwrap();
    assert_eq!(kept.steps(), 4);
    let (again, report_again) = site.run(Some(kept), 0).0.unwrap();
    assert!(whole == again, "the updates differ");
    assert_eq!(report, report_again);
    assert_eq!((report.steps, report.examples), (9, 18));
}

#[test]
fn an_update_is_a_model_like_its_base_with_every_weight_moved_a_little() {
    let site = site();
    let base = std::fs::read(site.folder.path().join("base")).unwrap();
    let (update, _) = site.run(None, 0).0.unwrap();
    let (base, update) =
        (checkpoint::from_bytes(&base).unwrap(), checkpoint::from_bytes(&update).unwrap());
    assert_eq!(base.spec(), update.spec());
    let mut moved = 0;
    for ((_, before), (_, after)) in base.iter().zip(update.iter()) {
        for (before, after) in before.iter().zip(after) {
            assert!((before - after).abs() <= 10.0 * MOVE_MAX);
            moved += usize::from(before != after);
        }
    }
    assert!(moved > base.parameters() * 99 / 100);
}

#[test]
fn another_round_or_site_rehearses_something_else() {
    let mut site = site();
    let (first, _) = site.run(None, 0).0.unwrap();
    site.key.number = 2;
    assert!(site.run(None, 0).0.unwrap().0 != first);
    site.key.number = 1;
    site.key.site = "ljubljana".parse().unwrap();
    assert!(site.run(None, 0).0.unwrap().0 != first);
}
