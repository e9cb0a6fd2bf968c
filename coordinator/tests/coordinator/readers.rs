//! Who opens a stream of messages and never reads it. Time is the clock's, which the test moves by hand.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fedpaint_proto::farewell::Heard;
use fedpaint_proto::limits::TRANSFER_STALL_TIMEOUT;
use fedpaint_proto::v1::{ListRunsRequest, PauseRunRequest, ResumeRunRequest, WatchRunRequest};
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Code;
use tonic::transport::Endpoint;
use tower::service_fn;

use crate::bounds::start_clock;
use crate::federation::{Client, Federation};
use crate::pki::Leaf;
use crate::rounds::create_run;

/// How much of a stream may be under way to its reader: less than one message. By a usual window it takes many
/// messages until one waits, and h2 ends a connection by itself on which many small frames lie unread.
const WINDOW_BYTES: u32 = 64;

/// How often what is watched changes, and then the clock moves by as long as a message may wait. Four are enough:
/// one message is under way, one waits for the window, one behind it, and the next waits until its time is over.
const CHANGES: usize = 20;

/// How long a message that must be there may take to come, by the real clock.
const PATIENCE: Duration = Duration::from_secs(60);

type Line = TokioIo<Heard<TlsStream<TcpStream>>>;

async fn dial(address: SocketAddr, tls: Arc<ClientConfig>) -> io::Result<Line> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let stream = TlsConnector::from(tls).connect(ServerName::from(address.ip()), tcp).await?;
    Ok(TokioIo::new(Heard::new(stream)))
}

/// Somebody who has so small a window for each stream. A task of its own serves the connection, so that it
/// answers when it is asked whether it is still there, also while nobody reads.
pub(crate) async fn narrow(federation: &Federation, uri: &str, window_bytes: u32) -> Client {
    let files = federation.certificate(&federation.authority, &Leaf::client(uri));
    let (address, tls) = (federation.address, files.client().unwrap());
    let dialled = service_fn(move |_: Uri| dial(address, Arc::clone(&tls)));
    let endpoint = Endpoint::from_static("http://127.0.0.1");
    let endpoint = endpoint.initial_stream_window_size(window_bytes);
    Client::over(endpoint.connect_with_connector(dialled).await.unwrap())
}

/// Changes the run `t1`, and changes it back.
async fn change(operator: &mut Client) {
    let pause = PauseRunRequest { name: "t1".into(), round: None };
    operator.admin.pause_run(pause).await.unwrap();
    let resume = ResumeRunRequest { name: "t1".into(), round: None };
    operator.admin.resume_run(resume).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_never_read_ends_by_the_limit_and_its_connection_goes_on() {
    let clock = start_clock();
    let federation = Federation::start_at(Arc::new(clock.clone())).await;
    let mut operator = federation.operator().await;
    create_run(&mut operator, &[1.0]).await;
    let mut reader = narrow(&federation, "spiffe://brain/operator/bob", WINDOW_BYTES).await;
    let watch = WatchRunRequest { name: "t1".into() };
    let mut watch = reader.admin.watch_run(watch).await.unwrap().into_inner();
    for _ in 0..CHANGES {
        change(&mut operator).await;
        clock.advance(TRANSFER_STALL_TIMEOUT);
    }
    let mut read = 0;
    let end = loop {
        let next = tokio::time::timeout(PATIENCE, watch.message()).await;
        match next.expect("what waits is there, and then the end") {
            Ok(Some(_)) => read += 1,
            Ok(None) => panic!("the stream ended as if the run had"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::DeadlineExceeded, "{end}");
    for told in ["the next message was not read for 60 s", "READ_TIMEOUT"] {
        assert!(end.message().contains(told), "{end}");
    }
    assert!((1..CHANGES).contains(&read), "{read} messages were kept for who never reads");
    reader.admin.list_runs(ListRunsRequest {}).await.unwrap();
    federation.stop().await;
}
