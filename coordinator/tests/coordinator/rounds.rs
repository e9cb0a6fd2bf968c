//! Whole rounds with hand-made sites, through every service.

use std::collections::BTreeMap;
use std::sync::Arc;

use fedpaint_coordinator::clock::SystemClock;
use fedpaint_proto::names::Digest;
use fedpaint_proto::reason::Reason;
use fedpaint_proto::v1::heartbeat_request::Activity;
use fedpaint_proto::v1::heartbeat_response::Directive;
use fedpaint_proto::v1::{
    BlobRef, CreateRunRequest, GetRoundRequest, GetRunPlanRequest, GetStatusRequest,
    HeartbeatRequest, Idle, InitialModel, Joining, ListEventsRequest, ListModelsRequest,
    ListRoundsRequest, MemberState, PauseRunRequest, PlanSignature, RoundPhase, RoundRef, RunState,
    SubmitUpdateRequest, Train, Training, TrainingProgress, TrainingReport, UploadPurpose,
    WatchRunRequest, upload_purpose,
};
use fedpaint_proto::weights::{Dtype, ModelFile, ModelWriter, TensorSpec};
use fedpaint_proto::wire::WIRE_VERSION;
use tonic::Status;

use crate::blobs::{download, upload};
use crate::federation::{Client, Federation};

/// A model of one tensor.
pub(crate) fn model(values: &[f32]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let spec = TensorSpec { name: "w".into(), dtype: Dtype::F32, shape: vec![values.len()] };
    let mut writer = ModelWriter::create(&path, vec![spec], &BTreeMap::new()).unwrap();
    writer.write(values).unwrap();
    writer.finish().unwrap();
    std::fs::read(path).unwrap()
}

pub(crate) fn values(bytes: &[u8]) -> Vec<f32> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, bytes).unwrap();
    ModelFile::open(&path).unwrap().read(0).unwrap()
}

pub(crate) fn initial() -> UploadPurpose {
    let purpose = upload_purpose::Purpose::InitialModel(InitialModel {});
    UploadPurpose { purpose: Some(purpose) }
}

pub(crate) fn update(round: &RoundRef) -> UploadPurpose {
    UploadPurpose { purpose: Some(upload_purpose::Purpose::Update(round.clone())) }
}

pub(crate) fn blob(bytes: &[u8]) -> BlobRef {
    BlobRef { digest: Digest::of(bytes).as_bytes().to_vec(), size: bytes.len() as u64 }
}

/// Creates the run `t1` of two rounds from the model of `values`.
pub(crate) async fn create_run(operator: &mut Client, values: &[f32]) -> Vec<u8> {
    create_run_by(operator, values, "").await
}

/// The same with more said of its rounds.
pub(crate) async fn create_run_by(operator: &mut Client, values: &[f32], more: &str) -> Vec<u8> {
    let bytes = model(values);
    upload(operator, initial(), &bytes).await.unwrap();
    let round = "[round]\nsites_min = 2\nsites_goal = 2\n";
    let plan_toml = format!("version = 1\nrounds = 2\n{round}{more}");
    let initial_model = Some(blob(&bytes));
    let name = "t1".into();
    let request = CreateRunRequest { name, plan_toml, initial_model, plan_signature: None };
    let run = operator.admin.create_run(request).await.unwrap().into_inner().run.unwrap();
    assert_eq!(run.state(), RunState::Active);
    bytes
}

/// The model of `values`, which was uploaded, as trained from the base model.
pub(crate) fn submission(train: &Train, values: &[f32], examples: u64) -> SubmitUpdateRequest {
    let report = TrainingReport { steps: 7, loss_mean: 0.5, ..TrainingReport::default() };
    SubmitUpdateRequest {
        round: train.round.clone(),
        base_model_digest: train.base_model.clone().unwrap().digest,
        weights: Some(blob(&model(values))),
        examples,
        report: Some(report),
        signature: None,
    }
}

