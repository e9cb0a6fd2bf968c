//! What an operator says and hears.

use std::pin::Pin;

use fedpaint_proto::log;
use fedpaint_proto::names::{Digest, OperatorName, RoundId};
use fedpaint_proto::plan::RunPlan;
use fedpaint_proto::reason::Reason;
use fedpaint_proto::tls;
use fedpaint_proto::v1::admin_service_server::AdminService;
use fedpaint_proto::v1::{
    AbandonRoundRequest, AbandonRoundResponse, ApproveProposalRequest, ApproveProposalResponse,
    ApproveSiteRequest, ApproveSiteResponse, CloseRoundRequest, CloseRoundResponse,
    CreateRunRequest, CreateRunResponse, EnrollSiteRequest, EnrollSiteResponse, ExportLogRequest,
    ExportLogResponse, GetLogHeadRequest, GetLogHeadResponse, GetRoundRequest, GetRoundResponse,
    GetRunRequest, GetRunResponse, GetStatusRequest, GetStatusResponse, InviteSiteRequest,
    InviteSiteResponse, ListEventsRequest, ListEventsResponse, ListModelsRequest,
    ListModelsResponse, ListOperatorsRequest, ListOperatorsResponse, ListProposalsRequest,
    ListProposalsResponse, ListRoundsRequest, ListRoundsResponse, ListRunsRequest,
    ListRunsResponse, ListSitesRequest, ListSitesResponse, PauseRunRequest, PauseRunResponse,
    ReadmitSiteRequest, ReadmitSiteResponse, RejectSiteRequest, RejectSiteResponse,
    ResumeRunRequest, ResumeRunResponse, RevokeSiteRequest, RevokeSiteResponse, SetOperatorRequest,
    SetOperatorResponse, StopRunRequest, StopRunResponse, WatchRunRequest, WatchRunResponse,
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::driver::{Export, Handle, Watch};
use crate::evidence::export::Line;
use crate::service::access::{Caller, Member};
use crate::service::enrolment::no_issuer;
use crate::service::reader::{self, Reader};
use crate::service::{Parts, page, parse, status, wire};

/// The federation, as an operator sees it.
pub(crate) struct Service {
    /// What the service is made from.
    pub(crate) parts: Parts,
}

type Exporting = Pin<Box<dyn Stream<Item = Result<ExportLogResponse, Status>> + Send>>;

type Watching = Pin<Box<dyn Stream<Item = Result<WatchRunResponse, Status>> + Send>>;

#[tonic::async_trait]
impl AdminService for Service {
    async fn get_status(
        &self,
        _: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        let driver = &self.parts.driver;
        Ok(Response::new(GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            federation: self.parts.federation.to_string(),
            sites: driver.sites().iter().map(wire::site).collect(),
            runs: driver.runs().iter().map(wire::run).collect(),
            rounds: driver.active_rounds().iter().map(wire::round).collect(),
            expiries: self.parts.credentials.borrow().expiries.iter().map(wire::expiry).collect(),
            cryptography: tls::cryptography().to_owned(),
        }))
    }

    async fn enroll_site(
        &self,
        request: Request<EnrollSiteRequest>,
    ) -> Result<Response<EnrollSiteResponse>, Status> {
        let actor = actor(&request)?;
        let EnrollSiteRequest { name, revoked_at } = request.into_inner();
        let name = parse::name(&name)?;
        let revoked = revoked_at.map(parse::time).transpose()?;
        let site = self.parts.driver.enroll_site(&actor, &name, revoked).await;
        let site = Some(wire::site(&site.map_err(status::of_driver)?));
        Ok(Response::new(EnrollSiteResponse { site }))
    }

    async fn list_sites(
        &self,
        _: Request<ListSitesRequest>,
    ) -> Result<Response<ListSitesResponse>, Status> {
        let driver = &self.parts.driver;
        let needed = self.parts.rules.approvals();
        let invites = driver.invites();
        Ok(Response::new(ListSitesResponse {
            sites: driver.sites().iter().map(wire::site).collect(),
            invites: invites.iter().map(|(site, held)| wire::invite(site, held, needed)).collect(),
        }))
    }

    async fn invite_site(
        &self,
        request: Request<InviteSiteRequest>,
    ) -> Result<Response<InviteSiteResponse>, Status> {
        let actor = actor(&request)?;
        let credentials = self.parts.credentials.borrow().clone();
        let pin = credentials.issuer.as_ref().ok_or_else(no_issuer)?.pin;
        let InviteSiteRequest { name, secret_digest, auto_approve, seen } = request.into_inner();
        let (site, seen) = (parse::name(&name)?, parse::sight(seen)?);
        let secret = Digest::try_from(&secret_digest[..]).map_err(parse::invalid)?;
        let token = (secret, auto_approve);
        let held = self.parts.driver.invite_site(&actor, &site, token, seen).await;
        let held = held.map_err(status::of_driver)?;
        let invite = Some(wire::invite(&site, &held, self.parts.rules.approvals()));
        Ok(Response::new(InviteSiteResponse { invite, root_pin: pin.0.to_vec() }))
    }

    async fn approve_site(
        &self,
        request: Request<ApproveSiteRequest>,
    ) -> Result<Response<ApproveSiteResponse>, Status> {
        let actor = actor(&request)?;
        let ApproveSiteRequest { name, words, seen } = request.into_inner();
        let (site, seen) = (parse::name(&name)?, parse::sight(seen)?);
        let held = self.parts.driver.approve_site(&actor, &site, words, seen).await;
        let held = held.map_err(status::of_driver)?;
        let invite = Some(wire::invite(&site, &held, self.parts.rules.approvals()));
        Ok(Response::new(ApproveSiteResponse { invite }))
    }

    async fn reject_site(
        &self,
        request: Request<RejectSiteRequest>,
    ) -> Result<Response<RejectSiteResponse>, Status> {
        let actor = actor(&request)?;
        let RejectSiteRequest { name, seen } = request.into_inner();
        let (site, seen) = (parse::name(&name)?, parse::sight(seen)?);
        let rejected = self.parts.driver.reject_site(&actor, &site, seen).await;
        rejected.map_err(status::of_driver)?;
        Ok(Response::new(RejectSiteResponse {}))
    }

    async fn list_operators(
        &self,
        _: Request<ListOperatorsRequest>,
    ) -> Result<Response<ListOperatorsResponse>, Status> {
        let listed = self.parts.driver.operators();
        let operators = listed.iter().map(|(name, row)| wire::operator(name, row)).collect();
        Ok(Response::new(ListOperatorsResponse { operators }))
    }

    async fn set_operator(
        &self,
        request: Request<SetOperatorRequest>,
    ) -> Result<Response<SetOperatorResponse>, Status> {
        let actor = actor(&request)?;
        let roles = parse::roles(request.get_ref().roles())?;
        let SetOperatorRequest { name, seen, .. } = request.into_inner();
        let (name, seen) = (parse::name(&name)?, parse::sight(seen)?);
        let set = self.parts.driver.set_operator(&actor, &name, roles, seen).await;
        let operator = wire::operator(&name, &set.map_err(status::of_driver)?);
        Ok(Response::new(SetOperatorResponse { operator: Some(operator) }))
    }

    async fn revoke_site(
        &self,
        request: Request<RevokeSiteRequest>,
    ) -> Result<Response<RevokeSiteResponse>, Status> {
        let actor = actor(&request)?;
        let RevokeSiteRequest { name, seen } = request.into_inner();
        let (name, seen) = (parse::name(&name)?, parse::sight(seen)?);
        let site = self.parts.driver.revoke_site(&actor, &name, seen).await;
        let site = Some(wire::site(&site.map_err(status::of_driver)?));
        Ok(Response::new(RevokeSiteResponse { site }))
    }

    async fn list_proposals(
        &self,
        _: Request<ListProposalsRequest>,
    ) -> Result<Response<ListProposalsResponse>, Status> {
        let proposals = self.parts.driver.proposals().iter().map(wire::proposal).collect();
        Ok(Response::new(ListProposalsResponse { proposals }))
    }

    async fn approve_proposal(
        &self,
        request: Request<ApproveProposalRequest>,
    ) -> Result<Response<ApproveProposalResponse>, Status> {
        let actor = actor(&request)?;
        let ApproveProposalRequest { id, seen } = request.into_inner();
        let id = Digest::try_from(&id[..]).map_err(parse::invalid)?;
        let seen = parse::sight(seen)?;
        let approved = self.parts.driver.approve_proposal(&actor, id, seen).await;
        approved.map_err(status::of_driver)?;
        Ok(Response::new(ApproveProposalResponse {}))
    }

    async fn create_run(
        &self,
        request: Request<CreateRunRequest>,
    ) -> Result<Response<CreateRunResponse>, Status> {
        let actor = actor(&request)?;
        let CreateRunRequest { name, plan_toml, initial_model, plan_signature } =
            request.into_inner();
        let name = parse::name(&name)?;
        let plan = RunPlan::from_toml(&plan_toml).map_err(|error| status::of_plan(&error))?;
        let plan = parse::signed(plan, plan_signature.as_ref())?;
        let initial = parse::blob(initial_model.as_ref())?;
        let run = self.parts.driver.create_run(&actor, &name, plan, initial).await;
        let run = Some(wire::run(&run.map_err(status::of_driver)?));
        Ok(Response::new(CreateRunResponse { run }))
    }

    async fn get_run(
        &self,
        request: Request<GetRunRequest>,
    ) -> Result<Response<GetRunResponse>, Status> {
        let name = parse::name(&request.get_ref().name)?;
        let (run, round) = self.parts.driver.run_now(&name).map_err(status::of_driver)?;
        let (run, round) = (Some(wire::run(&run)), Some(wire::round(&round)));
        Ok(Response::new(GetRunResponse { run, round }))
    }

    async fn list_runs(
        &self,
        _: Request<ListRunsRequest>,
    ) -> Result<Response<ListRunsResponse>, Status> {
        let runs = self.parts.driver.runs().iter().map(wire::run).collect();
        Ok(Response::new(ListRunsResponse { runs }))
    }

    async fn pause_run(
        &self,
        request: Request<PauseRunRequest>,
    ) -> Result<Response<PauseRunResponse>, Status> {
        let actor = actor(&request)?;
        let PauseRunRequest { name, round } = request.into_inner();
        let name = parse::name(&name)?;
        let seen = parse::round_of(&name, round.as_ref())?;
        let run = self.parts.driver.pause_run(&actor, &name, seen).await;
        let run = Some(wire::run(&run.map_err(status::of_driver)?));
        Ok(Response::new(PauseRunResponse { run }))
    }

    async fn resume_run(
        &self,
        request: Request<ResumeRunRequest>,
    ) -> Result<Response<ResumeRunResponse>, Status> {
        let actor = actor(&request)?;
        let ResumeRunRequest { name, round } = request.into_inner();
        let name = parse::name(&name)?;
        let seen = round.map(|round| parse::round(Some(&round))).transpose()?;
        let run = self.parts.driver.resume_run(&actor, &name, seen).await;
        let run = Some(wire::run(&run.map_err(status::of_driver)?));
        Ok(Response::new(ResumeRunResponse { run }))
    }

    async fn stop_run(
        &self,
        request: Request<StopRunRequest>,
    ) -> Result<Response<StopRunResponse>, Status> {
        let actor = actor(&request)?;
        let name = parse::name(&request.get_ref().name)?;
        let run = self.parts.driver.stop_run(&actor, &name).await.map_err(status::of_driver)?;
        Ok(Response::new(StopRunResponse { run: Some(wire::run(&run)) }))
    }

    async fn readmit_site(
        &self,
        request: Request<ReadmitSiteRequest>,
    ) -> Result<Response<ReadmitSiteResponse>, Status> {
        let actor = actor(&request)?;
        let ReadmitSiteRequest { run, site } = request.into_inner();
        let (run, site) = (parse::name(&run)?, parse::name(&site)?);
        let run = self.parts.driver.readmit_site(&actor, &run, site).await;
        let run = Some(wire::run(&run.map_err(status::of_driver)?));
        Ok(Response::new(ReadmitSiteResponse { run }))
    }

    async fn get_log_head(
        &self,
        _: Request<GetLogHeadRequest>,
    ) -> Result<Response<GetLogHeadResponse>, Status> {
        let head = self.parts.driver.log_head().await.map_err(status::of_driver)?;
        Ok(Response::new(GetLogHeadResponse { head: Some(log::to_wire(&head)) }))
    }

    type ExportLogStream = Exporting;

    async fn export_log(
        &self,
        _: Request<ExportLogRequest>,
    ) -> Result<Response<Exporting>, Status> {
        let driver = self.parts.driver.clone();
        let export = driver.export().await.map_err(status::of_driver)?;
        let (reader, lines) = reader::begin(&self.parts);
        tokio::spawn(send_export(driver, export, reader));
        Ok(Response::new(Box::pin(lines)))
    }

    type WatchRunStream = Watching;

    async fn watch_run(
        &self,
        request: Request<WatchRunRequest>,
    ) -> Result<Response<Watching>, Status> {
        let name = parse::name(&request.get_ref().name)?;
        let watch = self.parts.driver.watch(&name).map_err(status::of_driver)?;
        let (reader, seen) = reader::begin(&self.parts);
        tokio::spawn(show(watch, reader));
        Ok(Response::new(Box::pin(seen)))
    }

    async fn get_round(
        &self,
        request: Request<GetRoundRequest>,
    ) -> Result<Response<GetRoundResponse>, Status> {
        let GetRoundRequest { run, number, attempt } = request.into_inner();
        // Attempt 0 is the newest, so this is not the door for rounds.
        let id = RoundId { run: parse::name(&run)?, number, attempt };
        let round = self.parts.driver.round(&id).await.map_err(status::of_driver)?;
        Ok(Response::new(GetRoundResponse { round: Some(wire::round(&round)) }))
    }

    async fn list_rounds(
        &self,
        request: Request<ListRoundsRequest>,
    ) -> Result<Response<ListRoundsResponse>, Status> {
        let ListRoundsRequest { run, before_number, before_attempt, limit } = request.into_inner();
        let run = parse::name(&run)?;
        let before = (before_number > 0).then_some((before_number, before_attempt));
        let rounds = self.parts.driver.rounds(&run, before, limit).await;
        let rounds = rounds.map_err(status::of_driver)?.iter().map(wire::round).collect();
        Ok(Response::new(ListRoundsResponse { rounds: page::last(rounds) }))
    }

    async fn close_round(
        &self,
        request: Request<CloseRoundRequest>,
    ) -> Result<Response<CloseRoundResponse>, Status> {
        let actor = actor(&request)?;
        let id = parse::round(request.get_ref().round.as_ref())?;
        let stage = parse::stage(request.get_ref().phase())?;
        let round = self.parts.driver.close_round(&actor, &id, stage).await;
        let round = Some(wire::round(&round.map_err(status::of_driver)?));
        Ok(Response::new(CloseRoundResponse { round }))
    }

    async fn abandon_round(
        &self,
        request: Request<AbandonRoundRequest>,
    ) -> Result<Response<AbandonRoundResponse>, Status> {
        let actor = actor(&request)?;
        let AbandonRoundRequest { round, reason } = request.into_inner();
        let id = parse::round(round.as_ref())?;
        let reason = parse::reason(&reason)?;
        let round = self.parts.driver.abandon_round(&actor, &id, &reason).await;
        let round = Some(wire::round(&round.map_err(status::of_driver)?));
        Ok(Response::new(AbandonRoundResponse { round }))
    }

    async fn list_models(
        &self,
        request: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        let ListModelsRequest { run, before_round, limit } = request.into_inner();
        let run = parse::name(&run)?;
        let before = (before_round > 0).then_some(before_round);
        let models = self.parts.driver.models(&run, before, limit).await;
        let models = models.map_err(status::of_driver)?.iter().map(wire::model).collect();
        Ok(Response::new(ListModelsResponse { models: page::last(models) }))
    }

    async fn list_events(
        &self,
        request: Request<ListEventsRequest>,
    ) -> Result<Response<ListEventsResponse>, Status> {
        let ListEventsRequest { after_seq, limit } = request.into_inner();
        let events = self.parts.driver.events(after_seq, limit).await.map_err(status::of_driver)?;
        let events = events.into_iter().map(wire::event).collect();
        Ok(Response::new(ListEventsResponse { events: page::first(events) }))
    }
}

