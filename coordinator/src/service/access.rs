//! Lets only those calls through that the table in `rules` and the caller's standing allow.
//!
//! The standing is asked for on every call, so that a revocation bites at once and not when a connection
//! happens to end.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use fedpaint_proto::given_up;
use fedpaint_proto::identity::{KeyId, Role};
use fedpaint_proto::limits::{CALL_TIMEOUT, MESSAGE_BYTES_MAX};
use fedpaint_proto::names::{OperatorName, SiteName};
use fedpaint_proto::reason::Reason;
use http::{Request, Response};
use jiff::Timestamp;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::{debug, info};

use crate::accept::{Line, Peer, Who};
use crate::clock::{Clock, within};
use crate::driver::{Handle, Standing};
use crate::rules::{self, Lasts, Rule};
use crate::service::{bounds, status};

/// The longest request of one message: the message behind its prefix.
const REQUEST_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 5;

/// Who calls, as the services see it: somebody who may make this call.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// By name.
    pub(crate) member: Member,
    /// By the key of the certificate.
    pub(crate) key: KeyId,
    /// When that certificate ends.
    pub(crate) until: Timestamp,
    rule: &'static Rule,
    line: Line,
}

/// A member of the federation that calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Member {
    /// An enrolled site.
    Site(SiteName),
    /// An operator.
    Operator(OperatorName),
}

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
        match &self.member {
            Member::Site(name) => Role::Site(name.clone()),
            Member::Operator(name) => Role::Operator(name.clone()),
        }
    }

    /// Ends the connection that the call came by, and says why.
    pub(crate) fn hang_up(&self, why: impl fmt::Display) {
        self.line.hang_up(why);
    }

    /// Whether the caller may still do what it began: a long call asks again and again.
    ///
    /// # Errors
    /// Why it may not any more.
    pub(crate) fn still_may(&self, driver: &Handle) -> Result<(), Status> {
        permit(driver, &self.role(), &self.key, self.rule).map(drop)
    }
}

impl fmt::Display for Caller {
    /// `site/mayo`, as in the audit log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.role())
    }
}

fn find(path: &str) -> Result<&'static Rule, Status> {
    // The path comes from outside, so it is not repeated.
    rules::of(path).ok_or_else(|| Status::unimplemented("there is no such method"))
}

/// The member that `role` is, if it may make the call of `rule`.
fn permit(driver: &Handle, role: &Role, key: &KeyId, rule: &Rule) -> Result<Member, Status> {
    let wrong = || {
        let what = format!("a certificate of {role} may not call {}", rule.path);
        Reason::WrongRole.status(what)
    };
    let (site, operator) = (rule.sites, !rule.operators.is_empty());
    match role {
        Role::Site(_) if !site => return Err(wrong()),
        Role::Operator(_) if !operator => return Err(wrong()),
        Role::Coordinator(_) => return Err(wrong()),
        Role::Site(_) | Role::Operator(_) => {}
    }
    let standing = driver.admits(role, key).map_err(status::of_driver)?;
    match (role, standing) {
        (Role::Site(name), Standing::Site) => Ok(Member::Site(name.clone())),
        (Role::Operator(name), Standing::Operator(roles)) if roles.are_any_of(rule.operators) => {
            Ok(Member::Operator(name.clone()))
        }
        (Role::Operator(name), Standing::Operator(roles)) => {
            let needed: Vec<&str> = rule.operators.iter().map(|role| role.as_str()).collect();
            let (needed, path) = (needed.join(" or "), rule.path);
            let held = if roles.0.is_empty() { "nothing".into() } else { roles.to_string() };
            let what =
                format!("operator {name} may not call {path}: it takes {needed}, not {held}");
            Err(Reason::NotPermitted.status(what))
        }
        _ => Err(wrong()),
    }
}

/// Lets only those calls through that the table and the enrolments allow.
#[derive(Clone)]
pub(crate) struct AccessLayer {
    driver: Handle,
    clock: Arc<dyn Clock>,
}

impl AccessLayer {
    /// A layer that asks `driver` whether a site is enrolled, and gives calls their time by `clock`.
    pub(crate) fn new(driver: Handle, clock: Arc<dyn Clock>) -> AccessLayer {
        AccessLayer { driver, clock }
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = Access<S>;

    fn layer(&self, inner: S) -> Access<S> {
        Access { driver: self.driver.clone(), clock: Arc::clone(&self.clock), inner }
    }
}

/// A service behind [`AccessLayer`].
#[derive(Clone)]
pub(crate) struct Access<S> {
    driver: Handle,
    clock: Arc<dyn Clock>,
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
        let (driver, clock) = (self.driver.clone(), Arc::clone(&self.clock));
        Box::pin(async move {
            let peer = request.extensions().get::<Peer>().cloned();
            let path = request.uri().path().to_owned();
            let in_time = given_up::judge(request.headers(), clock.now());
            let entered = enter(&driver, peer, &path);
            let in_time = in_time.map_err(|late| Status::deadline_exceeded(late.to_string()));
            let lasts = match entered.and_then(|entered| in_time.map(|()| entered)) {
                Ok((caller, lasts)) => {
                    debug!(caller = caller.as_ref().map(tracing::field::display), path, "call");
                    if let Some(caller) = caller {
                        request.extensions_mut().insert(caller);
                    }
                    lasts
                }
                Err(status) => return Ok(status.into_http()),
            };
            match lasts {
                Lasts::Paced => inner.call(request).await,
                Lasts::Long => match within(&*clock, CALL_TIMEOUT, whole(request)).await {
                    Some(Ok(request)) => inner.call(request).await,
                    Some(Err(status)) => Ok(status.into_http()),
                    None => Ok(too_slow("the request").into_http()),
                },
                Lasts::Shortly => {
                    let answer = within(&*clock, CALL_TIMEOUT, inner.call(request)).await;
                    answer.unwrap_or_else(|| Ok(too_slow("the call").into_http()))
                }
            }
        })
    }
}

fn too_slow(what: &str) -> Status {
    let seconds = CALL_TIMEOUT.as_secs();
    Reason::TooSlow.status(format!("{what} took more than {seconds} s (CALL_TIMEOUT)"))
}

/// The same request, once it has come to its end.
async fn whole(request: Request<Body>) -> Result<Request<Body>, Status> {
    let (head, body) = request.into_parts();
    let bytes = axum::body::to_bytes(axum::body::Body::new(body), REQUEST_BYTES_MAX).await;
    // Who has broken off does not hear it.
    let bytes = bytes.map_err(|_| bounds::too_long())?;
    Ok(Request::from_parts(head, Body::new(axum::body::Body::from(bytes))))
}

/// Who makes a call, and how long it may last; nobody, where a stranger may make it.
fn enter(
    driver: &Handle,
    peer: Option<Peer>,
    path: &str,
) -> Result<(Option<Caller>, Lasts), Status> {
    let peer = peer.ok_or_else(|| Reason::NoIdentity.status("the connection names nobody"))?;
    let Peer { who, address, line } = peer;
    let entered = match &who {
        Who::Stranger => find(path).and_then(|rule| match rule.strangers {
            true => Ok((None, rule.lasts)),
            false => Err(Reason::NoIdentity.status("a certificate is needed to call this")),
        }),
        Who::Member { identity, key, until } => find(path).and_then(|rule| {
            let member = permit(driver, &identity.role, key, rule)?;
            Ok((Some(Caller { member, key: *key, until: *until, rule, line }), rule.lasts))
        }),
    };
    if let Err(status) = &entered {
        info!(%who, %address, reason = status.message(), "call refused");
    }
    entered
}
