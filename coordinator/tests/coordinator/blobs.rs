//! Blobs over the wire: pieces, resumption, and what is refused.

use fedpaint_proto::budget::Budget;
use fedpaint_proto::limits::CHUNK_BYTES_MAX;
use fedpaint_proto::names::{Blob, Digest};
use fedpaint_proto::reason::Reason;
use fedpaint_proto::transfer;
use fedpaint_proto::v1::upload_request::Part;
use fedpaint_proto::v1::{
    DownloadRequest, GetUploadStatusRequest, GetUploadStatusResponse, RevokeSiteRequest,
    UploadHeader, UploadPurpose, UploadRequest,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::federation::{Client, Federation};
use crate::rounds::{blob, create_run, initial, model, update};

/// Uploads all of `bytes`, as a client does that was never interrupted.
pub(crate) async fn upload(
    client: &mut Client,
    purpose: UploadPurpose,
    bytes: &[u8],
) -> Result<(), Status> {
    let status = committed(client, &purpose, bytes).await?;
    if status.complete {
        return Ok(());
    }
    let from = status.committed_size;
    let size = send(client, purpose, bytes, from, CHUNK_BYTES_MAX).await?;
    assert_eq!(size, bytes.len() as u64);
    Ok(())
}

pub(crate) async fn committed(
    client: &mut Client,
    purpose: &UploadPurpose,
    bytes: &[u8],
) -> Result<GetUploadStatusResponse, Status> {
    let purpose = Some(purpose.clone());
    let request = GetUploadStatusRequest { purpose, blob: Some(blob(bytes)) };
    Ok(client.blobs.get_upload_status(request).await?.into_inner())
}

/// One call of Upload: says that it begins at `offset`, and sends `bytes` from there on.
async fn send(
    client: &mut Client,
    purpose: UploadPurpose,
    bytes: &[u8],
    offset: u64,
    chunk_bytes: usize,
) -> Result<u64, Status> {
    let header = UploadHeader { purpose: Some(purpose), blob: Some(blob(bytes)), offset };
    let rest = &bytes[usize::try_from(offset).unwrap().min(bytes.len())..];
    let data = rest.chunks(chunk_bytes).map(|chunk| Part::Data(chunk.to_vec().into()));
    let parts: Vec<_> = std::iter::once(Part::Header(header))
        .chain(data)
        .map(|part| UploadRequest { part: Some(part) })
        .collect();
    let answer = client.blobs.upload(tokio_stream::iter(parts)).await?;
    Ok(answer.into_inner().committed_size)
}

pub(crate) async fn download(
    client: &mut Client,
    digest: &[u8],
    offset: u64,
) -> Result<Vec<u8>, Status> {
    let request = DownloadRequest { digest: digest.to_vec(), offset };
    let mut chunks = client.blobs.download(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.message().await? {
        assert!(!chunk.data.is_empty() && chunk.data.len() <= CHUNK_BYTES_MAX);
        bytes.extend_from_slice(&chunk.data);
    }
    Ok(bytes)
}

fn reason<T: std::fmt::Debug>(answer: Result<T, Status>) -> Option<Reason> {
    Reason::of(&answer.unwrap_err())
}

/// A model of a little more than three chunks.
fn large() -> Vec<u8> {
    let values: Vec<f32> = (0..800_000_u32).map(|v| v as f32).collect();
    model(&values)
}

#[tokio::test]
async fn a_broken_upload_goes_on_where_it_was_and_a_download_from_any_offset() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let bytes = large();

    // The stream breaks after one and a half chunks: the client goes away without an end.
    let (sender, parts) = mpsc::channel(4);
    let header = UploadHeader { purpose: Some(initial()), blob: Some(blob(&bytes)), offset: 0 };
    sender.send(UploadRequest { part: Some(Part::Header(header)) }).await.unwrap();
    for range in [0..CHUNK_BYTES_MAX, CHUNK_BYTES_MAX..CHUNK_BYTES_MAX * 3 / 2] {
        let data = Part::Data(bytes[range].to_vec().into());
        sender.send(UploadRequest { part: Some(data) }).await.unwrap();
    }
    let mut other = operator.clone();
    let call = tokio::spawn(async move { other.blobs.upload(ReceiverStream::new(parts)).await });
    while committed(&mut operator, &initial(), &bytes).await.unwrap().committed_size
        < CHUNK_BYTES_MAX as u64 * 3 / 2
    {
        tokio::task::yield_now().await;
    }
    // While it is under way nobody else may upload the same.
    let second = send(&mut operator, initial(), &bytes, 0, CHUNK_BYTES_MAX).await;
    assert_eq!(reason(second), Some(Reason::UploadBusy));
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    drop(sender);

    let status = loop {
        let status = committed(&mut operator, &initial(), &bytes).await.unwrap();
        // The coordinator learns of the break a moment later.
        match send(&mut operator, initial(), &bytes, 0, CHUNK_BYTES_MAX).await {
            Err(refusal) if Reason::of(&refusal) == Some(Reason::UploadBusy) => {
                tokio::task::yield_now().await;
            }
            other => {
                assert_eq!(reason(other), Some(Reason::WrongOffset));
                break status;
            }
        }
    };
    assert!(!status.complete);
    let from = status.committed_size;
    assert_eq!(from, CHUNK_BYTES_MAX as u64 * 3 / 2);
    let size = send(&mut operator, initial(), &bytes, from, 300_000).await.unwrap();
    assert_eq!(size, bytes.len() as u64);
    assert!(committed(&mut operator, &initial(), &bytes).await.unwrap().complete);
    // Doing it again is not an error.
    upload(&mut operator, initial(), &bytes).await.unwrap();

    let digest = blob(&bytes).digest;
    // A model that no run names is not given out.
    assert_eq!(reason(download(&mut operator, &digest, 0).await), Some(Reason::BlobUnknown));
    federation.stop().await;
}

#[tokio::test]
async fn a_download_begins_at_any_offset_and_nobody_reads_an_update() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let mut sites = [federation.site("a").await, federation.site("b").await];
    let values: Vec<f32> = (0..300_000_u32).map(|v| v as f32).collect();
    let base = create_run(&mut operator, &values).await;
    let digest = blob(&base).digest;
    let early = download(&mut sites[0], &digest, 0).await.unwrap();
    assert!(early == base, "it looks before it joins");
    for site in &mut sites {
        site.join().await;
    }
    for offset in [0, 1, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX + 1, base.len() - 1, base.len()] {
        let bytes = download(&mut sites[0], &digest, offset as u64).await.unwrap();
        assert!(bytes == base[offset..], "from {offset}");
    }
    let beyond = download(&mut sites[0], &digest, base.len() as u64 + 1).await;
    assert_eq!(reason(beyond), Some(Reason::InvalidRequest));

    // An update is given to nobody, not even to who sent it or to an operator.
    let train = sites[0].train().await;
    sites[0].report(&train, &values, 1).await.unwrap();
    let mut other = values.clone();
    other[0] = 2.0;
    let bytes = model(&other);
    upload(&mut sites[1], update(train.round.as_ref().unwrap()), &bytes).await.unwrap();
    for client in [&mut sites[1].clone(), &mut sites[0].clone(), &mut operator] {
        let answer = download(client, &blob(&bytes).digest, 0).await;
        assert_eq!(reason(answer), Some(Reason::BlobUnknown));
    }
    federation.stop().await;
}

