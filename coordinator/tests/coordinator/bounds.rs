//! Who is slow, silent or everywhere at once is ended or refused by a limit with a name. Time is the clock's,
//! which these tests move by hand.

use std::sync::Arc;
use std::time::Duration;

use fedpaint_coordinator::blobs::STAGED_PARTS_MAX;
use fedpaint_coordinator::clock::{Clock, ManualClock, SystemClock};
use fedpaint_proto::limits::{CALL_TIMEOUT, PIECE_BYTES, TRANSFER_STALL_TIMEOUT};
use fedpaint_proto::reason::Reason;
use fedpaint_proto::tls::TlsFiles;
use fedpaint_proto::v1::upload_request::Part;
use fedpaint_proto::v1::{
    CreateRunRequest, CreateRunResponse, DownloadRequest, HeartbeatRequest, HeartbeatResponse,
    SubmitUpdateRequest, SubmitUpdateResponse, UploadHeader, UploadRequest, UploadResponse,
};
use http::uri::PathAndQuery;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

use crate::access::metrics;
use crate::blobs::{committed, download};
use crate::federation::{Client, Federation};
use crate::pki::Leaf;
use crate::raw::{END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW_SIZE, Raw, call, frame};
use crate::rounds::{blob, create_run, initial, model};

/// The limits of `limits.rs`, `accept.rs` and `connections.rs`.
const HANDSHAKES_MAX: usize = 256;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECTIONS_PER_PEER_MAX: usize = 32;

/// Those of `http.rs`.
const PAGE_CONNECTIONS_MAX: usize = 32;
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);

const SECOND: Duration = Duration::from_secs(1);

/// How often a clock is moved until a test gives up: what waits by it may begin to wait only now.
const MOVES_MAX: usize = 100;

/// A clock that a test moves from now on, so that certificates hold.
pub(crate) fn start_clock() -> ManualClock {
    ManualClock::new(SystemClock.now())
}

async fn start() -> (ManualClock, Federation) {
    let clock = start_clock();
    let federation = Federation::start_at(Arc::new(clock.clone())).await;
    (clock, federation)
}

/// A certificate of site mayo, for connections beside its own.
fn mayo(federation: &Federation) -> TlsFiles {
    federation.certificate(&federation.authority, &Leaf::client("spiffe://brain/site/mayo"))
}

/// What `work` comes to, once the clock has moved far enough, step by step.
pub(crate) async fn moved<T>(
    clock: &ManualClock,
    step: Duration,
    work: impl Future<Output = T>,
) -> T {
    let mut work = Box::pin(work);
    for _ in 0..MOVES_MAX {
        clock.advance(step);
        // Time for who was woken, by the real clock: only how soon the test ends depends on it.
        if let Ok(done) = tokio::time::timeout(Duration::from_millis(50), &mut work).await {
            return done;
        }
    }
    panic!("it waits still after {MOVES_MAX} times {step:?}")
}

/// Whether the other end closes the connection, rather than say something.
async fn is_closed(tcp: &mut TcpStream) -> bool {
    matches!(tcp.read(&mut [0; 64]).await, Ok(0) | Err(_))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_do_not_end_are_ended_and_too_many_of_them_refused() {
    let (clock, federation) = start().await;
    let files =
        federation.certificate(&federation.authority, &Leaf::client("spiffe://brain/operator/ada"));
    let mut silent = Vec::new();
    for _ in 0..HANDSHAKES_MAX {
        silent.push(TcpStream::connect(federation.address).await.unwrap());
    }
    let mut more = TcpStream::connect(federation.address).await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(20), is_closed(&mut more)).await;
    assert_eq!(closed, Ok(true), "one more is closed at once");
    for tcp in &mut silent {
        assert!(moved(&clock, HANDSHAKE_TIMEOUT, is_closed(tcp)).await);
    }
    federation.connect(&files).await.unwrap();
    federation.stop().await;
}

#[tokio::test]
async fn who_has_too_many_connections_gets_no_more_and_others_do() {
    let federation = Federation::start().await;
    federation.site("mayo").await;
    let files = mayo(&federation);
    let mut open = Vec::new();
    // `site` has one already, which may or may not have ended.
    while open.len() <= CONNECTIONS_PER_PEER_MAX {
        let mut raw = Raw::connect(federation.address, &files, &[]).await;
        match raw.ping().await {
            Ok(_) => open.push(raw),
            Err(_) => break,
        }
    }
    let few = CONNECTIONS_PER_PEER_MAX - 1..=CONNECTIONS_PER_PEER_MAX;
    assert!(few.contains(&open.len()), "{}", open.len());
    federation.site("oslo").await.beat().await.unwrap();
    drop(open);
    federation.stop().await;
}

