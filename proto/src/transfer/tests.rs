//! Transfers against a blob service that breaks its streams where it is told to.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Endpoint, Server};
use tonic::{Response, Streaming};

use super::blob_of as blob_of_file;
use super::receive::Keep;
use super::*;
use crate::budget::{RETRIES_BURST, RETRY_EVERY};
use crate::limits::{CHUNK_BYTES_MAX, RETRY_AFTER_MIN};
use crate::v1::blob_service_server::{BlobService, BlobServiceServer};
use crate::v1::upload_request::Part;

mod newest;

/// Waits short enough for a test; the waits themselves are tested by [`Patience::backoff`].
fn hasty() -> Patience {
    Patience {
        retries_max: 3,
        backoff_first: Duration::from_micros(10),
        backoff_max: Duration::from_micros(20),
        stall_timeout: Duration::from_millis(200),
        budget: Budget::default(),
    }
}

/// How one stream ends.
#[derive(Clone, Debug)]
enum Cut {
    /// The connection breaks after that many bytes.
    After(usize),
    /// No byte moves, and no answer comes.
    Stall,
    /// The caller is refused.
    Refuse(Reason),
    /// The caller is told when to come again.
    Later(Duration),
    /// All bytes move and the answer is lost.
    LoseAnswer,
}

#[derive(Default)]
struct State {
    /// What is given out.
    gives: Vec<u8>,
    /// What was taken of an upload.
    held: Vec<u8>,
    complete: bool,
    /// What happens to the next streams; those after them go well.
    cuts: VecDeque<Cut>,
    /// Bytes of data that went over the wire.
    moved: usize,
    /// Calls that open a stream.
    streams: usize,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<State>>);

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn giving(bytes: &[u8], cuts: impl Into<VecDeque<Cut>>) -> Fake {
        let fake = Fake::default();
        *fake.state() = State { gives: bytes.to_vec(), cuts: cuts.into(), ..State::default() };
        fake
    }

    async fn channel(&self) -> Channel {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = BlobServiceServer::new(self.clone());
        let server = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        endpoint.connect().await.unwrap()
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl BlobService for Fake {
    async fn get_manifest(
        &self,
        _: Request<v1::GetManifestRequest>,
    ) -> Answer<v1::GetManifestResponse> {
        Err(Status::unimplemented("nothing is signed here"))
    }

    async fn get_upload_status(
        &self,
        _: Request<v1::GetUploadStatusRequest>,
    ) -> Answer<v1::GetUploadStatusResponse> {
        let state = self.state();
        let (committed_size, complete) = (state.held.len() as u64, state.complete);
        Ok(Response::new(v1::GetUploadStatusResponse { committed_size, complete }))
    }

    async fn upload(
        &self,
        request: Request<Streaming<v1::UploadRequest>>,
    ) -> Answer<v1::UploadResponse> {
        let mut stream = request.into_inner();
        let Some(Part::Header(header)) = stream.message().await?.and_then(|m| m.part) else {
            return Err(Reason::InvalidRequest.status("no header"));
        };
        let blob = Blob::try_from(&header.blob.unwrap()).unwrap();
        let cut = {
            let mut state = self.state();
            state.streams += 1;
            if header.offset != state.held.len() as u64 {
                return Err(Reason::wrong_offset(state.held.len() as u64));
            }
            state.cuts.pop_front()
        };
        match cut {
            Some(Cut::Stall) => std::future::pending().await,
            Some(Cut::Refuse(reason)) => return Err(reason.status("refused")),
            Some(Cut::Later(after)) => return Err(later(after)),
            _ => {}
        }
        let mut room = if let Some(Cut::After(bytes)) = cut { bytes } else { usize::MAX };
        while let Some(message) = stream.message().await? {
            let Some(Part::Data(data)) = message.part else { panic!("a second header") };
            assert!(data.len() <= CHUNK_BYTES_MAX);
            let taken = data.len().min(room);
            let mut state = self.state();
            state.moved += taken;
            state.held.extend_from_slice(&data[..taken]);
            room -= taken;
            if room == 0 {
                return Err(Status::unavailable("cut"));
            }
        }
        let mut state = self.state();
        let committed_size = state.held.len() as u64;
        if committed_size == blob.size && Digest::of(&state.held) != blob.digest {
            state.held.clear();
            return Err(Reason::WrongDigest.status("these are other bytes"));
        }
        state.complete = committed_size == blob.size;
        if matches!(cut, Some(Cut::LoseAnswer)) {
            return Err(Status::unavailable("the answer is lost"));
        }
        Ok(Response::new(v1::UploadResponse { committed_size }))
    }

    type DownloadStream = Pin<Box<dyn Stream<Item = Result<v1::DownloadResponse, Status>> + Send>>;

    async fn download(
        &self,
        request: Request<v1::DownloadRequest>,
    ) -> Answer<Self::DownloadStream> {
        let mut state = self.state();
        state.streams += 1;
        let offset = usize::try_from(request.get_ref().offset).unwrap();
        let rest = state.gives[offset.min(state.gives.len())..].to_vec();
        let (rest, end) = match state.cuts.pop_front() {
            Some(Cut::Refuse(reason)) => return Err(reason.status("refused")),
            Some(Cut::Later(after)) => return Err(later(after)),
            Some(Cut::Stall) => {
                let nothing = v1::DownloadResponse { data: Bytes::new() };
                let nothings = tokio_stream::once(Ok(nothing)).chain(tokio_stream::pending());
                return Ok(Response::new(Box::pin(nothings)));
            }
            Some(Cut::After(bytes)) => {
                (rest[..bytes.min(rest.len())].to_vec(), Some(Err(Status::unavailable("cut"))))
            }
            Some(Cut::LoseAnswer) | None => (rest, None),
        };
        state.moved += rest.len();
        let pieces: Vec<_> = rest
            .chunks(CHUNK_BYTES_MAX)
            .map(|piece| Ok(v1::DownloadResponse { data: Bytes::copy_from_slice(piece) }))
            .chain(end)
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces))))
    }
}