impl Client {
    /// Says `activity` and hears what to do.
    async fn ask(&mut self, activity: Activity) -> Directive {
        let activity = Some(activity);
        let agent_version = "0.1.0".into();
        let request = HeartbeatRequest {
            agent_version,
            activity,
            wire_version: WIRE_VERSION,
            ..HeartbeatRequest::default()
        };
        let answer = self.federation.heartbeat(request).await.unwrap().into_inner();
        assert_eq!(answer.next_after.unwrap().nanos, 50_000_000);
        answer.directive.unwrap()
    }

    /// Joins the round that is looking for sites.
    pub(crate) async fn join(&mut self) -> RoundRef {
        let Directive::Join(join) = self.ask(Activity::Idle(Idle {})).await else {
            panic!("no round is looking for sites")
        };
        assert!(join.until.is_some());
        self.ask(Activity::Joining(Joining { round: join.round.clone() })).await;
        join.round.unwrap()
    }

    /// Joins a round, if one is looking for sites.
    pub(crate) async fn join_if_asked(&mut self) -> Option<RoundRef> {
        let Directive::Join(join) = self.ask(Activity::Idle(Idle {})).await else { return None };
        self.ask(Activity::Joining(Joining { round: join.round.clone() })).await;
        join.round
    }

    /// What to train, once a round has begun.
    pub(crate) async fn train(&mut self) -> Train {
        match self.ask(Activity::Idle(Idle {})).await {
            Directive::Train(train) => train,
            other => panic!("nothing to train: {other:?}"),
        }
    }

    /// Uploads the model of `values` and submits it as trained from the base model.
    pub(crate) async fn report(
        &mut self,
        train: &Train,
        values: &[f32],
        examples: u64,
    ) -> Result<(), Status> {
        upload(self, update(train.round.as_ref().unwrap()), &model(values)).await?;
        self.submit(train, values, examples).await
    }

    /// Submits the model of `values`, which was uploaded.
    async fn submit(&mut self, train: &Train, values: &[f32], examples: u64) -> Result<(), Status> {
        self.federation.submit_update(submission(train, values, examples)).await.map(drop)
    }
}

