//! Lists that come in pages, put together.

/// A whole list, oldest first. `page` gives the newest elements before the one with that key, oldest
/// first; none is before all of them.
///
/// # Errors
/// If a page does not come.
pub(crate) async fn all<T, K: Ord>(
    key: impl Fn(&T) -> K,
    mut page: impl AsyncFnMut(Option<K>) -> anyhow::Result<Vec<T>>,
) -> anyhow::Result<Vec<T>> {
    let mut all: Vec<T> = Vec::new();
    loop {
        let mut older = page(all.first().map(&key)).await?;
        // A coordinator that knows no pages gives the same list again, which would then never end.
        let oldest = all.first().map(&key);
        older.retain(|element| oldest.as_ref().is_none_or(|oldest| key(element) < *oldest));
        if older.is_empty() {
            return Ok(all);
        }
        older.append(&mut all);
        all = older;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The list of 1 to 7 as a coordinator gives it, `limit` at a time, and what comes of it.
    fn listed(limit: usize, knows_pages: bool) -> Vec<u32> {
        let page = async |before: Option<u32>| {
            let end = before.filter(|_| knows_pages).unwrap_or(8);
            let list: Vec<u32> = (1..end).collect();
            Ok(list[list.len().saturating_sub(limit)..].to_vec())
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(all(|number| *number, page)).unwrap()
    }

    #[test]
    fn pages_make_the_list_that_they_were_cut_from() {
        for limit in [1, 2, 6, 7, 8] {
            assert_eq!(listed(limit, true), [1, 2, 3, 4, 5, 6, 7], "{limit} at a time");
        }
        assert_eq!(listed(9, false), [1, 2, 3, 4, 5, 6, 7], "of a coordinator without pages");
        assert_eq!(listed(2, false), [6, 7], "which gave its newest alone");
        assert_eq!(listed(0, true), [0; 0]);
    }
}
