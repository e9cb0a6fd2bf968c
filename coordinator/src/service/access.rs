//! Who may call what: one table from every method to the role that may call it.
//!
//! A method without a row is refused. A site's enrolment is asked for on every call, so that a
//! revocation bites at once and not when a connection happens to end.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use fedpaint_proto::identity::Role;
use fedpaint_proto::limits::CALL_TIMEOUT;
use fedpaint_proto::names::{OperatorName, SiteName};
use fedpaint_proto::reason::Reason;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::{debug, info};

use crate::accept::Peer;
use crate::driver::Handle;
use crate::service::status;

/// Who calls, as the services see it: somebody whose role may make this call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// An enrolled site.
    Site(SiteName),
    /// An operator.
    Operator(OperatorName),
}

/// Which roles may make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allowed {
    Sites,
    Operators,
    Both,
}

/// How long a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lasts {
    /// At most [`CALL_TIMEOUT`], until the answer or the head of a stream of answers.
    Shortly,
    /// A whole model is moved or read; the blob service watches that bytes keep moving.
    Long,
}

struct Row {
    path: &'static str,
    allowed: Allowed,
    lasts: Lasts,
}

const fn row(path: &'static str, allowed: Allowed, lasts: Lasts) -> Row {
    Row { path, allowed, lasts }
}

/// Every method there is.
const TABLE: &[Row] = &[
    row("/fedpaint.v1.FederationService/Heartbeat", Allowed::Sites, Lasts::Shortly),
    row("/fedpaint.v1.FederationService/GetRunPlan", Allowed::Sites, Lasts::Shortly),
    row("/fedpaint.v1.FederationService/SubmitUpdate", Allowed::Sites, Lasts::Long),
    row("/fedpaint.v1.BlobService/GetUploadStatus", Allowed::Both, Lasts::Shortly),
    row("/fedpaint.v1.BlobService/Upload", Allowed::Both, Lasts::Long),
    row("/fedpaint.v1.BlobService/Download", Allowed::Both, Lasts::Shortly),
    row("/fedpaint.v1.AdminService/GetStatus", Allowed::Operators, Lasts::Shortly),
    row("/fedpaint.v1.AdminService/EnrollSite", Allowed::Operators, Lasts::Shortly),
    row("/fedpaint.v1.AdminService/ListSites", Allowed::Operators, Lasts::Shortly),
    row("/fedpaint.v1.AdminService/RevokeSite", Allowed::Operators, Lasts::Shortly),
    row("/fedpaint.v1.AdminService/CreateRun", Allowed::Operators, Lasts::Long),
    row("/fedpaint.v1.AdminService/GetRun", Allowed::Operators, Lasts::Shortly),
    row("/fedpaint.v1.AdminService/ListRuns", Allowed::Operators, Lasts::Shortly),
    row("/fedpaint.v1.AdminService/PauseRun", Allowed::Operators, Lasts::Shortly),
    row("/fedpaint.v1.AdminService/ResumeRun", Allowed::Operators, Lasts::Shortly),
    row("/fedpaint.v1.AdminService/StopRun", Allowed::Operators, Lasts::Shortly),
    row("/fedpaint.v1.AdminService/WatchRun", Allowed::Operators, Lasts::Shortly),
    row("/fedpaint.v1.AdminService/GetRound", Allowed::Operators, Lasts::Shortly),
    row("/fedpaint.v1.AdminService/ListRounds", Allowed::Operators, Lasts::Shortly),
    row("/fedpaint.v1.AdminService/CloseRound", Allowed::Operators, Lasts::Shortly),
    row("/fedpaint.v1.AdminService/AbandonRound", Allowed::Operators, Lasts::Shortly),
    row("/fedpaint.v1.AdminService/ListModels", Allowed::Operators, Lasts::Shortly),
    row("/fedpaint.v1.AdminService/ListEvents", Allowed::Operators, Lasts::Shortly),
];

impl Caller {
    /// Who makes the call in `extensions`.
    ///
    /// # Errors
    /// If the call has not passed [`AccessLayer`].
    pub(crate) fn of(extensions: &http::Extensions) -> Result<Caller, Status> {
        extensions
            .get::<Caller>()
            .cloned()
            .ok_or_else(|| Reason::NoIdentity.status("the call names no caller"))
    }

    /// The caller's role, as the driver and the blobs know it.
    pub(crate) fn role(&self) -> Role {
        match self {
            Caller::Site(name) => Role::Site(name.clone()),
            Caller::Operator(name) => Role::Operator(name.clone()),
        }
    }
}

impl fmt::Display for Caller {
    /// `site/mayo`, as in the audit log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caller::Site(name) => write!(f, "site/{name}"),
            Caller::Operator(name) => write!(f, "operator/{name}"),
        }
    }
}

/// Who `role` is as a caller of `path`, and how long the call may last.
fn admit(path: &str, role: &Role) -> Result<(Caller, Lasts), Status> {
    let Some(row) = TABLE.iter().find(|row| row.path == path) else {
        // The path comes from outside, so it is not repeated.
        return Err(Status::unimplemented("there is no such method"));
    };
    let caller = match (role, row.allowed) {
        (Role::Site(name), Allowed::Sites | Allowed::Both) => Caller::Site(name.clone()),
        (Role::Operator(name), Allowed::Operators | Allowed::Both) => {
            Caller::Operator(name.clone())
        }
        _ => {
            let what = format!("a certificate of {role} may not call {path}");
            return Err(Reason::WrongRole.status(what));
        }
    };
    Ok((caller, row.lasts))
}

