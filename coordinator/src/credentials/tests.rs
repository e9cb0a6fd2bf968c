//! Files that are looked at again and again, renewed, and replaced by somebody.

use std::fs;
use std::path::Path;

use fedpaint_proto::tls::certificates;
use rustls::pki_types::ServerName;

use super::*;
use crate::ca::Issued;
use crate::clock::ManualClock;
use crate::testing::LATER;

/// More than two thirds of the seven days that the coordinator's certificate holds.
const FIVE_DAYS: Duration = Duration::from_secs(5 * 86_400);

/// A coordinator's files, and who keeps them fresh.
struct Desk {
    folder: tempfile::TempDir,
    files: Files,
    root: Issued,
    clock: ManualClock,
    shown: watch::Receiver<Arc<Credentials>>,
}

fn days(days: u32) -> ca::Validity {
    ca::Validity::days(LATER, days).unwrap()
}

fn main_of(authority: &Issued, validity: ca::Validity) -> Issued {
    let host = ServerName::try_from("localhost").unwrap();
    let role = Role::Coordinator("main".parse().unwrap());
    ca::issue(authority, &role, &[host], validity).unwrap()
}

impl Desk {
    /// With a certificate for TLS and one for signing under an issuing authority, or the root itself.
    fn new(issues_by_root: bool) -> Desk {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let root = ca::create(&"brain".parse().unwrap(), days(90)).unwrap();
        let issuing = match issues_by_root {
            true => root.clone(),
            false => ca::create_issuing(&root, days(30)).unwrap(),
        };
        let tls = TlsFiles { ca: path("ca"), certificate: path("main.pem"), key: path("main.key") };
        let role = Role::Coordinator("main".parse().unwrap());
        let signing = ca::issue_signing(&issuing, &role, days(20)).unwrap();
        fs::write(&tls.ca, &root.certificate_pem).unwrap();
        for (name, issued) in [("main", &main_of(&issuing, days(7))), ("signing", &signing)] {
            put(folder.path(), name, issued);
        }
        put(folder.path(), "issuing", &issuing);
        let file = |name: &str| path(name);
        let files = Files {
            federation: "brain".parse().unwrap(),
            tls,
            signing: Some(SigningFiles {
                certificate: file("signing.pem"),
                key: file("signing.key"),
            }),
            issuing: Some(Issuing {
                certificate: file("issuing.pem"),
                key: file("issuing.key"),
                leaf_s: 7 * 86_400,
                operator_s: 7 * 86_400,
            }),
        };
        let judge: Judge = Arc::new(|_| true);
        let seal = files.seal(LATER).unwrap();
        let held = files.load(Arc::clone(&judge), seal, LATER).unwrap();
        let (sender, shown) = watch::channel(Arc::new(held));
        let clock = ManualClock::new(LATER);
        let own = Arc::new(clock.clone());
        tokio::spawn(keep_fresh(files.clone(), (sender, None), judge, own));
        Desk { folder, files, root, clock, shown }
    }