#[tokio::test]
async fn a_run_of_two_rounds_publishes_the_weighted_mean_of_each() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let mut sites = [federation.site("a").await, federation.site("b").await];
    let base = create_run(&mut operator, &[1.0, 2.0]).await;

    let watch = WatchRunRequest { name: "t1".into() };
    let mut watch = operator.admin.watch_run(watch).await.unwrap().into_inner();
    let mut expected = vec![base];
    for (number, means) in [(1, [2.5, 3.5]), (2, [7.0, 7.0])] {
        for site in &mut sites {
            assert_eq!(site.join().await.number, number);
        }
        let train = [sites[0].train().await, sites[1].train().await];
        let plan = GetRunPlanRequest { run: "t1".into() };
        let plan = sites[0].federation.get_run_plan(plan).await.unwrap().into_inner();
        assert!(plan.plan_toml.contains("sites_goal = 2"));
        let digest = &train[0].base_model.as_ref().unwrap().digest;
        assert_eq!(&download(&mut sites[1], digest, 0).await.unwrap(), expected.last().unwrap());

        let progress = Some(TrainingProgress { step: 3, steps: 7, loss: Some(0.25) });
        let round = train[0].round.clone();
        sites[0].ask(Activity::Training(Training { round, progress })).await;
        let view = GetRoundRequest { run: "t1".into(), number, attempt: 0 };
        let view = operator.admin.get_round(view).await.unwrap().into_inner().round.unwrap();
        assert_eq!((view.phase(), view.members.len()), (RoundPhase::Reporting, 2));
        assert_eq!((&*view.members[0].site, view.members[0].progress), ("a", progress));

        // 3 examples to 1: the mean is a quarter of the way from a to b.
        let (a, b) = if number == 1 { ([2.0, 3.0], [4.0, 5.0]) } else { ([7.0; 2], [7.0; 2]) };
        sites[0].report(&train[0], &a, 30).await.unwrap();
        // The answer may have been lost: saying it again is no error.
        sites[0].submit(&train[0], &a, 30).await.unwrap();
        sites[1].report(&train[1], &b, 10).await.unwrap();
        let made = loop {
            let seen = watch.message().await.unwrap().unwrap();
            let round = seen.round.unwrap_or_default();
            let is_it = round.r#ref.as_ref().is_some_and(|r| r.number == number);
            if is_it && round.phase() == RoundPhase::Committed {
                break round.model.unwrap();
            }
        };
        let bytes = download(&mut operator, &made.digest, 0).await.unwrap();
        assert_eq!(values(&bytes), means);
        expected.push(bytes);
    }

    // The run is over: the stream ends, and everything can be read afterwards.
    while watch.message().await.unwrap().is_some() {}
    let status = operator.admin.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((&*status.federation, status.sites.len()), ("brain", 2));
    assert_eq!(status.runs[0].state(), RunState::Finished);
    assert_eq!(status.runs[0].rounds_committed, 2);
    let rounds = ListRoundsRequest { run: "t1".into(), ..Default::default() };
    let rounds = operator.admin.list_rounds(rounds).await.unwrap().into_inner().rounds;
    assert_eq!(rounds.len(), 2);
    let before = ListRoundsRequest {
        run: "t1".into(),
        before_number: 2,
        before_attempt: 1,
        ..Default::default()
    };
    let older = operator.admin.list_rounds(before).await.unwrap().into_inner().rounds;
    assert_eq!(older, rounds[..1]);
    for member in rounds.iter().flat_map(|round| &round.members) {
        assert_eq!(member.state(), MemberState::Reported);
        assert_eq!(member.report.unwrap().steps, 7);
    }
    let models = ListModelsRequest { run: "t1".into(), ..Default::default() };
    let models = operator.admin.list_models(models).await.unwrap().into_inner().models;
    let digests: Vec<_> = models.iter().map(|m| m.blob.clone().unwrap().digest).collect();
    assert_eq!(digests, expected.iter().map(|bytes| blob(bytes).digest).collect::<Vec<_>>());
    let events = ListEventsRequest { after_seq: 0, limit: 0 };
    let events = operator.admin.list_events(events).await.unwrap().into_inner().events;
    assert!(events.iter().any(|event| event.actor == "operator/ada"));
    assert!(events.iter().any(|event| event.actor == "site/a"));
    let text = crate::access::metrics(&federation).await;
    for line in [
        "fedpaint_rounds_total{outcome=\"committed\"} 2",
        "fedpaint_aggregation_seconds_count 2",
        "fedpaint_run_state{run=\"t1\",state=\"finished\"} 1",
        "fedpaint_run_rounds_committed{run=\"t1\"} 2",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    federation.stop().await;
}

#[tokio::test]
async fn an_update_that_is_refused_says_why_and_the_site_may_send_another() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let mut sites = [federation.site("a").await, federation.site("b").await];
    create_run(&mut operator, &[1.0, 2.0]).await;
    for site in &mut sites {
        site.join().await;
    }
    let train = sites[0].train().await;
    let site = &mut sites[0];
    let wrong = Train { base_model: Some(blob(b"another model")), ..train.clone() };
    for (answer, reason) in [
        (site.report(&train, &[f32::NAN, 0.0], 1).await, Reason::NotFinite),
        (site.report(&train, &[1.0], 1).await, Reason::WrongShape),
        (site.report(&wrong, &[1.0, 2.0], 1).await, Reason::WrongBaseModel),
        (site.report(&train, &[1.0, 2.0], 0).await, Reason::WrongExamples),
    ] {
        let status = answer.unwrap_err();
        assert_eq!(Reason::of(&status), Some(reason), "{status:?}");
    }
    site.report(&train, &[1.0, 2.0], 1).await.unwrap();
    let text = crate::access::metrics(&federation).await;
    assert!(text.contains("fedpaint_updates_refused_total{reason=\"NOT_FINITE\"} 1"), "{text}");
    assert!(text.contains("fedpaint_updates_accepted_total 1"), "{text}");
    federation.stop().await;
}