/// Lets only those calls through that the table and the enrolments allow.
#[derive(Clone)]
pub(crate) struct AccessLayer {
    driver: Handle,
}

impl AccessLayer {
    /// A layer that asks `driver` whether a site is enrolled.
    pub(crate) fn new(driver: Handle) -> AccessLayer {
        AccessLayer { driver }
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = Access<S>;

    fn layer(&self, inner: S) -> Access<S> {
        Access { driver: self.driver.clone(), inner }
    }
}

/// A service behind [`AccessLayer`].
#[derive(Clone)]
pub(crate) struct Access<S> {
    driver: Handle,
    inner: S,
}

impl<S> Service<Request<Body>> for Access<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The service that is ready is used, and a clone of it left behind.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let driver = self.driver.clone();
        Box::pin(async move {
            let peer = request.extensions().get::<Peer>().cloned();
            let path = request.uri().path().to_owned();
            let lasts = match enter(&driver, peer, &path) {
                Ok((caller, lasts)) => {
                    debug!(%caller, path, "call");
                    request.extensions_mut().insert(caller);
                    lasts
                }
                Err(status) => return Ok(status.into_http()),
            };
            match lasts {
                Lasts::Long => inner.call(request).await,
                Lasts::Shortly => {
                    match tokio::time::timeout(CALL_TIMEOUT, inner.call(request)).await {
                        Ok(answer) => answer,
                        Err(_) => {
                            Ok(Status::deadline_exceeded("the call took too long").into_http())
                        }
                    }
                }
            }
        })
    }
}

fn enter(driver: &Handle, peer: Option<Peer>, path: &str) -> Result<(Caller, Lasts), Status> {
    let peer = peer.ok_or_else(|| Reason::NoIdentity.status("the connection names nobody"))?;
    let Peer { identity, address, .. } = peer;
    let admitted = match admit(path, &identity.role) {
        Ok((Caller::Site(site), lasts)) => {
            let access = driver.site_access(&site).map_err(status::of_driver);
            access.map(|()| (Caller::Site(site), lasts))
        }
        other => other,
    };
    if let Err(status) = &admitted {
        info!(role = %identity.role, %address, reason = status.message(), "call refused");
    }
    admitted
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTOS: [&str; 3] = [
        include_str!("../../../proto/fedpaint/v1/admin.proto"),
        include_str!("../../../proto/fedpaint/v1/blob.proto"),
        include_str!("../../../proto/fedpaint/v1/federation.proto"),
    ];

    /// The path of every method in the .proto files.
    fn methods() -> Vec<String> {
        let mut paths = Vec::new();
        for line in PROTOS.iter().flat_map(|proto| proto.lines()) {
            let word = |line: &str| line.split([' ', '(']).nth(1).map(str::to_owned);
            if line.starts_with("service ") {
                paths.push(format!("/fedpaint.v1.{}/", word(line).unwrap()));
            } else if line.trim_start().starts_with("rpc ") {
                let service = paths.last().unwrap().rsplit_once('/').unwrap().0.to_owned();
                paths.push(format!("{service}/{}", word(line.trim_start()).unwrap()));
            }
        }
        paths.retain(|path| !path.ends_with('/'));
        paths
    }

    fn role(text: &str) -> Role {
        format!("spiffe://brain/{text}").parse::<fedpaint_proto::identity::Identity>().unwrap().role
    }

    #[test]
    fn every_method_has_one_row_and_every_row_a_method() {
        let mut methods = methods();
        let mut rows: Vec<String> = TABLE.iter().map(|row| row.path.to_owned()).collect();
        methods.sort();
        rows.sort();
        assert_eq!(methods.len(), 23);
        assert_eq!(methods, rows);
    }

    #[test]
    fn a_role_may_call_what_its_row_says_and_nothing_else() {
        for row in TABLE {
            let site = admit(row.path, &role("site/mayo"));
            let operator = admit(row.path, &role("operator/ada"));
            assert_eq!(site.is_ok(), row.allowed != Allowed::Operators, "{}", row.path);
            assert_eq!(operator.is_ok(), row.allowed != Allowed::Sites, "{}", row.path);
            let coordinator = admit(row.path, &role("coordinator/main")).unwrap_err();
            assert_eq!(Reason::of(&coordinator), Some(Reason::WrongRole));
            let service = row.path.split('/').nth(1).unwrap();
            match service {
                "fedpaint.v1.AdminService" => assert_eq!(row.allowed, Allowed::Operators),
                "fedpaint.v1.FederationService" => assert_eq!(row.allowed, Allowed::Sites),
                _ => assert_eq!(row.allowed, Allowed::Both),
            }
        }
    }

    #[test]
    fn a_method_without_a_row_is_refused() {
        for path in ["/fedpaint.v1.AdminService/Shutdown", "/", "/grpc.health.v1.Health/Check"] {
            let status = admit(path, &role("operator/ada")).unwrap_err();
            assert_eq!(status.code(), tonic::Code::Unimplemented);
        }
    }
}
