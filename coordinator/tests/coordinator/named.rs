//! Each limit by its name, in the error that its caller gets over real TLS and HTTP/2: what `channel::told` says
//! of a failed call, or why no connection comes about. Those that `bounds`, `door`, `readers` and `slots` put to
//! the proof are named there.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use fedpaint_coordinator::clock::{ManualClock, SystemClock};
use fedpaint_coordinator::limits::{HTTP2_HEADER_LIST_BYTES_HARD_MAX, Limits};
use fedpaint_proto::channel::{self, Address, Route, told};
use fedpaint_proto::farewell::Heard;
use fedpaint_proto::limits::{
    CHUNK_BYTES_MAX, HTTP2_HEADER_LIST_BYTES_MAX, HTTP2_STREAMS_MAX, MESSAGE_BYTES_MAX,
    TRANSFER_STALL_TIMEOUT,
};
use fedpaint_proto::reason::Reason;
use fedpaint_proto::tls;
use fedpaint_proto::v1::upload_request::Part;
use fedpaint_proto::v1::{
    DownloadRequest, DownloadResponse, ListRunsRequest, PauseRunRequest, SubmitUpdateRequest,
    UploadHeader, UploadRequest, UploadResponse,
};
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;
use tonic::{Request, Status, Streaming};
use tower::service_fn;

use crate::bounds::{given, never_ends, start_clock};
use crate::federation::{Client, Federation};
use crate::pki::Leaf;
use crate::raw::{CONTINUATION, END_HEADERS, Frame, HEADERS, call, frame, header, next, reset};
use crate::readers::narrow;
use crate::rounds::{blob, create_run, initial};

const HEARTBEAT: &str = "/fedpaint.v1.FederationService/Heartbeat";
const UPLOAD: &str = "/fedpaint.v1.BlobService/Upload";

/// How long what must come may take, by the real clock.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a reader has to hear why its stream ends, in `service/mod.rs`.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(2);

/// How much of a model may be under way to who reads it slowly: less than a piece of it.
const WINDOW_BYTES: u32 = 16 << 10;

/// How often nothing more is given out until that is believed.
const LOOKS: usize = 20;

/// Streams of a blow, and the first of them: far behind those of the client on whose connection they are.
const STREAMS: u32 = 1_000;
const OTHERS: u32 = 1_001;

/// An upload of one piece of so many bytes.
async fn piece(client: &Client, bytes: usize) -> Result<(), Status> {
    let header = UploadHeader { purpose: Some(initial()), blob: Some(blob(b"model")), offset: 0 };
    let parts = [Part::Header(header), Part::Data(vec![7_u8; bytes].into())];
    let parts = parts.map(|part| UploadRequest { part: Some(part) });
    client.blobs.clone().upload(tokio_stream::iter(parts)).await.map(drop)
}

#[tokio::test]
async fn what_is_too_long_is_refused_by_the_name_of_its_limit() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let mut site = federation.site("mayo").await;
    let mut long = Request::new(ListRunsRequest {});
    let value = "a".repeat(HTTP2_HEADER_LIST_BYTES_MAX as usize);
    long.metadata_mut().insert("x-long", value.parse().unwrap());
    let name = PauseRunRequest { name: "a".repeat(MESSAGE_BYTES_MAX), round: None };
    let base_model_digest = vec![7; MESSAGE_BYTES_MAX];
    let update = SubmitUpdateRequest { base_model_digest, ..SubmitUpdateRequest::default() };
    let refused = [
        ("HTTP2_HEADER_LIST_BYTES_MAX", operator.admin.list_runs(long).await.map(drop)),
        // A message of a short call, of one whose work may last, and one of many.
        ("MESSAGE_BYTES_MAX", operator.admin.pause_run(name).await.map(drop)),
        ("MESSAGE_BYTES_MAX", site.federation.submit_update(update).await.map(drop)),
        ("MESSAGE_BYTES_MAX", piece(&operator, MESSAGE_BYTES_MAX).await),
    ];
    for (limit, refused) in refused {
        let refused = refused.unwrap_err();
        assert_eq!(Reason::of(&refused), Some(Reason::TooLong), "{limit}: {refused}");
        assert!(told(&refused).contains(limit), "{limit}: {refused}");
    }
    let refused = piece(&operator, CHUNK_BYTES_MAX + 1).await.unwrap_err();
    assert!(told(&refused).contains("CHUNK_BYTES_MAX"), "{refused}");
    federation.stop().await;
}

