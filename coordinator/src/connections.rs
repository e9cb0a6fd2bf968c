//! The connections that are open, by who holds them: counted, so that nobody takes the places of all
//! others, and cut as soon as their holder is shut out.
//!
//! It knows who is at the other end and never what they may do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fedpaint_proto::identity::{KeyId, Role};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::driver::Handle;

/// The most connections one holder of a certificate may have open, so that none can take the places
/// of all others. A site that loses its network leaves some behind until keep-alive finds them dead.
const CONNECTIONS_PER_PEER_MAX: usize = 32;

/// Every connection that is open. Clones are the same set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections {
    open: Arc<Mutex<HashMap<Role, Vec<Open>>>>,
}

#[derive(Debug)]
struct Open {
    key: KeyId,
    cut: CancellationToken,
    /// Tells connections of one key apart.
    id: Arc<()>,
}

/// One connection's place in the set; it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    connections: Connections,
    role: Role,
    cut: CancellationToken,
    id: Arc<()>,
}

impl Connections {
    /// Enters a connection, unless its holder has too many already.
    pub(crate) fn enter(&self, role: &Role, key: KeyId) -> Result<Place, String> {
        let mut open = self.lock();
        let held = open.entry(role.clone()).or_default();
        if held.len() >= CONNECTIONS_PER_PEER_MAX {
            let max = CONNECTIONS_PER_PEER_MAX;
            return Err(format!(
                "{role} has {max} connections open, the most one may have \
                 (CONNECTIONS_PER_PEER_MAX)"
            ));
        }
        let (cut, id) = (CancellationToken::new(), Arc::new(()));
        held.push(Open { key, cut: cut.clone(), id: Arc::clone(&id) });
        Ok(Place { connections: self.clone(), role: role.clone(), cut, id })
    }

    /// Cuts the connections whose holders are `shut_out`; how many those are.
    pub(crate) fn cut(&self, shut_out: impl Fn(&Role, &KeyId) -> bool) -> usize {
        let open = self.lock();
        let all = open.iter().flat_map(|(role, held)| held.iter().map(move |one| (role, one)));
        let out = all.filter(|(role, one)| !one.cut.is_cancelled() && shut_out(role, &one.key));
        out.map(|(_, one)| one.cut.cancel()).count()
    }

    /// The set is right after any panic, so a poisoned lock is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, HashMap<Role, Vec<Open>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Cancelled when the connection is to end at once.
    pub(crate) fn cut(&self) -> &CancellationToken {
        &self.cut
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        if let Some(held) = open.get_mut(&self.role) {
            held.retain(|one| !Arc::ptr_eq(&one.id, &self.id));
            if held.is_empty() {
                open.remove(&self.role);
            }
        }
    }
}

/// Cuts connections whenever somebody is shut out, until the driver ends. A connection that is entered
/// looks itself, after it was entered, so that none slips through between the two.
pub(crate) async fn keep_out(connections: Connections, driver: Handle) {
    let mut states = driver.states();
    let mut seen = states.borrow_and_update().clone();
    while states.changed().await.is_ok() {
        let state = states.borrow_and_update().clone();
        if state.same_members(&seen) {
            continue;
        }
        let cut = connections.cut(|role, key| state.shuts_out(role, key));
        if cut > 0 {
            info!(cut, "connections of who was shut out are cut");
        }
        seen = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(name: &str) -> Role {
        Role::Site(name.parse().unwrap())
    }

    fn key(text: &str) -> KeyId {
        KeyId::of_public_key(text.as_bytes())
    }

    #[test]
    fn nobody_takes_the_places_of_others_and_a_place_is_given_back() {
        let connections = Connections::default();
        let enter = |name: &str| connections.enter(&site(name), key(name));
        let mut taken: Vec<Place> =
            (0..CONNECTIONS_PER_PEER_MAX).map(|_| enter("a").unwrap()).collect();
        let refused = enter("a").unwrap_err();
        assert!(refused.contains("32 connections"), "{refused}");
        assert!(enter("b").is_ok());
        taken.pop();
        taken.push(enter("a").unwrap());
        drop(taken);
        assert!(connections.lock().is_empty());
    }

    #[test]
    fn who_is_shut_out_is_cut_and_nobody_else() {
        let connections = Connections::default();
        let places = [("a", "old"), ("a", "new"), ("b", "old")]
            .map(|(name, text)| connections.enter(&site(name), key(text)).unwrap());
        let out = |role: &Role, held: &KeyId| *role == site("a") && *held == key("old");
        assert_eq!(connections.cut(out), 1);
        assert_eq!(places.each_ref().map(|place| place.cut().is_cancelled()), [true, false, false]);
        assert_eq!(connections.cut(out), 0, "once");
    }
}
