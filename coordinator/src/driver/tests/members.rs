//! Invitations, keys and operators, over a real database and across restarts.

use fedpaint_proto::identity::KeyId;
use fedpaint_proto::names::Digest;

use super::*;
use crate::driver::{Asking, JoinRefusal, Joining, Renewal, Standing};
use crate::roster::{INVITE_LASTS, INVITE_TRIES, KEYS_PER_HOLDER_MAX, OperatorRole, Roles};

/// How long a certificate lasts.
const LIFE: Duration = Duration::from_secs(3_600);

fn secret(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

/// Whoever shows `shown` as `name`, with keys of its own.
fn asking(name: &str, shown: &str, keys: &str) -> Asking {
    Asking {
        site: site(name),
        secret: secret(shown),
        public_key: keys.as_bytes().to_vec(),
        signing_key: *Digest::of(keys.as_bytes()).as_bytes(),
        life: LIFE,
        approvals: 1,
    }
}

fn key(keys: &str) -> KeyId {
    KeyId::of_public_key(keys.as_bytes())
}

fn joined() -> Role {
    Role::Site(site("new"))
}

impl Coordinator {
    async fn invite(&self, shown: &str, auto_approve: bool) {
        let (ada, site) = (ada(), site("new"));
        let token = (secret(shown), auto_approve);
        let invited = self.handle.invite_site(&ada, &site, token, Sight::Unsaid);
        invited.await.unwrap();
    }

    async fn asks(&self, shown: &str, keys: &str) -> Result<Joining, Error> {
        self.handle.join(asking("new", shown, keys)).await
    }

    /// Why whoever asks is refused.
    async fn refusal(&self, shown: &str, keys: &str) -> JoinRefusal {
        match self.asks(shown, keys).await {
            Err(Error::JoinRefused(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }

    /// When the certificate of a site ends, as is told once it has shown one that ends then.
    async fn shows(&self, name: &str, until: Timestamp) -> Option<Timestamp> {
        let beat = Beat { shown_until: Some(until), ..idle("0.1.0".to_owned()) };
        self.handle.heartbeat(&site(name), beat).await.unwrap();
        self.end_of(name)
    }

    /// When the certificate of a site ends, as is told.
    fn end_of(&self, name: &str) -> Option<Timestamp> {
        let mut sites = self.handle.sites().into_iter();
        sites.find(|view| view.name == site(name)).unwrap().certificate_until
    }

    fn words(&self) -> String {
        let (name, invite) = self.handle.invites().remove(0);
        invite.candidate.unwrap().keys().words(&name)
    }
}

#[tokio::test]
async fn a_site_is_let_in_by_its_token_once_an_operator_has_approved_the_words_of_its_keys() {
    let coordinator = Coordinator::start(1).await;
    coordinator.invite("s", false).await;
    let approve = async |handle: &Handle, words: &str| {
        handle.approve_site(&ada(), &site("new"), words.to_owned(), Sight::Unsaid).await
    };
    let nobody = approve(&coordinator.handle, "").await;
    assert_eq!(nobody.unwrap_err().reason(), Reason::InviteUnknown);
    assert_eq!(coordinator.asks("s", "k").await.unwrap(), Joining::Waiting);
    // What waits is there after a restart, and so is the approval.
    let coordinator = coordinator.restart().await;
    assert_eq!(coordinator.asks("s", "k").await.unwrap(), Joining::Waiting);
    let other = approve(&coordinator.handle, "lusab-babad").await;
    assert_eq!(other.unwrap_err().reason(), Reason::WrongWords);
    let words = coordinator.words();
    approve(&coordinator.handle, &words).await.unwrap();
    let coordinator = coordinator.restart().await;
    let until = START.checked_add(LIFE).unwrap();
    assert_eq!(coordinator.asks("s", "k").await.unwrap(), Joining::Admitted(until));
    // An answer that was lost is given again, and lasts no longer for it.
    coordinator.clock.advance(Duration::from_secs(60));
    assert_eq!(coordinator.asks("s", "k").await.unwrap(), Joining::Admitted(until));
    let coordinator = coordinator.restart().await;
    let sites = coordinator.handle.sites();
    let view = sites.iter().find(|view| view.name == site("new")).unwrap();
    assert_eq!(view.signing_key, Some(asking("new", "s", "k").signing_key));
    assert_eq!(view.certificate_until, Some(until));
    // Its own key is taken, and no other of that name.
    let admits = |keys| coordinator.handle.admits(&joined(), &key(keys));
    assert_eq!(admits("k").unwrap(), Standing::Site);
    assert_eq!(admits("by hand").unwrap_err().reason(), Reason::Revoked);
    assert!(coordinator.handle.shuts_out(&joined(), &key("by hand")));
}

#[tokio::test]
async fn of_a_certificate_that_was_not_issued_here_the_end_of_the_one_shown_last_is_told() {
    let coordinator = Coordinator::start(1).await;
    assert_eq!(coordinator.end_of("mayo"), None, "it has shown none");
    for end in [200, 50, 100].map(|second| Timestamp::from_second(second).unwrap()) {
        assert_eq!(coordinator.shows("mayo", end).await, Some(end));
    }
    assert_eq!(coordinator.end_of("kyoto"), None);
    // It is what was seen, and nothing that is kept.
    let coordinator = coordinator.restart().await;
    assert_eq!(coordinator.end_of("mayo"), None);
}

#[tokio::test]
async fn the_end_of_what_a_site_signs_with_is_the_one_that_it_said_last_while_it_is_in() {
    let coordinator = Coordinator::start(1).await;
    let told = |coordinator: &Coordinator| {
        let mut sites = coordinator.handle.sites().into_iter();
        sites.find(|view| view.name == site("mayo")).unwrap().signing_until
    };
    assert_eq!(told(&coordinator), None, "it has said none");
    let ends = [200, 50].map(|second| Some(Timestamp::from_second(second).unwrap()));
    for signing_until in ends.into_iter().chain([None]) {
        let beat = Beat { signing_until, ..idle("0.1.0".to_owned()) };
        coordinator.handle.heartbeat(&site("mayo"), beat).await.unwrap();
        assert_eq!(told(&coordinator), signing_until);
    }
    let beat = Beat { signing_until: ends[0], ..idle("0.1.0".to_owned()) };
    coordinator.handle.heartbeat(&site("mayo"), beat).await.unwrap();
    coordinator.handle.revoke_site(&ada(), &site("mayo"), Sight::Unsaid).await.unwrap();
    assert_eq!(told(&coordinator), None, "it uses none any more");
}

#[tokio::test]
async fn a_shown_certificate_counts_before_an_issued_one_until_its_site_is_shut_out_or_let_in_anew()
{
    let coordinator = Coordinator::start(1).await;
    let issued = || coordinator.clock.now().checked_add(LIFE).unwrap();
    let shown = Timestamp::from_second(50).unwrap();
    coordinator.invite("s", true).await;
    coordinator.asks("s", "k").await.unwrap();
    assert_eq!(coordinator.end_of("new"), Some(issued()));
    assert_eq!(coordinator.shows("new", shown).await, Some(shown));
    coordinator.clock.advance(Duration::from_secs(1));
    coordinator.handle.revoke_site(&ada(), &site("new"), Sight::Unsaid).await.unwrap();
    assert_eq!(coordinator.end_of("new"), None, "it uses none any more");
    coordinator.invite("once more", true).await;
    coordinator.asks("once more", "fresh").await.unwrap();
    assert_eq!(coordinator.end_of("new"), Some(issued()), "what it showed was before");
}

#[tokio::test]
async fn a_token_is_burnt_by_five_wrong_secrets_or_other_keys_and_ends_after_a_day() {
    let coordinator = Coordinator::start(1).await;
    assert_eq!(coordinator.refusal("s", "k").await, JoinRefusal::NotInvited);
    coordinator.invite("s", false).await;
    for _ in 0..4 {
        assert_eq!(coordinator.refusal("guess", "k").await, JoinRefusal::WrongSecret);
    }
    // Tries are counted on the disk.
    let coordinator = coordinator.restart().await;
    assert_eq!(coordinator.refusal("guess", "k").await, JoinRefusal::WrongSecret);
    assert_eq!(coordinator.refusal("s", "k").await, JoinRefusal::NotInvited);

    coordinator.invite("again", true).await;
    assert!(matches!(coordinator.asks("again", "k").await.unwrap(), Joining::Admitted(_)));
    for _ in 0..5 {
        assert_eq!(coordinator.refusal("again", "thief").await, JoinRefusal::Used);
    }
    assert_eq!(coordinator.refusal("again", "k").await, JoinRefusal::NotInvited);
    assert_eq!(coordinator.handle.admits(&joined(), &key("k")).unwrap(), Standing::Site);

    coordinator.invite("late", true).await;
    coordinator.clock.advance(Duration::from_secs(24 * 3600));
    assert_eq!(coordinator.refusal("late", "other").await, JoinRefusal::Expired);
    assert_eq!(coordinator.refusal("late", "other").await, JoinRefusal::NotInvited);
}

#[tokio::test]
async fn a_site_that_was_let_in_hears_so_again_for_an_hour_after_its_invitation_has_ended() {
    let second = Duration::from_secs(1);
    let coordinator = Coordinator::start(1).await;
    coordinator.invite("s", true).await;
    coordinator.clock.advance(INVITE_LASTS - second);
    let admitted = coordinator.asks("s", "k").await.unwrap();
    assert!(matches!(admitted, Joining::Admitted(_)));
    coordinator.clock.advance(2 * second);
    // Whatever changes the roster forgets what has ended.
    let token = (secret("other"), false);
    let (by, other) = (ada(), site("other"));
    coordinator.handle.invite_site(&by, &other, token, Sight::Unsaid).await.unwrap();
    let coordinator = coordinator.restart().await;
    assert_eq!(coordinator.asks("s", "k").await.unwrap(), admitted);
    assert_eq!(coordinator.refusal("s", "thief").await, JoinRefusal::Used);
    coordinator.clock.advance(3_600 * second);
    assert_eq!(coordinator.refusal("s", "k").await, JoinRefusal::Expired);
}

#[tokio::test]
async fn a_call_by_a_token_that_was_ended_is_no_guess_at_the_next_one() {
    let coordinator = Coordinator::start(1).await;
    coordinator.invite("old", false).await;
    assert_eq!(coordinator.asks("old", "k").await.unwrap(), Joining::Waiting);
    coordinator.invite("next", false).await;
    let coordinator = coordinator.restart().await;
    for _ in 0..INVITE_TRIES {
        assert_eq!(coordinator.refusal("old", "k").await, JoinRefusal::NotInvited);
    }
    assert_eq!(coordinator.refusal("guess", "k").await, JoinRefusal::WrongSecret);
    assert_eq!(coordinator.asks("next", "fresh").await.unwrap(), Joining::Waiting);
}

#[tokio::test]
async fn a_key_is_renewed_for_a_fresh_one_and_none_holds_once_its_site_is_revoked() {
    let coordinator = Coordinator::start(1).await;
    coordinator.invite("s", true).await;
    coordinator.asks("s", "k").await.unwrap();
    let renew = |held: &str, next: &str| {
        let renewal = Renewal { holder: joined(), held: key(held), next: key(next), life: LIFE };
        let handle = coordinator.handle.clone();
        async move { handle.renew(renewal).await }
    };
    assert_eq!(renew("k", "k").await.unwrap_err().reason(), Reason::KeyKnown);
    let until = renew("k", "k2").await.unwrap();
    assert_eq!(renew("k", "k2").await.unwrap(), until, "repeated");
    assert_eq!(renew("stolen", "k3").await.unwrap_err().reason(), Reason::Revoked);
    for keys in ["k", "k2"] {
        assert_eq!(coordinator.handle.admits(&joined(), &key(keys)).unwrap(), Standing::Site);
    }
    coordinator.handle.revoke_site(&ada(), &site("new"), Sight::Unsaid).await.unwrap();
    coordinator.invite("once more", true).await;
    let known = coordinator.asks("once more", "k2").await.unwrap_err();
    assert_eq!(known.reason(), Reason::KeyKnown);
    coordinator.asks("once more", "fresh").await.unwrap();
    let coordinator = coordinator.restart().await;
    for (keys, out) in [("k", true), ("k2", true), ("fresh", false)] {
        assert_eq!(coordinator.handle.shuts_out(&joined(), &key(keys)), out, "{keys}");
    }
}

#[tokio::test]
async fn whoever_renews_again_and_again_loses_its_oldest_keys_and_never_the_one_that_it_asks_with()
{
    let coordinator = Coordinator::start(1).await;
    coordinator.invite("s", true).await;
    coordinator.asks("s", "k").await.unwrap();
    for next in 0..3 * KEYS_PER_HOLDER_MAX {
        coordinator.clock.advance(Duration::from_secs(1));
        let next = key(&format!("next {next}"));
        let renewal = Renewal { holder: joined(), held: key("k"), next, life: LIFE };
        coordinator.handle.renew(renewal).await.unwrap();
        assert_eq!(coordinator.handle.admits(&joined(), &next).unwrap(), Standing::Site);
    }
    assert_eq!(coordinator.handle.admits(&joined(), &key("k")).unwrap(), Standing::Site);
    let admitted = (0..3 * KEYS_PER_HOLDER_MAX)
        .filter(|next| coordinator.handle.admits(&joined(), &key(&format!("next {next}"))).is_ok());
    assert_eq!(admitted.count(), KEYS_PER_HOLDER_MAX - 1);
}

#[tokio::test]
async fn operators_may_do_what_they_are_listed_for_and_one_stays_an_admin() {
    let coordinator = Coordinator::start(1).await;
    let (handle, bob) = (&coordinator.handle, "bob".parse::<OperatorName>().unwrap());
    let set = |name: &OperatorName, roles: &str| {
        let (name, roles) = (name.clone(), roles.parse::<Roles>().unwrap());
        async move {
            let set = handle.set_operator(&ada(), &name, roles, Sight::Unsaid).await;
            set.map(|row| row.roles)
        }
    };
    assert_eq!(set(&bob, "viewer").await.unwrap_err().reason(), Reason::NoAdmin);
    set(&ada(), "admin").await.unwrap();
    assert_eq!(set(&bob, "viewer auditor").await.unwrap().to_string(), "viewer auditor");
    assert_eq!(set(&ada(), "viewer").await.unwrap_err().reason(), Reason::NoAdmin);
    let coordinator = coordinator.restart().await;
    let admits = |name: &str| {
        let role = Role::Operator(name.parse().unwrap());
        coordinator.handle.admits(&role, &key(name))
    };
    assert_eq!(admits("ada").unwrap(), Standing::Operator(OperatorRole::Admin.into()));
    assert_eq!(admits("eve").unwrap_err().reason(), Reason::NotPermitted);
    let (by, nothing) = (ada(), Roles::default());
    let gone = coordinator.handle.set_operator(&by, &bob, nothing, Sight::Unsaid).await.unwrap();
    assert!(gone.roles.0.is_empty());
    assert!(coordinator.handle.shuts_out(&Role::Operator(bob), &key("bob")));
}
