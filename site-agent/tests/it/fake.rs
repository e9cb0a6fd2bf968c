//! A coordinator that is made up: one round at a time, every word of the agent written down.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use fedpaint_proto::limits::RETRY_AFTER_MIN;
use fedpaint_proto::names::Blob;
use fedpaint_proto::reason::Reason;
use fedpaint_proto::v1::blob_service_server::{BlobService, BlobServiceServer};
use fedpaint_proto::v1::federation_service_server::{FederationService, FederationServiceServer};
use fedpaint_proto::v1::heartbeat_request::Activity;
use fedpaint_proto::v1::heartbeat_response::Directive;
use fedpaint_proto::v1::upload_request::Part;
use fedpaint_proto::v1::*;
use tokio::sync::{Notify, mpsc};
use tonic::codegen::tokio_stream::Stream;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::site::blob;

/// Less than a model, so that an upload stalls when nobody reads it.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;

/// What the coordinator knows and wants.
#[derive(Default)]
pub(crate) struct State {
    /// The plan of the run.
    pub(crate) plan: String,
    /// The plan that it shows once the agent has joined a round, if that is another.
    pub(crate) plan_once_joined: Option<String>,
    /// The base model.
    pub(crate) base: Vec<u8>,
    /// The round that is held, if one is; a withdrawal begins the next attempt.
    pub(crate) round: Option<RoundRef>,
    /// The answer to the next submission, if it is a refusal.
    pub(crate) refusal: Option<Reason>,
    /// How many more are answered so.
    pub(crate) refusals_more: u32,
    /// All that the agent said, without repetition.
    pub(crate) said: Vec<Activity>,
    /// The updates submitted.
    pub(crate) submitted: Vec<SubmitUpdateRequest>,
    /// Heartbeats heard.
    pub(crate) beats: u64,
    /// How many more heartbeats are answered as by a full database.
    pub(crate) beats_put_off: u32,
    /// Whether other sites are waited for.
    pub(crate) selects: bool,
    /// How many more downloads break at once.
    pub(crate) downloads_broken: u32,
    /// Whether downloads are left hanging in their middle.
    pub(crate) downloads_stall: bool,
    /// Downloads begun.
    pub(crate) downloads: u64,
    /// Downloads that were left hanging and that the agent let go of.
    pub(crate) downloads_left: u64,
    /// Uploads begun.
    pub(crate) uploads: u64,
    /// Whether uploads are left hanging.
    pub(crate) uploads_stall: bool,
    /// Whether uploads are cut, those that were left hanging when they may go on.
    pub(crate) uploads_cut: bool,
    /// The connections by which models have moved.
    pub(crate) carriers: BTreeSet<SocketAddr>,
    /// Those by which heartbeats and submissions have come.
    pub(crate) callers: BTreeSet<SocketAddr>,
    /// How many sites it says are in the round.
    pub(crate) cohort: u32,
    /// Whether it is of before a site could look at what it would be asked to train.
    pub(crate) shows_nothing: bool,
    /// What the agent declined last; a round among them is not offered.
    pub(crate) declined: Vec<Declined>,
    /// How many submissions are taken and their answers lost.
    pub(crate) answers_lost: u32,
    /// Whether a submission is answered at the same moment as a heartbeat from before it, and the next round
    /// is held then.
    pub(crate) answers_together: bool,
    /// Whether a heartbeat waits for that.
    beat_waits: bool,
    /// Whether a submission is answered only once the agent has heard that its round is over.
    pub(crate) answers_last: bool,
    /// The round that is held once the one that is held has its update.
    pub(crate) next: Option<RoundRef>,
    /// Submissions whose answer was waited for.
    pub(crate) answered: u32,
    /// What the model of each version is made of; without any the coordinator signs nothing.
    pub(crate) manifests: Vec<ModelManifest>,
    /// Whether who asks for one is left waiting.
    pub(crate) manifests_stall: bool,
    /// The versions that were asked for.
    pub(crate) manifests_asked: Vec<u32>,
    blobs: HashMap<Vec<u8>, Vec<u8>>,
}

/// The coordinator.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    /// A submission is answered for which a heartbeat waits.
    together: Arc<Notify>,
    /// Where it is reached.
    url: String,
}

/// Attempt `attempt` at round `number`.
pub(crate) fn round(number: u32, attempt: u32) -> RoundRef {
    RoundRef { run: "brain".into(), number, attempt }
}

