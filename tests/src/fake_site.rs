//! A site of the test's own making. It speaks the real protocol with a real certificate, and says
//! what no honest agent would.

use std::path::Path;

use anyhow::{Context, bail};
use bytes::Bytes;
use fedpaint_proto::budget::Budget;
use fedpaint_proto::identity::Role;
use fedpaint_proto::names::{Blob, Digest, RoundId};
use fedpaint_proto::signing::{Signed, Signer};
use fedpaint_proto::statement::Envelope;
use fedpaint_proto::transfer;
use fedpaint_proto::v1::blob_service_client::BlobServiceClient;
use fedpaint_proto::v1::federation_service_client::FederationServiceClient;
use fedpaint_proto::v1::heartbeat_request::Activity;
use fedpaint_proto::v1::heartbeat_response::Directive;
use fedpaint_proto::v1::upload_request::Part;
use fedpaint_proto::v1::{self, upload_purpose};
use fedpaint_proto::wire::{WIRE_VERSION, timestamp};
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::lab::Lab;

/// A site without an agent.
#[derive(Debug)]
pub struct FakeSite {
    name: String,
    channel: Channel,
    client: FederationServiceClient<Channel>,
    signer: Signer,
    budget: Budget,
}

impl FakeSite {
    /// Enrols a site and connects as it.
    ///
    /// # Errors
    /// If the coordinator does not take it.
    pub async fn enroll(lab: &Lab, name: &str) -> anyhow::Result<FakeSite> {
        lab.enroll(name)?;
        let channel = lab.channel(name).await?;
        let client = FederationServiceClient::new(channel.clone());
        let signer = lab.signing(name).load()?;
        let budget = Budget::default();
        Ok(FakeSite { name: name.into(), channel, client, signer, budget })
    }

    /// The site's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says what the site does, hears what it should do.
    ///
    /// # Errors
    /// If the coordinator refuses the call.
    pub async fn beat(&mut self, activity: Activity) -> Result<Option<Directive>, Status> {
        let request = v1::HeartbeatRequest {
            agent_version: "0.0.0-fake".into(),
            activity: Some(activity),
            wire_version: WIRE_VERSION,
            signing_until: Some(timestamp(self.signer.validity().not_after)),
            ..v1::HeartbeatRequest::default()
        };
        self.client.heartbeat(request).await.map(|reply| reply.into_inner().directive)
    }

    /// Joins the round that is open.
    ///
    /// # Errors
    /// If none is.
    pub async fn join(&mut self) -> anyhow::Result<v1::RoundRef> {
        let Some(Directive::Join(join)) = self.beat(Activity::Idle(v1::Idle {})).await? else {
            bail!("{} was not asked to join", self.name);
        };
        self.beat(Activity::Joining(v1::Joining { round: join.round.clone() })).await?;
        join.round.context("a round to join")
    }

    /// What the site is to train.
    ///
    /// # Errors
    /// If it is to train nothing.
    pub async fn task(&mut self) -> anyhow::Result<v1::Train> {
        match self.beat(Activity::Idle(v1::Idle {})).await? {
            Some(Directive::Train(train)) => Ok(train),
            other => bail!("{} was not asked to train but {other:?}", self.name),
        }
    }

    /// Gives the round up.
    ///
    /// # Errors
    /// If the coordinator refuses the call.
    pub async fn withdraw(&mut self, round: &v1::RoundRef) -> Result<(), Status> {
        let reason = v1::WithdrawalReason::Internal.into();
        let withdrawing = v1::Withdrawing { round: Some(round.clone()), reason, rule: 0 };
        self.beat(Activity::Withdrawing(withdrawing)).await.map(drop)
    }

    /// Uploads an update.
    ///
    /// # Errors
    /// If the coordinator refuses it.
    pub async fn upload(
        &self,
        round: &v1::RoundRef,
        blob: Blob,
        file: &Path,
    ) -> Result<(), transfer::Error> {
        let purpose = update_of(round);
        transfer::upload(&self.channel, purpose, blob, file, &self.budget, &mut |_, _| ()).await
    }

    /// Sends the first bytes of an update, no more than a piece of it, and ends the call there. How much of
    /// it the coordinator says that it has.
    ///
    /// # Errors
    /// If the coordinator refuses it.
    pub async fn begin_upload(
        &self,
        round: &v1::RoundRef,
        blob: Blob,
        first: &[u8],
    ) -> Result<u64, Status> {
        let (purpose, blob) = (Some(update_of(round)), Some(blob.into()));
        let header = v1::UploadHeader { purpose, blob, offset: 0 };
        let parts = [Part::Header(header), Part::Data(Bytes::copy_from_slice(first))];
        let parts = parts.map(|part| v1::UploadRequest { part: Some(part) });
        let mut blobs = BlobServiceClient::new(self.channel.clone());
        let reply = blobs.upload(tokio_stream::iter(parts)).await?;
        Ok(reply.into_inner().committed_size)
    }

    /// How much of an update the coordinator says that it has.
    ///
    /// # Errors
    /// If the coordinator refuses to say.
    pub async fn uploaded(&self, round: &v1::RoundRef, blob: Blob) -> Result<u64, Status> {
        let (purpose, blob) = (Some(update_of(round)), Some(blob.into()));
        let request = v1::GetUploadStatusRequest { purpose, blob };
        let mut blobs = BlobServiceClient::new(self.channel.clone());
        let reply = blobs.get_upload_status(request).await?;
        Ok(reply.into_inner().committed_size)
    }

    /// Downloads a model.
    ///
    /// # Errors
    /// If the coordinator refuses it.
    pub async fn download(&self, blob: Blob, file: &Path) -> Result<(), transfer::Error> {
        transfer::download(&self.channel, blob, file, &self.budget, &mut |_, _| ()).await
    }

    /// Signs what it says of an update; nothing if it says what cannot be said.
    async fn sign(
        &mut self,
        round: &v1::RoundRef,
        base: Digest,
        update: Blob,
        examples: u64,
    ) -> Result<Option<v1::Signature>, Status> {
        let request = v1::GetRunPlanRequest { run: round.run.clone() };
        let plan = self.client.get_run_plan(request).await?.into_inner().plan_toml;
        let identity = self.signer.identity();
        let (Ok(round), Role::Site(site)) = (RoundId::try_from(round), &identity.role) else {
            return Ok(None);
        };
        let envelope = Envelope {
            federation: identity.federation.clone(),
            round,
            site: site.clone(),
            base,
            plan: Digest::of(plan.as_bytes()),
            update,
            examples,
        };
        Ok(Some(Signed::by(&self.signer, envelope).signature_to_wire()))
    }

    /// Submits an update that was uploaded.
    ///
    /// # Errors
    /// If the coordinator refuses it.
    pub async fn submit(
        &mut self,
        round: &v1::RoundRef,
        base: Digest,
        weights: Blob,
        examples: u64,
    ) -> Result<Response<v1::SubmitUpdateResponse>, Status> {
        let signature = self.sign(round, base, weights, examples).await?;
        let request = v1::SubmitUpdateRequest {
            signature,
            round: Some(round.clone()),
            base_model_digest: base.as_bytes().to_vec(),
            weights: Some(weights.into()),
            examples,
            report: Some(v1::TrainingReport::default()),
        };
        self.client.submit_update(request).await
    }
}

/// What an update of a round is uploaded as.
fn update_of(round: &v1::RoundRef) -> v1::UploadPurpose {
    v1::UploadPurpose { purpose: Some(upload_purpose::Purpose::Update(round.clone())) }
}