/// What a coordinator says all whose places are taken.
fn later(after: Duration) -> Status {
    Reason::UploadBusy.status_after("32 uploads are under way", after)
}

/// Bytes that follow from a seed, so that every run of a test moves the same.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Cuts at lengths that follow from a seed; the last streams go well.
fn cuts(seed: u64, count: usize, len: usize) -> VecDeque<Cut> {
    let words = noise(seed, 8 * count);
    let word = |w: &[u8]| u64::from_le_bytes(w.try_into().unwrap());
    words.chunks(8).map(|w| Cut::After(1 + word(w) as usize % len)).collect()
}

fn blob_of(bytes: &[u8]) -> Blob {
    Blob { digest: Digest::of(bytes), size: bytes.len() as u64 }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

async fn put(fake: &Fake, bytes: &[u8], blob: Blob) -> Result<(), Error> {
    let folder = folder();
    let path = folder.path().join("update");
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(blob_of_file(&path).await.unwrap(), blob_of(bytes));
    let purpose = v1::UploadPurpose::default();
    send::send(&fake.channel().await, &purpose, blob, &path, &mut |_, _| {}, &hasty()).await
}

async fn get(fake: &Fake, blob: Blob, path: &Path) -> Result<(), Error> {
    let channel = fake.channel().await;
    receive::receive(&channel, blob, path, Keep::Durably, &mut |_, _| {}, &hasty()).await
}

#[tokio::test]
async fn an_upload_cut_anywhere_resumes_and_sends_every_byte_once() {
    for seed in 0..20 {
        let bytes = noise(seed, 2 * CHUNK_BYTES_MAX + 12_345);
        let fake = Fake::giving(&[], cuts(seed, 5, CHUNK_BYTES_MAX / 3));
        put(&fake, &bytes, blob_of(&bytes)).await.unwrap();
        let state = fake.state();
        assert!(state.complete && state.held == bytes, "seed {seed}");
        assert_eq!((state.moved, state.streams), (bytes.len(), 6), "seed {seed}");
    }
}

#[tokio::test]
async fn a_download_cut_anywhere_resumes_and_every_byte_lands_once() {
    for seed in 0..20 {
        let bytes = noise(seed, 2 * CHUNK_BYTES_MAX + 12_345);
        let fake = Fake::giving(&bytes, cuts(seed, 5, CHUNK_BYTES_MAX / 2));
        let folder = folder();
        let path = folder.path().join("base");
        get(&fake, blob_of(&bytes), &path).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "seed {seed}");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "no part is left");
        assert!(fake.state().streams >= 2, "seed {seed}");
    }
}