fn actor<T>(request: &Request<T>) -> Result<OperatorName, Status> {
    match Caller::of(request.extensions())?.member {
        Member::Operator(name) => Ok(name),
        Member::Site(_) => Err(Reason::WrongRole.status("only an operator may call this")),
    }
}

/// Sends an export to its end, unless the server stops or nobody reads it any more.
async fn send_export(driver: Handle, mut export: Export, reader: Reader<ExportLogResponse>) {
    loop {
        let more = reader.unless_gone(driver.export_more(&mut export)).await;
        let message = match more {
            None | Some(Ok(None)) => return,
            Some(Ok(Some(lines))) => {
                ExportLogResponse { lines: lines.iter().map(Line::to_text).collect() }
            }
            Some(Err(error)) => return reader.end(status::of_driver(error)),
        };
        if reader.give(message).await.is_err() {
            return;
        }
    }
}

/// Sends what is seen until the run ends, the server stops, or nobody looks any more. A slow reader
/// misses what happened in between and always gets the newest.
async fn show(mut watch: Watch, reader: Reader<WatchRunResponse>) {
    while let Some(Some((run, round))) = reader.unless_gone(watch.next()).await {
        let message =
            WatchRunResponse { run: Some(wire::run(&run)), round: Some(wire::round(&round)) };
        if reader.give(message).await.is_err() {
            return;
        }
    }
}