#[tokio::test]
async fn a_request_whose_fields_do_not_parse_is_refused_by_the_name_of_the_field() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let mut site = federation.site("a").await;
    let run = CreateRunRequest {
        name: "t1".into(),
        plan_toml: "version = 1\nrounds = 0".into(),
        initial_model: Some(blob(b"x")),
        plan_signature: None,
    };
    let status = operator.admin.create_run(run.clone()).await.unwrap_err();
    assert_eq!(Reason::of(&status), Some(Reason::InvalidPlan));
    assert!(status.message().contains("rounds"), "{status:?}");
    let run = CreateRunRequest { plan_toml: "version = 1\nrounds = 1".into(), ..run };
    let nameless = CreateRunRequest { name: "T 1".into(), ..run.clone() };
    let missing = CreateRunRequest { initial_model: None, ..run.clone() };
    let short = Some(PlanSignature { key: vec![1; 31], signature: vec![2; 64] });
    let no_signature = CreateRunRequest { plan_signature: short, ..run.clone() };
    let forged = Some(PlanSignature { key: vec![1; 32], signature: vec![2; 64] });
    let forged = CreateRunRequest { plan_signature: forged, ..run };
    let status = operator.admin.create_run(forged).await.unwrap_err();
    assert_eq!(Reason::of(&status), Some(Reason::BadSignature), "{status:?}");
    for request in [nameless, missing, no_signature] {
        let status = operator.admin.create_run(request).await.unwrap_err();
        assert_eq!(Reason::of(&status), Some(Reason::InvalidRequest), "{status:?}");
    }
    let unknown = PauseRunRequest { name: "t9".into(), round: None };
    let status = operator.admin.pause_run(unknown).await.unwrap_err();
    assert_eq!(Reason::of(&status), Some(Reason::RunUnknown));
    let silent = HeartbeatRequest { agent_version: "0.1.0".into(), ..HeartbeatRequest::default() };
    let status = site.federation.heartbeat(silent).await.unwrap_err();
    assert_eq!(Reason::of(&status), Some(Reason::InvalidRequest));
    federation.stop().await;
}

#[tokio::test]
async fn a_coordinator_that_is_started_again_goes_on_with_the_round() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let mut sites = [federation.site("a").await, federation.site("b").await];
    create_run(&mut operator, &[1.0, 2.0]).await;
    for site in &mut sites {
        site.join().await;
    }
    let train = sites[0].train().await;
    sites[0].report(&train, &[3.0, 3.0], 1).await.unwrap();

    let (folder, authority) = federation.stop().await;
    let federation = Federation::start_in(folder, authority, Arc::new(SystemClock)).await;
    let mut site = federation.client("spiffe://brain/site/b").await;
    assert_eq!(site.train().await.round, train.round);
    let mut operator = federation.operator().await;
    let watch = WatchRunRequest { name: "t1".into() };
    let mut watch = operator.admin.watch_run(watch).await.unwrap().into_inner();
    site.report(&train, &[5.0, 5.0], 1).await.unwrap();
    loop {
        let run = watch.message().await.unwrap().unwrap().run.unwrap();
        if run.rounds_committed == 1 {
            let bytes = download(&mut operator, &run.model.unwrap().digest, 0).await.unwrap();
            assert_eq!(values(&bytes), [4.0, 4.0]);
            break;
        }
    }
    // A stop ends the streams that are open, and says so.
    federation.stop().await;
    let end = loop {
        match watch.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended as if the run had"),
            Err(status) => break status,
        }
    };
    assert_eq!(Reason::of(&end), Some(Reason::Draining), "{end:?}");
}
