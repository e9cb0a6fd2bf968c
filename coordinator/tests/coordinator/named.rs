//! Each limit by its name, in the error that its caller gets over real TLS and HTTP/2: what `channel::told` says
//! of a failed call, or why no connection comes about. Those that `bounds`, `door`, `readers` and `slots` put to
//! the proof are named there.

use std::sync::Arc;
use std::time::Duration;

use fedpaint_coordinator::clock::{ManualClock, SystemClock};
use fedpaint_coordinator::limits::Limits;
use fedpaint_proto::channel::{self, Address, Route, told};
use fedpaint_proto::limits::{
    CHUNK_BYTES_MAX, HTTP2_FRAME_BYTES_MAX, HTTP2_HEADER_LIST_BYTES_HARD_MAX,
    HTTP2_HEADER_LIST_BYTES_MAX, HTTP2_STREAMS_HARD_MAX, HTTP2_STREAMS_MAX, MESSAGE_BYTES_MAX,
    MODEL_BYTES_MAX, TRANSFER_STALL_TIMEOUT,
};
use fedpaint_proto::reason::Reason;
use fedpaint_proto::tls;
use fedpaint_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use fedpaint_proto::v1::upload_request::Part;
use fedpaint_proto::v1::{
    BlobRef, DownloadRequest, DownloadResponse, JoinRequest, ListRunsRequest, PauseRunRequest,
    SubmitUpdateRequest, UploadHeader, UploadRequest, UploadResponse,
};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use crate::bounds::{given, never_ends, start_clock};
use crate::federation::{Client, Federation};
use crate::pki::Leaf;
use crate::raw::{CONTINUATION, DATA, END_HEADERS, HEADERS, call, frame, header, reset};
use crate::readers::narrow;
use crate::rounds::{blob, create_run, initial};
use crate::shared::{OTHERS, at_once, shared};

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

/// Streams of a blow.
const STREAMS: u32 = 1_000;

/// Calls of a stranger, of which the last at the latest is one too many.
const ASKED: usize = 100;

/// A call whose headers have more than so many bytes.
async fn long_call(client: &mut Client, bytes: usize) -> Result<(), Status> {
    let mut long = Request::new(ListRunsRequest {});
    long.metadata_mut().insert("x-long", "a".repeat(bytes).parse().unwrap());
    client.admin.list_runs(long).await.map(drop)
}

/// An upload of one piece of so many bytes.
async fn piece(client: &Client, bytes: usize) -> Result<(), Status> {
    upload(client, blob(b"model"), bytes).await
}

/// An upload of one piece of so many bytes, which is to be this blob's first.
async fn upload(client: &Client, blob: BlobRef, bytes: usize) -> Result<(), Status> {
    let header = UploadHeader { purpose: Some(initial()), blob: Some(blob), offset: 0 };
    let parts = [Part::Header(header), Part::Data(vec![7_u8; bytes].into())];
    let parts = parts.map(|part| UploadRequest { part: Some(part) });
    client.blobs.clone().upload(tokio_stream::iter(parts)).await.map(drop)
}

#[tokio::test]
async fn what_is_too_long_is_refused_by_the_name_of_its_limit() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let mut site = federation.site("mayo").await;
    let long = HTTP2_HEADER_LIST_BYTES_MAX as usize;
    let name = PauseRunRequest { name: "a".repeat(MESSAGE_BYTES_MAX), round: None };
    let base_model_digest = vec![7; MESSAGE_BYTES_MAX];
    let update = SubmitUpdateRequest { base_model_digest, ..SubmitUpdateRequest::default() };
    let refused = [
        ("HTTP2_HEADER_LIST_BYTES_MAX", long_call(&mut operator, long).await),
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
    let huge = BlobRef { size: MODEL_BYTES_MAX + 1, ..blob(b"model") };
    let refused = upload(&operator, huge, 1).await.unwrap_err();
    assert_eq!(Reason::of(&refused), Some(Reason::TooLarge), "{refused}");
    assert!(told(&refused).contains("(MODEL_BYTES_MAX)"), "{refused}");
    federation.stop().await;
}

#[tokio::test]
async fn headers_that_http2_does_not_read_are_refused_by_the_name_of_its_limit() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    // Behind an answer the client knows how long the frames may be, and needs one for all of them.
    long_call(&mut operator, 10).await.unwrap();
    let refused = long_call(&mut operator, 100 << 10).await.unwrap_err();
    assert_eq!(Reason::of(&refused), None, "{refused}");
    let value = format!("{HTTP2_HEADER_LIST_BYTES_HARD_MAX} bytes or more");
    for part in [value.as_str(), "(HTTP2_HEADER_LIST_BYTES_HARD_MAX)"] {
        assert!(told(&refused).contains(part), "{refused:?}");
    }
    long_call(&mut operator, 10).await.unwrap();
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