impl Fake {
    /// A coordinator that holds round 1 with this plan and base model, and a channel to it.
    pub(crate) async fn start(plan: &str, base: Vec<u8>) -> (Fake, Channel) {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}", incoming.local_addr().unwrap());
        let fake = Fake { url, ..Fake::default() };
        {
            let mut state = fake.state();
            state.plan = plan.into();
            state.base = base;
            state.round = Some(round(1, 1));
        }
        // As with the true one, a stream that nobody reads leaves the connection room for others.
        let server = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(4 * STREAM_WINDOW_BYTES)
            .add_service(FederationServiceServer::new(fake.clone()))
            .add_service(BlobServiceServer::new(fake.clone()))
            .serve_with_incoming(incoming);
        tokio::spawn(server);
        let channel = fake.connect();
        (fake, channel)
    }

    /// A connection of its own.
    pub(crate) fn connect(&self) -> Channel {
        Endpoint::from_shared(self.url.clone()).unwrap().connect_lazy()
    }

    /// Reads the uploads that were left hanging.
    pub(crate) fn go_on(&self) {
        self.state().uploads_stall = false;
        self.changed.notify_waiters();
    }

    /// The state, to look at or to change.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Takes a submission; whether it is answered last, and how many heartbeats there were before.
    fn take(&self, submission: SubmitUpdateRequest) -> Result<(bool, u64), Status> {
        let mut state = self.state();
        if let Some(reason) = state.refusal {
            match state.refusals_more.checked_sub(1) {
                Some(more) => state.refusals_more = more,
                None => state.refusal = None,
            }
            return Err(reason.status("made up"));
        }
        let is_of_this_round = submission.round == state.round;
        state.submitted.push(submission);
        self.changed.notify_waiters();
        if state.answers_lost > 0 {
            state.answers_lost -= 1;
            return Err(Status::unavailable("the connection broke"));
        }
        if std::mem::take(&mut state.beat_waits) {
            state.round = state.round.take().map(|held| round(held.number + 1, 1));
            self.together.notify_one();
        } else if is_of_this_round {
            state.round = state.next.take();
        }
        Ok((state.answers_last, state.beats))
    }

    /// What is said to an agent that does this.
    fn answer(&self, activity: Activity, declined: Vec<Declined>) -> HeartbeatResponse {
        let mut state = self.state();
        state.declined = declined;
        let is_declined = state.declined.iter().any(|declined| declined.round == state.round);
        state.beats += 1;
        if state.said.last() != Some(&activity) {
            state.said.push(activity.clone());
        }
        if let Activity::Withdrawing(Withdrawing { round, .. }) = &activity
            && *round == state.round
            && let Some(round) = &mut state.round
        {
            round.attempt += 1;
        }
        let directive = match (&state.round, activity) {
            (None, _) => Directive::Rest(Rest {}),
            (Some(_), Activity::Idle(_)) if is_declined => Directive::Rest(Rest {}),
            (Some(_), Activity::Joining(_)) if state.selects => Directive::Rest(Rest {}),
            (Some(round), Activity::Idle(_) | Activity::Withdrawing(_)) => {
                let (round, base_model) = (Some(round.clone()), Some(blob(&state.base).into()));
                Directive::Join(Join { round, until: None, base_model })
            }
            (Some(round), _) => Directive::Train(Train {
                round: Some(round.clone()),
                base_model: Some(blob(&state.base).into()),
                until: None,
                cohort: state.cohort,
            }),
        };
        self.changed.notify_waiters();
        let next_after = Some(std::time::Duration::from_millis(30).try_into().unwrap());
        // What a coordinator from before versions says.
        let old = HeartbeatResponse::default();
        let directive = Some(directive);
        HeartbeatResponse { next_after, directive, ..old }
    }

    /// Whether a heartbeat is not answered for want of room.
    fn puts_off(&self) -> bool {
        let mut state = self.state();
        let puts_off = state.beats_put_off > 0;
        state.beats_put_off = state.beats_put_off.saturating_sub(1);
        puts_off
    }

    /// Waits until something holds.
    pub(crate) async fn until(&self, holds: impl Fn(&State) -> bool) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if holds(&self.state()) {
                    return;
                }
                changed.await;
            }
        };
        let limit = std::time::Duration::from_secs(60);
        tokio::time::timeout(limit, wait).await.expect("the agent did not come that far");
    }

    /// Waits until the agent has withdrawn from an attempt, and says why.
    pub(crate) async fn withdrawal(&self, from: RoundRef) -> WithdrawalReason {
        let of = |state: &State| {
            state.said.iter().find_map(|said| match said {
                Activity::Withdrawing(w) if w.round.as_ref() == Some(&from) => Some(w.reason()),
                _ => None,
            })
        };
        self.until(|state| of(state).is_some()).await;
        of(&self.state()).unwrap()
    }

    /// The bytes of an update that was uploaded.
    pub(crate) fn update(&self, submission: &SubmitUpdateRequest) -> Vec<u8> {
        self.state().blobs[&submission.weights.as_ref().unwrap().digest].clone()
    }
}

/// Whether the agent has told of a step of this round.
pub(crate) fn has_stepped(state: &State, round: &RoundRef) -> bool {
    state.said.iter().any(|said| match said {
        Activity::Training(t) => {
            t.round.as_ref() == Some(round) && t.progress.is_some_and(|p| p.step > 0)
        }
        _ => false,
    })
}

