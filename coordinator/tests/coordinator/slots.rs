//! How many upload at once, and what whoever comes beyond that is told. The server is given few slots here.

use std::sync::Arc;
use std::time::Duration;

use fedpaint_coordinator::clock::SystemClock;
use fedpaint_coordinator::limits::Limits;
use fedpaint_proto::budget::Budget;
use fedpaint_proto::names::Blob;
use fedpaint_proto::reason::Reason;
use fedpaint_proto::transfer;
use fedpaint_proto::v1::upload_request::Part;
use fedpaint_proto::v1::{ListEventsRequest, UploadRequest};
use tokio::sync::mpsc;
use tonic::Status;
use tonic_types::StatusExt;

use crate::access::metrics;
use crate::blobs::{committed, upload};
use crate::bounds::{Uploading, begin_upload};
use crate::federation::{Client, Federation};
use crate::rounds::{blob, create_run_by, initial, model, update};

/// How many slots the server has.
const SLOTS: usize = 2;

async fn start() -> Federation {
    let limits = Limits { upload_slots: SLOTS, ..Limits::default() };
    Federation::start_within(limits, Arc::new(SystemClock)).await
}

/// A model that differs from the others.
fn bytes(number: usize) -> Vec<u8> {
    model(&[number as f32; 1000])
}

/// The uploads of so many operators, begun and not ended.
async fn fill(federation: &Federation) -> Vec<(Client, Uploading)> {
    let mut held = Vec::new();
    for number in 0..SLOTS {
        let mut client = federation.client(&format!("spiffe://brain/operator/o{number}")).await;
        let uploading = begin_upload(&mut client, &bytes(number)).await;
        held.push((client, uploading));
    }
    held
}

/// Sends what is left of a model whose first byte is there.
async fn end_upload((call, sender): Uploading, bytes: &[u8]) {
    let data = Part::Data(bytes[1..].to_vec().into());
    sender.send(UploadRequest { part: Some(data) }).await.unwrap();
    drop::<mpsc::Sender<_>>(sender);
    let committed = call.await.unwrap().unwrap().into_inner().committed_size;
    assert_eq!(committed, bytes.len() as u64);
}

/// The seconds after which a refused caller is to come again.
fn after(refused: &Status) -> Option<Duration> {
    refused.get_details_retry_info()?.retry_delay
}

#[tokio::test]
async fn one_upload_more_than_there_are_slots_is_told_when_to_come_and_gets_in_when_one_is_free() {
    let federation = start().await;
    let mut held = fill(&federation).await;
    let mut more = federation.operator().await;
    let wanted = bytes(99);
    let refused = upload(&mut more, initial(), &wanted).await.unwrap_err();
    assert_eq!(Reason::of(&refused), Some(Reason::UploadBusy));
    assert!(refused.message().starts_with("2 uploads are under way"), "{refused}");
    assert!(refused.message().contains("UPLOAD_SLOTS_MAX"), "{refused}");
    assert_eq!(after(&refused), Some(Duration::from_secs(1)));
    // Those behind are told to come later, a slot's worth of them at a time, and who asks again keeps its place.
    let mut others = Vec::new();
    for number in 1..=3 {
        let mut other = federation.client(&format!("spiffe://brain/operator/p{number}")).await;
        let refused = upload(&mut other, initial(), &bytes(100 + number)).await.unwrap_err();
        let turns = 1 + number as u64 / 2;
        assert_eq!(after(&refused), Some(Duration::from_secs(turns)), "{number}");
        others.push(other);
    }
    let refused = upload(&mut more, initial(), &wanted).await.unwrap_err();
    assert_eq!(after(&refused), Some(Duration::from_secs(1)));
    let told = metrics(&federation).await;
    assert!(told.contains("fedpaint_uploads_put_off_total 5"), "{told}");

    let (_, uploading) = held.pop().unwrap();
    end_upload(uploading, &bytes(SLOTS - 1)).await;
    upload(&mut more, initial(), &wanted).await.unwrap();
    // An upload that breaks gives its slot back too.
    let (mut client, (call, sender)) = held.pop().unwrap();
    drop(sender);
    call.await.unwrap().unwrap();
    let half = committed(&mut client, &initial(), &bytes(0)).await.unwrap();
    assert_eq!((half.committed_size, half.complete), (1, false));
    for (number, mut other) in others.into_iter().enumerate() {
        upload(&mut other, initial(), &bytes(101 + number)).await.unwrap();
    }
    federation.stop().await;
}

#[tokio::test]
async fn a_transfer_comes_again_as_it_is_told_and_brings_its_file_over() {
    let federation = start().await;
    let mut held = fill(&federation).await;
    let more = federation.operator().await;
    let path = federation.folder.path().join("model");
    let wanted = bytes(99);
    std::fs::write(&path, &wanted).unwrap();
    let (file, channel) = (Blob::try_from(&blob(&wanted)).unwrap(), more.channel.clone());
    let sending = tokio::spawn(async move {
        transfer::upload(&channel, initial(), file, &path, &Budget::default(), &mut |_, _| {}).await
    });
    // It was put off once, and then twice.
    for times in [1, 2] {
        let told = format!("fedpaint_uploads_put_off_total {times}");
        while !metrics(&federation).await.contains(&told) {
            assert!(!sending.is_finished());
            tokio::task::yield_now().await;
        }
    }
    let (_, uploading) = held.pop().unwrap();
    end_upload(uploading, &bytes(SLOTS - 1)).await;
    sending.await.unwrap().unwrap();
    let mut more = more;
    assert!(committed(&mut more, &initial(), &wanted).await.unwrap().complete);
    drop(held);
    federation.stop().await;
}

#[tokio::test]
async fn a_round_near_its_end_waits_for_a_site_that_is_put_off() {
    let federation = start().await;
    let mut operator = federation.operator().await;
    let mut sites = [federation.site("mayo").await, federation.site("oslo").await];
    // Its end is near from its beginning, and no test runs for so long.
    create_run_by(&mut operator, &[1.0; 100], "reporting_s = 50\nstretch_s = 600\n").await;
    let round = sites[0].join().await;
    sites[1].join().await;
    let held = fill(&federation).await;
    let refused = upload(&mut sites[0], update(&round), &model(&[2.0; 100])).await.unwrap_err();
    assert_eq!(Reason::of(&refused), Some(Reason::UploadBusy));
    let stretched = async {
        loop {
            let events = operator.admin.list_events(ListEventsRequest::default()).await.unwrap();
            let events = events.into_inner().events;
            if let Some(event) = events.into_iter().find(|event| event.kind == "round_stretched") {
                return event.detail;
            }
            tokio::task::yield_now().await;
        }
    };
    let limit = Duration::from_secs(40);
    let detail = tokio::time::timeout(limit, stretched).await.expect("the round is stretched");
    assert!(detail.contains("mayo"), "{detail}");
    drop(held);
    federation.stop().await;
}
