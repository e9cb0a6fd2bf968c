//! A coordinator of one run for one site. It signs whatever it says, and does wrong in one way.

mod manifest;

use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fedpaint_coordinator::clock::{Clock, SystemClock};
use fedpaint_coordinator::evidence::Notary;
use fedpaint_coordinator::records::Log;
use fedpaint_proto::log::{self, Entry};
use fedpaint_proto::merkle::{Hash, Node, Part, consistency};
use fedpaint_proto::names::{Blob, Digest, RoundId};
use fedpaint_proto::plan::{PlanSigner, RunPlan};
use fedpaint_proto::signing::Authority;
use fedpaint_proto::v1::blob_service_server::{BlobService, BlobServiceServer};
use fedpaint_proto::v1::federation_service_server::{FederationService, FederationServiceServer};
use fedpaint_proto::v1::heartbeat_request::Activity;
use fedpaint_proto::v1::heartbeat_response::Directive;
use fedpaint_proto::v1::upload_request::Part as UploadPart;
use fedpaint_proto::v1::*;
use fedpaint_tests::lab::{FEDERATION, Lab};
use fedpaint_tests::models;
use jiff::{SignedDuration, Timestamp};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::attack::Attack;
use super::tls;

/// The bytes of a piece where there is no end of them.
const PIECE: usize = 32 << 10;

const RUN: &str = "brain";

/// The files of the key that the site trusts to sign plans, and of one that it does not.
pub(crate) const PLANNER: &str = "planner.key";
pub(crate) const STRANGER: &str = "stranger.key";

struct State {
    attack: Option<Attack>,
    notary: Notary,
    /// Who signs for a coordinator under a root that the site does not know.
    forger: Notary,
    /// Whose plans the site follows, and whose it does not.
    planner: PlanSigner,
    stranger: PlanSigner,
    log: Log,
    nodes: HashMap<Node, Hash>,
    /// The model of every version, and its bytes.
    models: Vec<(Blob, Vec<u8>)>,
    /// The round in hand.
    round: u32,
    /// The rounds for which an update was submitted.
    submitted: Vec<u32>,
    /// Why the site has given a round up, does not join it or believes nothing, in the words of the wire.
    told: Vec<String>,
    /// Whether the site has given the round up.
    withdrawn: bool,
    /// Bytes that were sent where there is no end of them.
    endless: u64,
}