#[tonic::async_trait]
impl FederationService for Fake {
    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        self.state().callers.extend(request.remote_addr());
        let HeartbeatRequest { activity, declined, .. } = request.into_inner();
        let activity = activity.unwrap();
        let uploads = matches!(activity, Activity::Uploading(_));
        let answer = self.answer(activity, declined);
        if self.puts_off() {
            return Err(Reason::Storage.status_after("the database is full", RETRY_AFTER_MIN));
        }
        if uploads && self.state().answers_together {
            self.state().beat_waits = true;
            self.changed.notify_waiters();
            self.together.notified().await;
        }
        Ok(Response::new(answer))
    }

    async fn preview_work(
        &self,
        _: Request<PreviewWorkRequest>,
    ) -> Result<Response<PreviewWorkResponse>, Status> {
        let state = self.state();
        if state.shows_nothing {
            return Err(Status::unimplemented("there is no such method"));
        }
        let open = |round: &RoundRef| OpenRound {
            round: Some(round.clone()),
            base_model: Some(blob(&state.base).into()),
            cohort: state.cohort,
        };
        let rounds = state.round.iter().map(open).collect();
        Ok(Response::new(PreviewWorkResponse { rounds }))
    }

    async fn get_run_plan(
        &self,
        _: Request<GetRunPlanRequest>,
    ) -> Result<Response<GetRunPlanResponse>, Status> {
        let state = self.state();
        let joined = state.said.iter().any(|said| matches!(said, Activity::Joining(_)));
        let changed = state.plan_once_joined.as_ref().filter(|_| joined);
        let plan_toml = changed.unwrap_or(&state.plan).clone();
        Ok(Response::new(GetRunPlanResponse { plan_toml, plan_signature: None }))
    }

    async fn submit_update(
        &self,
        request: Request<SubmitUpdateRequest>,
    ) -> Result<Response<SubmitUpdateResponse>, Status> {
        self.state().callers.extend(request.remote_addr());
        if self.state().answers_together {
            self.until(|state| state.beat_waits).await;
        }
        let (answers_last, beats) = self.take(request.into_inner())?;
        if answers_last {
            // The second one shows that it has heard the answer to the first.
            self.until(|state| state.beats > beats + 1).await;
        }
        self.state().answered += 1;
        self.changed.notify_waiters();
        Ok(Response::new(SubmitUpdateResponse { receipt: None }))
    }
}

#[tonic::async_trait]
impl BlobService for Fake {
    async fn get_manifest(
        &self,
        request: Request<GetManifestRequest>,
    ) -> Result<Response<GetManifestResponse>, Status> {
        let version = request.into_inner().version;
        let (stalls, manifest) = {
            let mut state = self.state();
            state.manifests_asked.push(version);
            (state.manifests_stall, state.manifests.get(version as usize).cloned())
        };
        if stalls {
            std::future::pending::<()>().await;
        }
        let unsigned = || Status::unimplemented("the made-up coordinator signs nothing");
        let manifest = Some(manifest.ok_or_else(unsigned)?);
        Ok(Response::new(GetManifestResponse { manifest }))
    }

    type DownloadStream = Pin<Box<dyn Stream<Item = Result<DownloadResponse, Status>> + Send>>;

    async fn get_upload_status(
        &self,
        request: Request<GetUploadStatusRequest>,
    ) -> Result<Response<GetUploadStatusResponse>, Status> {
        let blob = Blob::try_from(&request.into_inner().blob.unwrap()).unwrap();
        let complete = self.state().blobs.contains_key(blob.digest.as_bytes().as_slice());
        let committed_size = if complete { blob.size } else { 0 };
        Ok(Response::new(GetUploadStatusResponse { committed_size, complete }))
    }

    async fn upload(
        &self,
        request: Request<Streaming<UploadRequest>>,
    ) -> Result<Response<UploadResponse>, Status> {
        self.state().carriers.extend(request.remote_addr());
        let stalls = {
            let mut state = self.state();
            state.uploads += 1;
            state.uploads_stall
        };
        if stalls {
            self.until(|state| !state.uploads_stall).await;
        }
        if self.state().uploads_cut {
            return Err(Status::unavailable("the certificate has expired"));
        }
        let mut parts = request.into_inner();
        let mut bytes = Vec::new();
        while let Some(UploadRequest { part }) = parts.message().await? {
            if let Some(Part::Data(data)) = part {
                bytes.extend_from_slice(&data);
            }
        }
        let committed_size = bytes.len() as u64;
        self.state().blobs.insert(blob(&bytes).digest.as_bytes().to_vec(), bytes);
        Ok(Response::new(UploadResponse { committed_size }))
    }

    async fn download(
        &self,
        request: Request<DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        self.state().carriers.extend(request.remote_addr());
        let (mut rest, stalls) = {
            let mut state = self.state();
            state.downloads += 1;
            if state.downloads_broken > 0 {
                state.downloads_broken -= 1;
                return Err(Reason::BlobUnknown.status("made up"));
            }
            let rest = state.base[request.into_inner().offset as usize..].to_vec();
            (rest, state.downloads_stall)
        };
        if stalls {
            rest.truncate(rest.len() / 2);
        }
        let (parts, stream) = mpsc::channel(1);
        let part = DownloadResponse { data: rest.into() };
        parts.try_send(Ok(part)).map_err(|_| Status::internal("there is room for one"))?;
        if stalls {
            let fake = self.clone();
            tokio::spawn(async move {
                parts.closed().await;
                fake.state().downloads_left += 1;
                fake.changed.notify_waiters();
            });
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}