#[tokio::test]
async fn a_call_more_than_a_connection_may_have_is_refused_by_the_name_of_the_limit() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let mut calls = JoinSet::new();
    for _ in 0..=HTTP2_STREAMS_MAX {
        calls.spawn(never_ends::<UploadRequest, UploadResponse>(&operator, UPLOAD).await);
    }
    let first = tokio::time::timeout(PATIENCE, calls.join_next()).await.unwrap();
    let first = first.unwrap().unwrap().unwrap().unwrap_err();
    let next = operator.admin.list_runs(ListRunsRequest {}).await.unwrap_err();
    for refused in [first, next] {
        assert_eq!(Reason::of(&refused), Some(Reason::TooManyCalls), "{refused}");
        assert!(told(&refused).contains("HTTP2_STREAMS_MAX"), "{refused}");
    }
    federation.operator().await.admin.list_runs(ListRunsRequest {}).await.unwrap();
    federation.stop().await;
}

/// Connects as a stranger, or as a member.
async fn connect(federation: &Federation, as_stranger: bool) -> Result<(), channel::Error> {
    if as_stranger {
        let pin = tls::pin(&federation.authority.der()).unwrap();
        let address: Address = format!("https://{}", federation.address).parse().unwrap();
        return channel::join_by(&Route::default(), &address, pin).await.map(drop);
    }
    let leaf = Leaf::client("spiffe://brain/operator/ada");
    federation.connect(&federation.certificate(&federation.authority, &leaf)).await.map(drop)
}

#[tokio::test]
async fn whoever_finds_no_place_is_told_by_which_limit() {
    let usual = Limits::default();
    for (told, limits, as_stranger) in [
        ("(HANDSHAKES_MAX, ", Limits { handshakes_max: 0, ..usual }, false),
        ("0 connections are open", Limits { connections_max: 0, ..usual }, false),
        ("may be (CONNECTIONS_MAX)", Limits { connections_max: 0, ..usual }, true),
        ("may be (STRANGERS_MAX)", Limits { strangers_max: 0, ..usual }, true),
    ] {
        let federation = Federation::start_within(limits, Arc::new(SystemClock)).await;
        let refused = connect(&federation, as_stranger).await.unwrap_err();
        assert!(refused.to_string().contains(told), "{told}: {refused}");
        federation.stop().await;
    }
}

#[tokio::test]
async fn who_has_too_many_connections_is_told_the_limit() {
    let federation = Federation::start().await;
    let leaf = Leaf::client("spiffe://brain/operator/ada");
    let files = federation.certificate(&federation.authority, &leaf);
    let mut open = Vec::new();
    let refused = loop {
        match federation.connect(&files).await {
            Ok(client) => open.push(client),
            Err(refused) => break refused,
        }
        assert!(open.len() <= 100, "there is no limit");
    };
    assert!(refused.to_string().contains("CONNECTIONS_PER_PEER_MAX"), "{refused}");
    drop(open);
    federation.stop().await;
}

/// A client's connection on which frames of somebody else come to the coordinator too, where the client is quiet.
async fn shared(federation: &Federation, uri: &str) -> (Client, mpsc::Sender<Vec<u8>>) {
    let files = federation.certificate(&federation.authority, &Leaf::client(uri));
    let tcp = TcpStream::connect(federation.address).await.unwrap();
    let name = ServerName::from(federation.address.ip());
    let stream = TlsConnector::from(files.client().unwrap()).connect(name, tcp).await.unwrap();
    let (near, far) = tokio::io::duplex(64 << 10);
    let (mut from_there, mut to_there) = tokio::io::split(stream);
    let (mut from_client, mut to_client) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Ok(Frame { kind, flags, stream, payload }) = next(&mut from_there).await {
            // Of somebody else's streams the client is to know nothing.
            let known = frame(kind, flags, stream, &payload);
            if stream < OTHERS && to_client.write_all(&known).await.is_err() {
                return;
            }
        }
    });
    let (blows, mut blow) = mpsc::channel::<Vec<u8>>(1);
    tokio::spawn(async move {
        let mut bytes = vec![0; 16 << 10];
        loop {
            let bytes = tokio::select! {
                read = from_client.read(&mut bytes) => match read {
                    Ok(length @ 1..) => bytes[..length].to_vec(),
                    _ => return,
                },
                Some(blow) = blow.recv() => blow,
            };
            if to_there.write_all(&bytes).await.is_err() || to_there.flush().await.is_err() {
                return;
            }
        }
    });
    let mut near = Some(near);
    let once = service_fn(move |_: Uri| std::future::ready(take(&mut near)));
    let channel = Endpoint::from_static("http://127.0.0.1").connect_with_connector(once).await;
    (Client::over(channel.unwrap()), blows)
}

/// The connection, the first time.
fn take(near: &mut Option<DuplexStream>) -> io::Result<TokioIo<Heard<DuplexStream>>> {
    let near = near.take().ok_or_else(|| io::Error::other("it is connected once"))?;
    Ok(TokioIo::new(Heard::new(near)))
}