#[tokio::test]
async fn the_clients_own_loops_move_a_model_both_ways() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let folder = tempfile::tempdir().unwrap();
    let (sent, got) = (folder.path().join("sent"), folder.path().join("got"));
    let values: Vec<f32> = (0..1_000_000_u32).map(|v| v as f32).collect();
    let bytes = model(&values);
    std::fs::write(&sent, &bytes).unwrap();
    let file = Blob { digest: Digest::of(&bytes), size: bytes.len() as u64 };
    let (mut up, mut down) = (0, 0);
    let channel = operator.channel.clone();
    let budget = Budget::default();
    transfer::upload(&channel, initial(), file, &sent, &budget, &mut |moved, _| up = moved)
        .await
        .unwrap();
    create_run(&mut operator, &values).await;
    transfer::download(&channel, file, &got, &budget, &mut |moved, _| down = moved).await.unwrap();
    assert_eq!((up, down), (file.size, file.size));
    assert!(std::fs::read(&got).unwrap() == bytes);
    federation.stop().await;
}

#[tokio::test]
async fn an_upload_that_breaks_a_rule_is_refused_with_its_reason() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let mut sites = [federation.site("a").await, federation.site("b").await];
    let base = create_run(&mut operator, &[1.0; 1000]).await;
    let round = sites[0].join().await;

    // Selection is not over yet, and b has not joined at all.
    let early = upload(&mut sites[0], update(&round), b"weights").await;
    assert_eq!(reason(early), Some(Reason::NotReporting));
    sites[1].join().await;
    let site = &mut sites[0];
    let as_operator = upload(site, initial(), b"weights").await;
    assert_eq!(reason(as_operator), Some(Reason::WrongRole));
    let as_site = upload(&mut operator, update(&round), b"weights").await;
    assert_eq!(reason(as_site), Some(Reason::WrongRole));
    let large = vec![0; base.len() + (2 << 20)];
    let too_large = upload(site, update(&round), &large).await;
    assert_eq!(reason(too_large), Some(Reason::TooLarge));

    // The bytes are not what the digest says; the next attempt begins anew.
    let right = model(&[2.0; 1000]);
    let mut wrong = right.clone();
    let (purpose, digest) = (Some(update(&round)), Some(blob(&right)));
    let header = UploadHeader { purpose, blob: digest, offset: 0 };
    wrong[10] ^= 1;
    let parts = [Part::Header(header.clone()), Part::Data(wrong.into())];
    let parts = parts.map(|part| UploadRequest { part: Some(part) });
    let answer = site.blobs.upload(tokio_stream::iter(parts)).await;
    assert_eq!(reason(answer), Some(Reason::WrongDigest));
    let status = committed(site, &update(&round), &right).await.unwrap();
    assert_eq!((status.committed_size, status.complete), (0, false));

    // More than was announced, a piece that is too long, no header, and a header twice.
    let data = |bytes: usize| Part::Data(vec![0; bytes].into());
    let first = Part::Header(header);
    for parts in [
        vec![first.clone(), data(right.len() + 1)],
        vec![first.clone(), data(CHUNK_BYTES_MAX + 1)],
        vec![data(1)],
        vec![first.clone(), first],
        vec![],
    ] {
        let parts = parts.into_iter().map(|part| UploadRequest { part: Some(part) });
        let parts: Vec<_> = parts.collect();
        let answer = site.blobs.upload(tokio_stream::iter(parts)).await;
        assert_eq!(reason(answer), Some(Reason::InvalidRequest));
    }
    federation.stop().await;
}