#[tokio::test]
async fn progress_rises_from_where_the_part_ended_to_the_size() {
    let bytes = noise(1, CHUNK_BYTES_MAX + 10);
    let fake = Fake::giving(&bytes, [Cut::After(CHUNK_BYTES_MAX)]);
    let folder = folder();
    let path = folder.path().join("base");
    std::fs::write(folder.path().join("base.part"), &bytes[..7]).unwrap();
    let mut seen = Vec::new();
    let mut progress = |done, size| seen.push((done, size));
    let (channel, size) = (fake.channel().await, bytes.len() as u64);
    receive::receive(&channel, blob_of(&bytes), &path, Keep::ForNow, &mut progress, &hasty())
        .await
        .unwrap();
    assert_eq!(seen.first(), Some(&(7, size)));
    assert_eq!(seen.last(), Some(&(size, size)));
    assert!(seen.is_sorted());
    assert_eq!(fake.state().moved, bytes.len() - 7, "only the rest is sent");
}

#[tokio::test]
async fn a_file_that_is_there_and_right_moves_nothing() {
    let bytes = noise(2, 1000);
    let folder = folder();
    let path = folder.path().join("base");
    std::fs::write(&path, &bytes).unwrap();
    let fake = Fake::giving(&bytes, []);
    assert!(!is_there(blob_of(&bytes), &folder.path().join("other")).await.unwrap());
    assert!(is_there(blob_of(&bytes), &path).await.unwrap());
    get(&fake, blob_of(&bytes), &path).await.unwrap();
    assert_eq!(fake.state().streams, 0);
    // One that is there and wrong is replaced.
    std::fs::write(&path, noise(3, 1000)).unwrap();
    assert!(!is_there(blob_of(&bytes), &path).await.unwrap());
    get(&fake, blob_of(&bytes), &path).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[tokio::test]
async fn a_blob_that_the_coordinator_has_is_not_sent_again() {
    let fake = Fake::default();
    fake.state().complete = true;
    put(&fake, b"weights", blob_of(b"weights")).await.unwrap();
    assert_eq!(fake.state().streams, 0);
}

#[tokio::test]
async fn an_upload_whose_answer_is_lost_is_found_complete() {
    let fake = Fake::giving(&[], [Cut::LoseAnswer]);
    put(&fake, b"weights", blob_of(b"weights")).await.unwrap();
    let state = fake.state();
    assert_eq!((state.streams, state.moved), (1, 7));
}

#[tokio::test]
async fn a_torn_part_is_thrown_away_and_the_download_begins_anew() {
    let bytes = noise(4, 5000);
    for torn in [noise(5, 3000), noise(5, 5000), noise(5, 9000)] {
        let folder = folder();
        let path = folder.path().join("base");
        std::fs::write(folder.path().join("base.part"), &torn).unwrap();
        get(&Fake::giving(&bytes, []), blob_of(&bytes), &path).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}

#[tokio::test]
async fn other_bytes_than_asked_for_are_refused_and_nothing_is_left() {
    let blob = blob_of(&noise(6, 5000));
    for given in [noise(7, 5000), noise(7, 5001)] {
        let folder = folder();
        let fake = Fake::giving(&given, []);
        let error = get(&fake, blob, &folder.path().join("base")).await.unwrap_err();
        assert!(matches!(error, Error::Digest { digest } if digest == blob.digest), "{error}");
        assert_eq!(fake.state().streams, 2, "it was tried once more");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_blob_shorter_than_its_size_ends_after_bounded_retries_and_keeps_the_part() {
    let bytes = noise(8, 5000);
    let fake = Fake::giving(&bytes[..4000], []);
    let folder = folder();
    let error = get(&fake, blob_of(&bytes), &folder.path().join("base")).await.unwrap_err();
    assert!(matches!(error, Error::Broken { retries: 3, .. }), "{error}");
    assert!(error.is_transient());
    assert_eq!(std::fs::read(folder.path().join("base.part")).unwrap(), bytes[..4000]);
}

#[tokio::test]
async fn bytes_that_differ_from_their_digest_are_uploaded_once_more_and_then_refused() {
    let fake = Fake::default();
    let blob = Blob { digest: Digest::of(b"weights"), size: 7 };
    let error = put(&fake, b"weighty", blob).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::WrongDigest));
    assert_eq!(fake.state().streams, 2);
}

#[tokio::test]
async fn a_refusal_ends_a_transfer_at_once() {
    let fake = Fake::giving(b"weights", [Cut::Refuse(Reason::RoundOver)]);
    let error = put(&fake, b"weights", blob_of(b"weights")).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::RoundOver));
    assert!(!error.is_transient());
    assert_eq!(fake.state().streams, 1);

    let fake = Fake::giving(b"weights", [Cut::Refuse(Reason::BlobUnknown)]);
    let folder = folder();
    let path = folder.path().join("base");
    let error = get(&fake, blob_of(b"weights"), &path).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::BlobUnknown));
    assert_eq!(fake.state().streams, 1);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "nothing is left");
}

