//! What was used last, up to a bound. What is not kept is made again by the caller, so a result never
//! depends on what happens to be here.

use std::collections::BTreeMap;

/// Values by key, each with its cost; the least recently used go first.
#[derive(Debug)]
pub(crate) struct Lru<K, V> {
    cost_max: usize,
    cost: usize,
    tick: u64,
    kept: BTreeMap<K, Kept<V>>,
    /// Which key was used when.
    order: BTreeMap<u64, K>,
}

#[derive(Debug)]
struct Kept<V> {
    value: V,
    cost: usize,
    used: u64,
}

impl<K: Ord + Clone, V: Clone> Lru<K, V> {
    /// Keeps values that cost `cost_max` together at most.
    pub(crate) fn new(cost_max: usize) -> Lru<K, V> {
        Lru { cost_max, cost: 0, tick: 0, kept: BTreeMap::new(), order: BTreeMap::new() }
    }

    /// The value of `key`, which is now the one used last.
    pub(crate) fn get(&mut self, key: &K) -> Option<V> {
        let kept = self.kept.get_mut(key)?;
        self.order.remove(&kept.used);
        self.tick += 1;
        kept.used = self.tick;
        self.order.insert(self.tick, key.clone());
        Some(kept.value.clone())
    }

    /// Keeps a value in place of others; one that costs more than is allowed is not kept.
    pub(crate) fn insert(&mut self, key: K, value: V, cost: usize) {
        self.remove(&key);
        if cost > self.cost_max {
            return;
        }
        while self.cost + cost > self.cost_max {
            let Some(oldest) = self.order.values().next().cloned() else { break };
            self.remove(&oldest);
        }
        self.tick += 1;
        self.cost += cost;
        self.order.insert(self.tick, key.clone());
        self.kept.insert(key, Kept { value, cost, used: self.tick });
    }

    fn remove(&mut self, key: &K) {
        if let Some(kept) = self.kept.remove(key) {
            self.cost -= kept.cost;
            self.order.remove(&kept.used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Lru;

    #[test]
    fn the_least_recently_used_make_room_and_the_bound_is_kept() {
        let mut lru = Lru::new(10);
        for key in 0..3 {
            lru.insert(key, key * 10, 3);
        }
        assert_eq!(lru.get(&0), Some(0));
        lru.insert(3, 30, 3);
        assert_eq!((lru.get(&1), lru.get(&0), lru.get(&3)), (None, Some(0), Some(30)));
        lru.insert(4, 40, 11);
        assert_eq!(lru.get(&4), None);
        lru.insert(5, 50, 10);
        assert_eq!((lru.get(&5), lru.kept.len(), lru.order.len(), lru.cost), (Some(50), 1, 1, 10));
    }
}
