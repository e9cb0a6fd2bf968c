//! Updates that travel in fewer bits: what they leave out stays at the site, and is in one later update.

use fedpaint_proto::names::{Blob, Digest};
use fedpaint_proto::plan::RunPlan;
use fedpaint_proto::reason::Reason;
use fedpaint_proto::v1::SubmitUpdateRequest;
use fedpaint_proto::weights::{ModelFile, Update};
use fedpaint_site_agent::workspace::Workspace;
use tempfile::TempDir;

use crate::agent::Site;
use crate::fake::{Fake, round};
use crate::site::{PLAN, model};

fn plan() -> String {
    format!("{PLAN}[exchange]\nencoding = \"int8\"\n")
}

/// What a site would make the update of round `number` with.
fn carried(folder: &TempDir, number: u32) -> Option<Blob> {
    let workspace = Workspace::open(folder.path()).unwrap();
    let plan = Digest::of(plan().as_bytes());
    workspace.carried(&"brain".parse().unwrap(), number, plan).unwrap()
}

fn round_of(submission: &SubmitUpdateRequest) -> u32 {
    submission.round.as_ref().unwrap().number
}

/// Has a site train round `number`, until the coordinator has taken its update.
async fn trained(
    fake: &Fake,
    channel: &tonic::transport::Channel,
    folder: TempDir,
    number: u32,
) -> (TempDir, SubmitUpdateRequest) {
    fake.state().round = Some(round(number, 1));
    let site = Site::start_in(folder, channel.clone());
    let is_it = |submission: &&SubmitUpdateRequest| round_of(submission) == number;
    fake.until(|state| state.submitted.iter().any(|s| is_it(&s)) && state.round.is_none()).await;
    let submission = fake.state().submitted.iter().rfind(is_it).unwrap().clone();
    (site.stop().await, submission)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_in_the_plans_form_a_quarter_as_long_and_the_next_is_made_with_what_it_left_out()
 {
    let (fake, channel) = Fake::start(&plan(), model()).await;
    let folder = tempfile::tempdir().unwrap();
    let (folder, first) = trained(&fake, &channel, folder, 1).await;
    let bytes = fake.update(&first);
    assert!((bytes.len() as f64) < 0.27 * model().len() as f64, "{}", bytes.len());
    let path = folder.path().join("sent");
    std::fs::write(&path, bytes).unwrap();
    std::fs::write(folder.path().join("base"), model()).unwrap();
    let base = ModelFile::open(&folder.path().join("base")).unwrap();
    let form = RunPlan::from_toml(&plan()).unwrap().exchange;
    assert_eq!(Update::open(&path).unwrap().matches(&base, form), Ok(()));

    // The same base model, so that another site which has left nothing out differs by that alone.
    let (folder, second) = trained(&fake, &channel, folder, 2).await;
    let (other, fresh) = trained(&fake, &channel, tempfile::tempdir().unwrap(), 2).await;
    assert_ne!(second.weights, fresh.weights);
    // And the round once more is the same once more, for either.
    let (_, again) = trained(&fake, &channel, folder, 2).await;
    assert_eq!(again.weights, second.weights);
    let (_, again) = trained(&fake, &channel, other, 2).await;
    assert_eq!(again.weights, fresh.weights);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_never_heard_whether_its_update_was_taken_asks_before_it_trains_on() {
    for taken in [true, false] {
        let (fake, channel) = Fake::start(&plan(), model()).await;
        fake.state().answers_lost = u32::MAX;
        let site = Site::start_in(tempfile::tempdir().unwrap(), channel.clone());
        fake.until(|state| !state.submitted.is_empty()).await;
        // It ends in doubt, and what is left out does not count yet.
        let folder = site.stop().await;
        assert_eq!(carried(&folder, 2), None);

        let asked = {
            let mut state = fake.state();
            state.answers_lost = 0;
            state.refusal = (!taken).then_some(Reason::RoundOver);
            state.submitted.len()
        };
        let (_, second) = trained(&fake, &channel, folder, 2).await;
        let told: Vec<u32> = fake.state().submitted[asked..].iter().map(round_of).collect();
        assert_eq!(told, if taken { vec![1, 2] } else { vec![2] }, "the refused one is not kept");
        let (_, fresh) = trained(&fake, &channel, tempfile::tempdir().unwrap(), 2).await;
        assert_eq!(second.weights != fresh.weights, taken);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_whose_answer_comes_after_the_next_round_is_told_counts_and_is_not_submitted_again()
 {
    let (fake, channel) = Fake::start(&plan(), model()).await;
    {
        let mut state = fake.state();
        state.answers_last = true;
        state.next = Some(round(2, 1));
    }
    let site = Site::start_in(tempfile::tempdir().unwrap(), channel);
    fake.until(|state| state.answered == 2).await;
    let folder = site.stop().await;
    let told: Vec<u32> = fake.state().submitted.iter().map(round_of).collect();
    assert_eq!(told, [1, 2]);
    assert!(carried(&folder, 2).is_some(), "of the first");
}