#[tokio::test]
async fn only_retries_that_bring_no_byte_are_counted() {
    // Each stream brings one byte and breaks, far more often than a transfer may be resumed in vain.
    let bytes = noise(9, 21);
    let fake = Fake::giving(&bytes, vec![Cut::After(1); 20]);
    let folder = folder();
    get(&fake, blob_of(&bytes), &folder.path().join("base")).await.unwrap();
    assert_eq!(fake.state().streams, 21);

    let busy = vec![Cut::Refuse(Reason::UploadBusy); 9];
    let fake = Fake::giving(&[], busy);
    let error = put(&fake, &bytes, blob_of(&bytes)).await.unwrap_err();
    assert!(matches!(error, Error::Broken { retries: 3, .. }), "{error}");
    assert_eq!(error.reason(), Some(Reason::UploadBusy));
    assert_eq!(fake.state().streams, 4);
}

#[tokio::test]
async fn the_retries_of_all_transfers_of_one_caller_take_their_turn_in_its_budget() {
    let (folder, bytes) = (folder(), noise(13, 5000));
    let (blob, path) = (blob_of(&bytes), |name: &str| folder.path().join(name));
    std::fs::write(path("update"), &bytes).unwrap();
    let (budget, start) = (Budget::default(), tokio::time::Instant::now());
    // Of a burst as many are left as there are transfers that break, each once.
    for _ in 3..RETRIES_BURST {
        budget.reserve(start);
    }
    let breaking = async || Fake::giving(&bytes, [Cut::After(1)]).channel().await;
    let uploaded = async {
        let (channel, purpose) = (breaking().await, v1::UploadPurpose::default());
        upload(&channel, purpose, blob, &path("update"), &budget, &mut |_, _| {}).await
    };
    let downloaded =
        async { download(&breaking().await, blob, &path("base"), &budget, &mut |_, _| {}).await };
    let fetched =
        async { fetch(&breaking().await, blob, &path("again"), &budget, &mut |_, _| {}).await };
    tokio::try_join!(uploaded, downloaded, fetched).unwrap();
    assert!(budget.reserve(start) >= start + RETRY_EVERY);
}