#[tokio::test]
async fn a_call_beyond_the_streams_that_http2_lets_a_connection_have_is_told_that_limit() {
    let federation = Federation::start().await;
    federation.site("mayo").await;
    let client = at_once(&federation, "spiffe://brain/site/mayo", HTTP2_STREAMS_HARD_MAX + 1).await;
    let mut calls = JoinSet::new();
    for _ in 0..=HTTP2_STREAMS_HARD_MAX {
        calls.spawn(never_ends::<UploadRequest, UploadResponse>(&client, UPLOAD).await);
    }
    let refused = loop {
        let ended = tokio::time::timeout(PATIENCE, calls.join_next()).await.unwrap();
        let ended = ended.unwrap().unwrap().unwrap().unwrap_err();
        if Reason::of(&ended) != Some(Reason::TooManyCalls) {
            break ended;
        }
    };
    let limit = format!("{HTTP2_STREAMS_HARD_MAX} streams are open");
    for part in [limit.as_str(), "(HTTP2_STREAMS_HARD_MAX)"] {
        assert!(told(&refused).contains(part), "{refused:?}");
    }
    federation.stop().await;
}

/// The way in for who has no certificate.
async fn stranger(federation: &Federation) -> Result<Channel, channel::Error> {
    let pin = tls::pin(&federation.authority.der()).unwrap();
    let address: Address = format!("https://{}", federation.address).parse().unwrap();
    channel::join_by(&Route::default(), &address, pin).await
}

#[tokio::test]
async fn a_stranger_who_asks_too_often_is_told_how_often_it_may() {
    // At a time that stands still no call more is earned.
    let clock = Arc::new(start_clock());
    let federation = Federation::start_within(Limits::default(), clock).await;
    let mut door = EnrolmentServiceClient::new(stranger(&federation).await.unwrap());
    let mut refused = Vec::new();
    for _ in 0..ASKED {
        refused.push(door.join(JoinRequest::default()).await.unwrap_err());
    }
    assert_ne!(Reason::of(&refused[0]), Some(Reason::TooOften), "{}", refused[0]);
    let last = &refused[ASKED - 1];
    assert_eq!(Reason::of(last), Some(Reason::TooOften), "{last}");
    for limit in ["40 calls at once (BURST)", "one every 2 s (CALL_EVERY)"] {
        assert!(told(last).contains(limit), "{last}");
    }
    federation.stop().await;
}

/// Connects as a stranger, or as a member.
async fn connect(federation: &Federation, as_stranger: bool) -> Result<(), channel::Error> {
    if as_stranger {
        return stranger(federation).await.map(drop);
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

/// What ends a connection, by the limit that it is beyond.
fn blows() -> [(&'static str, Vec<u8>); 6] {
    let headers = call(HEARTBEAT, &[]);
    let hard_max = HTTP2_HEADER_LIST_BYTES_HARD_MAX as usize;
    let begin = |n: u32| frame(HEADERS, END_HEADERS, OTHERS + 2 * n, &headers);
    let overflow = 0x7fff_ffff_u32.to_be_bytes();
    let piece =
        |bytes: usize| frame(CONTINUATION, 0, OTHERS, &header("x-more", &"a".repeat(bytes)));
    let endless = frame(HEADERS, 0, OTHERS, &headers);
    // Headers that are too long already, and a string that one more frame does not end.
    let (beyond, string) = (header("x-more", &"a".repeat(hard_max)), "a".repeat(2 * hard_max));
    let string = header("x-more", &string);
    let (first, second) = (&string[..1_000], &string[1_000..1_000 + hard_max]);
    let beyond = frame(HEADERS, 0, OTHERS, &[&headers[..], &beyond, first].concat());
    // Its head is all that is read of it.
    let [_, a, b, c] = (HTTP2_FRAME_BYTES_MAX + 1).to_be_bytes();
    let long = [&[a, b, c, DATA, 0][..], &OTHERS.to_be_bytes()].concat();
    let each = |more: &dyn Fn(u32) -> Vec<u8>| -> Vec<u8> {
        (0..STREAMS).flat_map(|n| [begin(n), more(OTHERS + 2 * n)].concat()).collect()
    };
    [
        ("PENDING_RESETS_MAX", each(&reset)),
        ("LOCAL_RESETS_MAX", each(&|stream| frame(8, 0, stream, &overflow))),
        ("HTTP2_HEADER_LIST_BYTES_MAX", [endless.clone(), piece(4 * hard_max)].concat()),
        ("HTTP2_HEADER_FRAMES_MAX", [endless, piece(10).repeat(6)].concat()),
        (
            "HTTP2_HEADER_LIST_BYTES_HARD_MAX",
            [beyond, frame(CONTINUATION, 0, OTHERS, second)].concat(),
        ),
        ("HTTP2_FRAME_BYTES_MAX", long),
    ]
}

#[tokio::test]
async fn what_floods_a_connection_is_named_in_the_error_of_a_call_that_is_under_way_on_it() {
    for (limit, blow) in blows() {
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