#[tokio::test]
async fn what_floods_a_connection_is_named_in_the_error_of_a_call_that_is_under_way_on_it() {
    let headers = call(HEARTBEAT, &[]);
    let begin = |n: u32| frame(HEADERS, END_HEADERS, OTHERS + 2 * n, &headers);
    let overflow = 0x7fff_ffff_u32.to_be_bytes();
    let piece =
        |bytes: usize| frame(CONTINUATION, 0, OTHERS, &header("x-more", &"a".repeat(bytes)));
    let endless = frame(HEADERS, 0, OTHERS, &headers);
    let far_beyond = 4 * HTTP2_HEADER_LIST_BYTES_HARD_MAX as usize;
    let each = |more: &dyn Fn(u32) -> Vec<u8>| -> Vec<u8> {
        (0..STREAMS).flat_map(|n| [begin(n), more(OTHERS + 2 * n)].concat()).collect()
    };
    for (limit, blow) in [
        ("PENDING_RESETS_MAX", each(&reset)),
        ("LOCAL_RESETS_MAX", each(&|stream| frame(8, 0, stream, &overflow))),
        ("HTTP2_HEADER_LIST_BYTES_MAX", [endless.clone(), piece(far_beyond)].concat()),
        ("HTTP2_HEADER_FRAMES_MAX", [endless, piece(10).repeat(6)].concat()),
    ] {
        let federation = Federation::start().await;
        federation.site("mayo").await;
        let (mut client, blows) = shared(&federation, "spiffe://brain/site/mayo").await;
        client.beat().await.unwrap();
        let upload = never_ends::<UploadRequest, UploadResponse>(&client, UPLOAD).await;
        // Behind the second answer the call has come to the coordinator, and the client is quiet.
        for _ in 0..2 {
            client.beat().await.unwrap();
        }
        blows.send(blow).await.unwrap();
        let ended = tokio::time::timeout(PATIENCE, upload).await.unwrap().unwrap().unwrap_err();
        let said = told(&ended);
        assert!(said.starts_with("the coordinator closed the connection: "), "{limit}: {said}");
        assert!(said.contains(limit), "{limit}: {said}");
        federation.stop().await;
    }
}

/// A download that is begun and not read, by a site with a small window, when the least that must move has not
/// moved for long; and somebody else.
async fn not_read(
    federation: &Federation,
    clock: &ManualClock,
) -> (Streaming<DownloadResponse>, Client, Client) {
    let mut operator = federation.operator().await;
    let (mut mayo, mut oslo) = (federation.site("mayo").await, federation.site("oslo").await);
    let base = create_run(&mut operator, &vec![1.0; 400_000]).await;
    mayo.join().await;
    oslo.join().await;
    let mut reader = narrow(federation, "spiffe://brain/site/mayo", WINDOW_BYTES).await;
    let request = DownloadRequest { digest: blob(&base).digest, offset: 0 };
    let pieces = reader.blobs.download(request).await.unwrap().into_inner();
    // All that there is room for is given out.
    let (mut before, mut looks) = (0, 0);
    while looks < LOOKS {
        let now = given(federation).await;
        looks = if now == before && now > 0 { looks + 1 } else { 0 };
        before = now;
    }
    clock.advance(TRANSFER_STALL_TIMEOUT);
    settle(&mut oslo).await;
    (pieces, reader, oslo)
}

/// Time for who was woken by the clock: they come before the answers to somebody else.
async fn settle(other: &mut Client) {
    for _ in 0..3 {
        other.beat().await.unwrap();
    }
}

/// How a download ends that is read now.
async fn end(mut pieces: Streaming<DownloadResponse>) -> Status {
    loop {
        let next = tokio::time::timeout(PATIENCE, pieces.message()).await;
        match next.expect("what waits is there, and then the end") {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the download ended as if it were whole"),
            Err(status) => return status,
        }
    }
}

// Each on one thread, where whoever is woken first goes first.
#[tokio::test]
async fn a_slow_reader_is_told_the_limit_by_the_answer_itself_where_its_window_lets_that_end() {
    let clock = start_clock();
    let federation = Federation::start_at(Arc::new(clock.clone())).await;
    let (pieces, mut reader, _oslo) = not_read(&federation, &clock).await;
    let ended = end(pieces).await;
    assert_eq!(Reason::of(&ended), Some(Reason::TooSlow), "{ended}");
    assert!(told(&ended).contains("PACE_BYTES_MIN"), "{ended}");
    reader.beat().await.unwrap();
    federation.stop().await;
}

#[tokio::test]
async fn a_slow_reader_whose_window_lets_nothing_end_is_told_the_limit_by_the_connections_last_word()
 {
    let clock = start_clock();
    let federation = Federation::start_at(Arc::new(clock.clone())).await;
    let (pieces, _reader, mut oslo) = not_read(&federation, &clock).await;
    clock.advance(LAST_WORD_TIMEOUT);
    settle(&mut oslo).await;
    let ended = end(pieces).await;
    assert_eq!(Reason::of(&ended), None, "{ended}");
    let said = told(&ended);
    for part in ["the coordinator closed the connection: ", "PACE_BYTES_MIN", "PACE_TIME"] {
        assert!(said.contains(part), "{said}");
    }
    federation.stop().await;
}