#[tokio::test]
async fn being_told_to_come_again_is_no_failure_and_is_waited_for_as_long_as_told() {
    let (bytes, after) = (noise(12, 5000), RETRY_AFTER_MIN);
    // Far more often than a transfer may fail.
    let fake = Fake::giving(&[], vec![Cut::Later(after); 7]);
    let begun = tokio::time::Instant::now();
    put(&fake, &bytes, blob_of(&bytes)).await.unwrap();
    assert_eq!(fake.state().streams, 8);
    assert!(begun.elapsed() >= 7 * after, "it came too early: {:?}", begun.elapsed());

    // It is counted apart from failures: three of those are borne beside it, and no more.
    let refuse = Cut::Refuse(Reason::UploadBusy);
    let cuts = [refuse.clone(), Cut::Later(after), refuse.clone(), refuse.clone(), refuse];
    let fake = Fake::giving(&bytes, cuts);
    let folder = folder();
    let error = get(&fake, blob_of(&bytes), &folder.path().join("base")).await.unwrap_err();
    assert!(matches!(error, Error::Broken { retries: 3, .. }), "{error}");
    assert_eq!(fake.state().streams, 5);
}

#[tokio::test]
async fn a_stream_on_which_no_byte_moves_is_broken_off_and_resumed() {
    let bytes = noise(10, 3 * CHUNK_BYTES_MAX);
    let fake = Fake::giving(&[], [Cut::Stall]);
    put(&fake, &bytes, blob_of(&bytes)).await.unwrap();
    assert_eq!(fake.state().streams, 2);

    let fake = Fake::giving(&bytes, [Cut::Stall]);
    let folder = folder();
    get(&fake, blob_of(&bytes), &folder.path().join("base")).await.unwrap();
    assert_eq!(fake.state().streams, 2);
}

#[tokio::test]
async fn a_download_that_is_dropped_goes_on_where_it_was() {
    let bytes = noise(11, 5 * CHUNK_BYTES_MAX);
    let fake = Fake::giving(&bytes, []);
    let folder = folder();
    let path = folder.path().join("base");
    let (channel, blob) = (fake.channel().await, blob_of(&bytes));
    let (seen, mut far) = tokio::sync::watch::channel(0);
    let mut progress = |done, _| {
        seen.send_replace(done);
    };
    let patience = hasty();
    tokio::select! {
        _ = receive::receive(&channel, blob, &path, Keep::ForNow, &mut progress, &patience) => panic!("not dropped"),
        _ = far.wait_for(|done| *done >= 2 * CHUNK_BYTES_MAX as u64) => {}
    }
    assert!(!path.exists());
    *fake.state() = State { gives: bytes.clone(), ..State::default() };
    get(&fake, blob, &path).await.unwrap();
    // A write that was under way may have added a piece, and no byte came twice.
    let state = fake.state();
    assert_eq!(state.streams, 1);
    assert!(state.moved <= 3 * CHUNK_BYTES_MAX, "{}", state.moved);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[tokio::test]
async fn an_empty_blob_and_a_file_of_another_length_never_reach_the_wire() {
    let fake = Fake::default();
    let folder = folder();
    let path = folder.path().join("empty");
    get(&fake, blob_of(b""), &path).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"");
    let error = put(&fake, b"weights!", blob_of(b"weights")).await.unwrap_err();
    assert!(matches!(error, Error::Length { found: 8, expected: 7, .. }), "{error}");
    assert_eq!(fake.state().streams, 0);
}

#[test]
fn waits_double_up_to_a_bound_and_are_spread_by_a_quarter() {
    let wait = |retry, spread| Patience::within(&Budget::default()).backoff(retry, spread);
    for (retry, base) in [(1, 0.25), (2, 0.5), (5, 4.0), (8, 30.0), (1000, 30.0)] {
        assert_eq!(wait(retry, 0).as_secs_f64(), 0.75 * base);
        assert_eq!(wait(retry, 500).as_secs_f64(), 1.25 * base);
        assert_eq!(wait(retry, 501), wait(retry, 0));
    }
}