    /// Has the files looked at once more.
    async fn look(&self) {
        // Until it sleeps, and until it has looked.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        self.clock.advance(LOOK_EVERY);
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    /// Whether the certificate that is shown is to be renewed, whatever lies in its file.
    fn is_due(&self) -> bool {
        let held = Arc::clone(&*self.shown.borrow());
        held.is_due(held.issuer.as_ref().unwrap(), self.clock.now())
    }

    /// Whether the certificate in this file is under the authority that issues now.
    fn follows(&self, name: &str) -> bool {
        let certificate = &certificates("it", &self.folder.path().join(name)).unwrap()[0];
        let issuing = self.files.issuing.as_ref().unwrap();
        let issuer = Issuer::load(issuing, &self.files.tls, &self.files.federation).unwrap();
        issuer.issued(certificate)
    }
}

/// Puts a certificate and its key into the places of those of this name.
fn put(folder: &Path, name: &str, issued: &Issued) {
    fs::write(folder.join(format!("{name}.pem")), &issued.certificate_pem).unwrap();
    let key = folder.join(format!("{name}.key"));
    let _ = fs::remove_file(&key);
    credential::write_key(&key, &issued.key_pem).unwrap();
}

#[tokio::test]
async fn both_certificates_follow_another_authority_and_where_nothing_changes_nothing_is_written() {
    for by_root in [false, true] {
        let desk = Desk::new(by_root);
        let names = ["main.pem", "signing.pem"];
        let before = names.map(|name| desk.read(name));
        desk.look().await;
        assert_eq!(names.map(|name| desk.read(name)), before, "by the root: {by_root}");
        put(desk.folder.path(), "issuing", &ca::create_issuing(&desk.root, days(60)).unwrap());
        for _ in 0..3 {
            desk.look().await;
        }
        assert!(names.iter().all(|name| desk.follows(name)), "by the root: {by_root}");
        let after = names.map(|name| desk.read(name));
        desk.look().await;
        assert_eq!(names.map(|name| desk.read(name)), after, "once");
    }
}

#[tokio::test]
async fn a_pair_that_somebody_is_replacing_is_left_alone_and_taken_up_once_it_is_whole() {
    let mut desk = Desk::new(false);
    let other = ca::create_issuing(&desk.root, days(60)).unwrap();
    let by_hand = main_of(&other, days(30));
    for (name, issued) in [("main", &by_hand), ("issuing", &other)] {
        let (pem, key) = (format!("{name}.pem"), format!("{name}.key"));
        let key_before = desk.read(&key);
        fs::write(desk.folder.path().join(&pem), &issued.certificate_pem).unwrap();
        desk.clock.advance(FIVE_DAYS);
        // First by its age, then because the authority from before has not issued what came by hand.
        assert!(desk.is_due(), "{name}");
        for _ in 0..3 {
            desk.look().await;
            assert_eq!(desk.read("main.pem"), by_hand.certificate_pem, "{name}");
            assert_eq!(desk.read(&key), key_before, "{name}");
        }
        assert!(!desk.shown.has_changed().unwrap(), "{pem} is used without its key");
        put(desk.folder.path(), name, issued);
        desk.look().await;
        assert!(desk.shown.has_changed().unwrap(), "{name}");
        let held = desk.shown.borrow_and_update().own.1.clone();
        assert_eq!(held, certificates("it", &desk.files.tls.certificate).unwrap()[0]);
    }
    desk.look().await;
    assert_eq!(desk.read("main.pem"), by_hand.certificate_pem, "it is not due");
}

#[tokio::test]
async fn what_is_signed_with_keeps_no_certificate_for_tls_from_being_renewed() {
    let desk = Desk::new(false);
    fs::write(desk.folder.path().join("signing.pem"), "no certificate").unwrap();
    put(desk.folder.path(), "issuing", &ca::create_issuing(&desk.root, days(60)).unwrap());
    desk.look().await;
    let held = Arc::clone(&*desk.shown.borrow());
    let (seal, issuer) = (held.seal.as_ref(), held.issuer.as_ref().unwrap());
    let seal = seal.expect("the one from before stays");
    let files = desk.files.signing.as_ref().unwrap();
    seal::follow(seal, files, issuer, desk.clock.now()).unwrap_err();
    desk.look().await;
    assert!(desk.follows("main.pem"), "another authority issues");
    let before = desk.read("main.pem");
    desk.clock.advance(FIVE_DAYS);
    for _ in 0..2 {
        desk.look().await;
    }
    assert_ne!(desk.read("main.pem"), before, "two thirds of its life are over");
    assert_eq!(desk.read("signing.pem"), "no certificate", "the other is not renewed");
}

#[tokio::test]
async fn a_replacement_that_its_disk_keeps_from_being_finished_is_finished_once_it_does_not() {
    let mut desk = Desk::new(false);
    let (certificate, key) = (&desk.files.tls.certificate, &desk.files.tls.key);
    let new = main_of(&desk.root, days(30));
    fs::write(certificate, &new.certificate_pem).unwrap();
    credential::write_key(&desk.folder.path().join("main.key.next"), &new.key_pem).unwrap();
    // The key that waits cannot take this place.
    fs::remove_file(key).unwrap();
    fs::create_dir(key).unwrap();
    fs::write(key.join("x"), "").unwrap();
    desk.look().await;
    assert!(!desk.shown.has_changed().unwrap());
    // What the files hold is still the same: a key that does not read.
    fs::remove_dir_all(key).unwrap();
    desk.look().await;
    assert!(desk.shown.has_changed().unwrap());
    let held = desk.shown.borrow_and_update().own.1.clone();
    assert_eq!(held, certificates("it", &desk.files.tls.certificate).unwrap()[0]);
}
