//! `fedctl events`: the audit log, and what is added to it.

use std::time::Duration;

use fedpaint_proto::{text, v1};

use crate::cli::{Connection, EventsAsked};
use crate::connect::{Session, ask, connect};
use crate::output::{Format, Output};
use crate::problem::of_status;
use crate::view::Event;

/// How often a followed log is asked for more.
const FOLLOW_EVERY: Duration = Duration::from_secs(2);

/// Shows the entries one a line: as JSON objects, or as text.
pub(crate) async fn run(
    asked: EventsAsked,
    settings: &Connection,
    output: &Output,
) -> anyhow::Result<()> {
    let mut session = connect(settings, output.now()).await?;
    let mut after = asked.after;
    loop {
        let events = page(&mut session, after).await?;
        for event in &events {
            match output.format() {
                Format::Json => output.json_line(event)?,
                Format::Table => output.line(&line(event))?,
            }
            after = after.max(event.seq);
        }
        if events.is_empty() {
            if !asked.follow {
                return Ok(());
            }
            tokio::time::sleep(FOLLOW_EVERY).await;
        }
    }
}

/// The next entries; the coordinator decides how many it gives at once.
async fn page(session: &mut Session, after_seq: u64) -> anyhow::Result<Vec<Event>> {
    let request = v1::ListEventsRequest { after_seq, limit: 0 };
    let reply = session.admin.list_events(ask(request)).await;
    let events = reply.map_err(|s| of_status(&s))?.into_inner().events;
    // An entry that was shown already would make the log endless.
    Ok(events.into_iter().filter(|event| event.seq > after_seq).map(Event::from).collect())
}

fn line(event: &Event) -> String {
    let Event { seq, at, actor, kind, detail } = event;
    let at = at.map_or_else(|| "-".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string());
    // An entry is one line, so that none can look like another one.
    let detail = text::line(detail, usize::MAX);
    format!("{seq:>6}  {at}  {actor:<20}  {kind:<18}  {detail}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_line_with_its_number_and_time() {
        let event = Event {
            seq: 7,
            at: Some("2026-11-23T09:05:01.5Z".parse().unwrap()),
            actor: "operator/ada".into(),
            kind: "site_enrolled".into(),
            detail: "mayo".into(),
        };
        let shown = "     7  2026-11-23 09:05:01Z  operator/ada          site_enrolled       mayo";
        assert_eq!(line(&event), shown);
        let event = Event { detail: "mayo\n     8  \u{1b}[2J".into(), ..event };
        assert_eq!(line(&event), format!("{shown}      8  \u{fffd}[2J"));
    }
}