#[tokio::test]
async fn a_site_that_is_revoked_while_it_uploads_is_cut_without_another_chunk() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let mut sites = [federation.site("a").await, federation.site("b").await];
    create_run(&mut operator, &[1.0; 1000]).await;
    let round = sites[0].join().await;
    sites[1].join().await;

    let bytes = model(&[2.0; 1000]);
    let (sender, parts) = mpsc::channel(4);
    let purpose = update(&round);
    let header =
        UploadHeader { purpose: Some(purpose.clone()), blob: Some(blob(&bytes)), offset: 0 };
    sender.send(UploadRequest { part: Some(Part::Header(header)) }).await.unwrap();
    let data = |range: std::ops::Range<usize>| UploadRequest {
        part: Some(Part::Data(bytes[range].to_vec().into())),
    };
    sender.send(data(0..100)).await.unwrap();
    let mut site = sites[0].clone();
    let call = tokio::spawn(async move { site.blobs.upload(ReceiverStream::new(parts)).await });
    while committed(&mut sites[0], &purpose, &bytes).await.unwrap().committed_size < 100 {
        tokio::task::yield_now().await;
    }
    let request = RevokeSiteRequest { name: "a".into(), seen: None };
    operator.admin.revoke_site(request).await.unwrap();
    // Not a byte more is sent, and the call ends all the same.
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(Reason::of(&status), None, "the connection was cut: {status:?}");
    federation.stop().await;
}