/// A call of `client` whose request never comes to its end, and what it comes to.
pub(crate) async fn never_ends<Q, A>(
    client: &Client,
    path: &'static str,
) -> JoinHandle<Result<(), Status>>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
{
    let mut client = Grpc::new(client.channel.clone());
    client.ready().await.unwrap();
    tokio::spawn(async move {
        let (_never, requests) = mpsc::channel::<Q>(1);
        let requests = Request::new(ReceiverStream::new(requests));
        let codec = ProstCodec::<Q, A>::default();
        let path = PathAndQuery::from_static(path);
        client.client_streaming(requests, path, codec).await.map(drop)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_request_does_not_end_is_ended_by_its_limit() {
    let (clock, federation) = start().await;
    let mut mayo = federation.site("mayo").await;
    let operator = federation.operator().await;
    let calls = [
        never_ends::<HeartbeatRequest, HeartbeatResponse>(
            &mayo,
            "/fedpaint.v1.FederationService/Heartbeat",
        )
        .await,
        // The work of these two may last, and their requests may not.
        never_ends::<SubmitUpdateRequest, SubmitUpdateResponse>(
            &mayo,
            "/fedpaint.v1.FederationService/SubmitUpdate",
        )
        .await,
        never_ends::<CreateRunRequest, CreateRunResponse>(
            &operator,
            "/fedpaint.v1.AdminService/CreateRun",
        )
        .await,
    ];
    mayo.beat().await.unwrap();
    clock.advance(CALL_TIMEOUT - SECOND);
    mayo.beat().await.unwrap();
    assert!(calls.iter().all(|call| !call.is_finished()), "not before their time");
    for call in calls {
        let status = moved(&clock, SECOND, call).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        assert!(status.message().contains("more than 30 s (CALL_TIMEOUT)"), "{status}");
    }
    mayo.beat().await.unwrap();
    federation.stop().await;
}

/// A call of Upload, begun and not ended, and its sender.
pub(crate) type Uploading =
    (JoinHandle<Result<Response<UploadResponse>, Status>>, mpsc::Sender<UploadRequest>);

/// Begins to upload the model `bytes` by its first byte, and waits until that has arrived.
pub(crate) async fn begin_upload(client: &mut Client, bytes: &[u8]) -> Uploading {
    let (sender, parts) = mpsc::channel(4);
    let mut other = client.clone();
    let call = tokio::spawn(async move { other.blobs.upload(ReceiverStream::new(parts)).await });
    let header = UploadHeader { purpose: Some(initial()), blob: Some(blob(bytes)), offset: 0 };
    sender.send(UploadRequest { part: Some(Part::Header(header)) }).await.unwrap();
    send_byte(client, &sender, bytes, 0).await;
    (call, sender)
}

/// Sends one byte of a model, and waits until it has arrived.
async fn send_byte(
    client: &mut Client,
    sender: &mpsc::Sender<UploadRequest>,
    bytes: &[u8],
    at: usize,
) {
    let data = Part::Data(vec![bytes[at]].into());
    sender.send(UploadRequest { part: Some(data) }).await.unwrap();
    while committed(client, &initial(), bytes).await.unwrap().committed_size <= at as u64 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_of_one_byte_a_second_is_ended_by_the_least_that_must_move() {
    let (clock, federation) = start().await;
    let mut operator = federation.operator().await;
    let bytes = model(&[1.0; 1000]);
    let begun = clock.now();
    let (call, sender) = begin_upload(&mut operator, &bytes).await;
    let seconds = usize::try_from(TRANSFER_STALL_TIMEOUT.as_secs()).unwrap();
    for second in 1..seconds {
        clock.advance(SECOND);
        send_byte(&mut operator, &sender, &bytes, second).await;
    }
    assert!(!call.is_finished(), "not before its time");
    let status = moved(&clock, SECOND, call).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    // Had each byte begun the time anew, it would have ended a minute after the last one.
    let lasted = clock.now().duration_since(begun).unsigned_abs();
    assert!(lasted < 2 * TRANSFER_STALL_TIMEOUT - SECOND, "{lasted:?}");
    assert_eq!(Reason::of(&status), Some(Reason::TooSlow));
    for told in ["less than 65518 bytes in 60 s", "PACE_BYTES_MIN", "PACE_TIME"] {
        assert!(status.message().contains(told), "{status}");
    }
    // What has come is kept, and may be gone on with.
    let held = committed(&mut operator, &initial(), &bytes).await.unwrap().committed_size;
    assert_eq!(held, seconds as u64);
    federation.stop().await;
}

/// How many bytes of blobs were given out, as `/metrics` has it.
pub(crate) async fn given(federation: &Federation) -> u64 {
    let text = metrics(federation).await;
    let line = text.lines().find_map(|line| line.strip_prefix("fedpaint_blob_out_bytes_total "));
    line.unwrap().parse().unwrap()
}

/// A message as the data of a call.
fn message(message: &impl prost::Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[0][..], &length, &bytes].concat()
}

/// A reader that never takes a byte of a model of `values` values.
async fn never_reads(values: usize) {
    /// Pieces that wait to be taken, and one that waits for its place; see `service/blob.rs`.
    const PIECES_MAX: usize = 8 + 1;
    let (clock, federation) = start().await;
    let mut operator = federation.operator().await;
    let mut sites = [federation.site("mayo").await, federation.site("oslo").await];
    let values = vec![1.0; values];
    let base = create_run(&mut operator, &values).await;
    for site in &mut sites {
        site.join().await;
    }
    let files = mayo(&federation);
    let settings = [(INITIAL_WINDOW_SIZE, 0)];
    let mut raw = Raw::connect(federation.address, &files, &settings).await;
    let headers = call("/fedpaint.v1.BlobService/Download", &[]);
    raw.send(&frame(HEADERS, END_HEADERS, 1, &headers)).await.unwrap();
    let request = DownloadRequest { digest: blob(&base).digest, offset: 0 };
    raw.send(&frame(0, END_STREAM, 1, &message(&request))).await.unwrap();
    raw.wait(HEADERS, 1).await.unwrap();
    // All that there is room for has been read.
    let room = base.len().min(PIECES_MAX * PIECE_BYTES) as u64;
    while given(&federation).await < room {
        tokio::task::yield_now().await;
    }
    clock.advance(TRANSFER_STALL_TIMEOUT - SECOND);
    sites[1].beat().await.unwrap();
    assert_eq!(raw.ping().await.unwrap(), [], "not before its time");
    let ended = moved(&clock, SECOND, raw.wait(0, 1)).await;
    assert!(ended.is_err(), "the connection has ended: {ended:?}");
    // Nobody else has noticed, and the site may come again.
    sites[1].beat().await.unwrap();
    let again = download(&mut sites[0], &blob(&base).digest, 0).await.unwrap();
    assert!(again == base);
    federation.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_never_takes_a_large_model_loses_its_connection_after_the_limit() {
    never_reads(400_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_never_takes_a_model_that_fits_into_the_buffers_loses_its_connection_too() {
    never_reads(20_000).await;
}

#[tokio::test]
async fn one_upload_more_than_a_sender_may_have_at_once_is_refused_by_the_limit() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let bytes = |n: usize| model(&[n as f32; 1000]);
    let mut open = Vec::new();
    for n in 0..STAGED_PARTS_MAX {
        open.push(begin_upload(&mut operator, &bytes(n)).await);
    }
    let header = UploadHeader { purpose: Some(initial()), blob: Some(blob(&bytes(99))), offset: 0 };
    let part = UploadRequest { part: Some(Part::Header(header)) };
    let more = async |mut client: Client| {
        client.blobs.upload(tokio_stream::iter([part.clone()])).await.map(drop)
    };
    let refused = more(operator.clone()).await.unwrap_err();
    assert_eq!(Reason::of(&refused), Some(Reason::UploadBusy));
    for told in ["STAGED_PARTS_MAX", "STAGED_BYTES_MAX", &format!("{STAGED_PARTS_MAX} blobs")] {
        assert!(refused.message().contains(told), "{refused}");
    }
    assert_eq!(refused.get_details_retry_info().unwrap().retry_delay, Some(SECOND));
    // One that has ended makes room.
    let (call, sender) = open.pop().unwrap();
    drop(sender);
    call.await.unwrap().unwrap();
    more(operator.clone()).await.unwrap();
    federation.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_to_the_status_pages_are_few_and_end() {
    let (clock, federation) = start().await;
    let mut silent = Vec::new();
    for _ in 0..PAGE_CONNECTIONS_MAX {
        silent.push(TcpStream::connect(federation.status_address).await.unwrap());
    }
    let mut more = TcpStream::connect(federation.status_address).await.unwrap();
    more.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let early = tokio::time::timeout(Duration::from_millis(200), more.read_to_string(&mut answer));
    assert!(early.await.is_err(), "it waits for a place");
    for tcp in &mut silent {
        assert!(moved(&clock, PAGE_TIMEOUT, is_closed(tcp)).await);
    }
    more.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    federation.stop().await;
}