/// The coordinator.
pub(crate) struct Hostile {
    address: String,
    state: Arc<Mutex<State>>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Hostile {
    /// Starts it, with the certificates of the lab's coordinator.
    ///
    /// # Errors
    /// If a file does not write, or no address is free.
    pub(crate) async fn start(
        lab: &Lab,
        folder: &Path,
        attack: Option<Attack>,
    ) -> anyhow::Result<Hostile> {
        std::fs::create_dir_all(folder)?;
        let authority = Authority::load(FEDERATION.parse()?, &lab.tls("main").ca)?;
        let forger = manifest::forger(&authority)?;
        let notary = Notary::new(authority, lab.signing("main").load()?, false);
        let mut all = Vec::new();
        for version in 0..4 {
            let file = folder.join(format!("{version}.safetensors"));
            let blob =
                models::write(&file, models::specs(), |t, i| (version * 100 + t * 10 + i) as f32)?;
            all.push((blob, std::fs::read(&file)?));
        }
        let mut state = State {
            attack,
            notary,
            forger,
            planner: PlanSigner::load(Path::new(&lab.path(PLANNER)))?,
            stranger: PlanSigner::load(Path::new(&lab.path(STRANGER)))?,
            log: Log::default(),
            nodes: HashMap::new(),
            models: all,
            round: 1,
            submitted: Vec::new(),
            told: Vec::new(),
            withdrawn: false,
            endless: 0,
        };
        for number in 0..20 {
            state.happened(&format!("site number-{number}"));
        }
        let state = Arc::new(Mutex::new(state));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("https://{}", listener.local_addr()?);
        let incoming = tls::accept(listener, lab.tls("main").server(Arc::new(|_| true))?);
        let services = Services { state: Arc::clone(&state) };
        let router = tonic::transport::Server::builder()
            .add_service(FederationServiceServer::new(services.clone()))
            .add_service(BlobServiceServer::new(services));
        let server = tokio::spawn(async move {
            // It ends with the trial.
            let _ = router.serve_with_incoming(incoming).await;
        });
        Ok(Hostile { address, state, server })
    }

    /// Where it is.
    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    /// For how many rounds an update was submitted.
    pub(crate) fn submitted(&self) -> u32 {
        lock(&self.state).submitted.len() as u32
    }

    /// Whether the site has told the coordinator of a reason or rule of this name.
    pub(crate) fn was_told(&self, name: &str) -> bool {
        lock(&self.state).told.iter().any(|told| told == name)
    }

    /// How many bytes the site has taken where there is no end of them.
    pub(crate) fn endless(&self) -> u64 {
        lock(&self.state).endless
    }

    /// The size of the largest model that it has, which it tells where it does not lie about that.
    pub(crate) fn model_bytes_max(&self) -> u64 {
        lock(&self.state).models.iter().map(|(blob, _)| blob.size).max().unwrap_or(0)
    }

    /// For how many of them the coordinator had already turned.
    pub(crate) fn submitted_for_attack(&self) -> usize {
        let state = lock(&self.state);
        let first = state.attack.map_or(u32::MAX, Attack::round) as usize;
        state.submitted.len().saturating_sub(first - 1)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Whether the coordinator does this wrong now.
    fn turns(&self, attack: Attack) -> bool {
        self.attack == Some(attack) && self.submitted.len() as u32 + 1 >= attack.round()
    }

    fn happened(&mut self, detail: &str) {
        let entry = Entry {
            seq: self.log.tree.size() + 1,
            at: SystemClock.now(),
            actor: "coordinator".into(),
            kind: "told".into(),
            detail: detail.into(),
            document: None,
        };
        self.nodes.extend(self.log.push(&entry));
    }

    /// Makes the log anew, with another beginning.
    fn fork(&mut self) {
        let size = self.log.tree.size();
        self.log = Log::default();
        self.nodes = HashMap::new();
        for number in 0..size + 3 {
            self.happened(&format!("site other-{number}"));
        }
    }

    fn plan(&self) -> String {
        let turns = |attack| self.turns(attack);
        let rounds = if turns(Attack::MoreRounds) { 6 } else { 4 };
        let sites_min = if turns(Attack::SmallCohort) { 1 } else { 2 };
        let seed = if turns(Attack::OtherPlan) || turns(Attack::PolicyChange) { 2 } else { 1 };
        format!(
            "version = 1\nrounds = {rounds}\n\n[round]\nsites_min = {sites_min}\n\n\
             [training]\nsteps = 3\nseed = {seed}\n"
        )
    }

    /// The plan that manifests say: the one that is sent, unless another one is slipped in.
    fn signed_plan(&self) -> Digest {
        let plan = self.plan();
        let plan =
            if self.turns(Attack::OtherPlan) { plan.replace("seed = 2", "seed = 1") } else { plan };
        Digest::of(plan.as_bytes())
    }

    fn model(&self, version: u32) -> Blob {
        let (blob, _) = &self.models[version as usize % self.models.len()];
        *blob
    }

    /// What the site should be doing.
    fn directive(&self, activity: &Activity) -> Directive {
        let number = match self.attack {
            Some(Attack::SkippedVersion) if self.turns(Attack::SkippedVersion) => 3,
            Some(Attack::ReplayedRound) if self.turns(Attack::ReplayedRound) => 1,
            Some(Attack::MissedParent) if self.turns(Attack::MissedParent) => 3,
            _ => self.round,
        };
        let round = RoundRef { run: RUN.into(), number, attempt: 1 };
        let mut base = self.model(number - 1);
        if self.turns(Attack::SkippedVersion) {
            base = self.model(1);
        }
        if self.turns(Attack::OtherBase) {
            base = self.model(3);
        }
        if self.turns(Attack::Oversize) {
            base.size = 2 << 20;
        }
        match activity {
            _ if self.withdrawn || self.round > 3 => Directive::Rest(Rest {}),
            Activity::Idle(_) => {
                Directive::Join(Join { round: Some(round), until: None, base_model: None })
            }
            _ => {
                let base_model = Some(base.into());
                Directive::Train(Train { round: Some(round), base_model, until: None, cohort: 2 })
            }
        }
    }

    fn proof(&self, known: u64) -> Vec<Vec<u8>> {
        let hash = |part: &Part| {
            let nodes = part.nodes();
            let hashes: Vec<Hash> =
                nodes.iter().filter_map(|node| self.nodes.get(node).copied()).collect();
            Part::hash(&hashes).as_bytes().to_vec()
        };
        consistency(known, self.log.tree.size()).iter().map(hash).collect()
    }

    fn now(&self) -> Timestamp {
        let now = SystemClock.now();
        let day = SignedDuration::from_hours(24);
        if self.turns(Attack::Clock) { now.checked_add(day).unwrap_or(now) } else { now }
    }
}

/// A download on its way.
type Pieces = Pin<Box<dyn Stream<Item = Result<DownloadResponse, Status>> + Send>>;

#[derive(Clone)]
struct Services {
    state: Arc<Mutex<State>>,
}

fn malformed(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

#[tonic::async_trait]
impl FederationService for Services {
    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let request = request.into_inner();
        let doubt = request.log_doubt().as_str_name().to_owned();
        let HeartbeatRequest { activity, log_size, declined, .. } = request;
        let activity = activity.ok_or_else(|| malformed("no activity"))?;
        let mut state = lock(&self.state);
        let rules = declined.iter().map(|declined| declined.rule().as_str_name().to_owned());
        state.told.extend(rules);
        state.told.push(doubt);
        if let Activity::Withdrawing(withdrawing) = &activity {
            state.withdrawn = true;
            state.told.push(withdrawing.reason().as_str_name().to_owned());
            state.told.push(withdrawing.rule().as_str_name().to_owned());
        }
        if state.turns(Attack::ForkedLog) && log_size > 0 {
            state.fork();
        }
        state.happened("a heartbeat");
        let head = state.notary.head(&state.log, state.now());
        let signed = !state.turns(Attack::Unsigned);
        Ok(Response::new(HeartbeatResponse {
            next_after: Duration::from_millis(30).try_into().ok(),
            directive: Some(state.directive(&activity)),
            log_head: signed.then(|| log::to_wire(&head)),
            log_consistency: state.proof(log_size),
            ..HeartbeatResponse::default()
        }))
    }

    async fn preview_work(
        &self,
        _: Request<PreviewWorkRequest>,
    ) -> Result<Response<PreviewWorkResponse>, Status> {
        Err(Status::unimplemented("the site takes part, it does not look first"))
    }

    async fn get_run_plan(
        &self,
        _: Request<GetRunPlanRequest>,
    ) -> Result<Response<GetRunPlanResponse>, Status> {
        let state = lock(&self.state);
        let plan_toml = state.plan();
        let plan = RunPlan::from_toml(&plan_toml).map_err(malformed)?;
        let signature = match state.attack {
            Some(Attack::StrangersPlan) => state.stranger.sign(&plan),
            Some(Attack::BorrowedSignature) => {
                state.planner.sign(&RunPlan { rounds: plan.rounds + 1, ..plan })
            }
            _ => state.planner.sign(&plan),
        };
        let plan_signature = Some(signature.to_wire());
        Ok(Response::new(GetRunPlanResponse { plan_toml, plan_signature }))
    }

    async fn submit_update(
        &self,
        request: Request<SubmitUpdateRequest>,
    ) -> Result<Response<SubmitUpdateResponse>, Status> {
        let round = request.into_inner().round.ok_or_else(|| malformed("no round"))?;
        let round = RoundId::try_from(&round).map_err(malformed)?;
        let mut state = lock(&self.state);
        state.submitted.push(round.number);
        state.round = round.number + 1;
        state.happened("an update");
        Ok(Response::new(SubmitUpdateResponse { receipt: None }))
    }
}

#[tonic::async_trait]
impl BlobService for Services {
    async fn get_manifest(
        &self,
        request: Request<GetManifestRequest>,
    ) -> Result<Response<GetManifestResponse>, Status> {
        let GetManifestRequest { run, version } = request.into_inner();
        let run = run.parse().map_err(malformed)?;
        let manifest = lock(&self.state).manifest(run, version).map_err(malformed)?;
        Ok(Response::new(GetManifestResponse { manifest: Some(manifest) }))
    }

    async fn get_upload_status(
        &self,
        _: Request<GetUploadStatusRequest>,
    ) -> Result<Response<GetUploadStatusResponse>, Status> {
        Ok(Response::new(GetUploadStatusResponse { committed_size: 0, complete: false }))
    }

    async fn upload(
        &self,
        request: Request<Streaming<UploadRequest>>,
    ) -> Result<Response<UploadResponse>, Status> {
        let (mut parts, mut committed_size) = (request.into_inner(), 0);
        while let Some(message) = parts.message().await? {
            if let Some(UploadPart::Data(data)) = message.part {
                committed_size += data.len() as u64;
            }
        }
        Ok(Response::new(UploadResponse { committed_size }))
    }

    type DownloadStream = Pieces;

    async fn download(
        &self,
        request: Request<DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let DownloadRequest { digest, offset } = request.into_inner();
        let state = lock(&self.state);
        let found = state.models.iter().find(|(blob, _)| blob.digest.as_bytes()[..] == digest);
        let (_, bytes) = found.ok_or_else(|| Status::not_found("no such model"))?;
        let mut bytes = bytes[(offset as usize).min(bytes.len())..].to_vec();
        if state.turns(Attack::Endless) {
            return Ok(Response::new(endless(bytes, Arc::clone(&self.state))));
        }
        if state.turns(Attack::OtherModel)
            && let Some(last) = bytes.last_mut()
        {
            *last ^= 1;
        }
        let message = Ok(DownloadResponse { data: bytes.into() });
        Ok(Response::new(Box::pin(tokio_stream::once(message))))
    }
}

/// A model, and then zeros for as long as somebody takes them.
fn endless(model: Vec<u8>, state: Arc<Mutex<State>>) -> Pieces {
    let zeros = std::iter::repeat(Bytes::from_static(&[0; PIECE]));
    let pieces = std::iter::once(Bytes::from(model)).chain(zeros);
    let count = move |data: Bytes| {
        lock(&state).endless += data.len() as u64;
        Ok(DownloadResponse { data })
    };
    Box::pin(tokio_stream::iter(pieces.map(count)))
}
