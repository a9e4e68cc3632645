//! What happened, for whoever wants to know: live, and the last [`KEPT`] again.

use jiff::Timestamp;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use tokio::sync::broadcast;

/// How many past events can be replayed.
pub const KEPT: usize = 256;
/// The longest action, and the most bytes of attributes: labels and commands may be megabytes long, and
/// are kept [`KEPT`] times.
const LONGEST: usize = 32 << 10;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A network.
    Network,
}

impl Subject {
    /// Docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Network => "network",
        }
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What it is about.
    pub subject: Subject,
    /// Docker's word for it: `start`, `die`, `exec_create: ls`, ….
    pub action: String,
    /// The object's id; an image's with `sha256:`.
    pub id: String,
    /// Name, image, labels, and what the action adds.
    pub attributes: BTreeMap<String, String>,
    /// When.
    pub at: Timestamp,
}

impl Event {
    /// Cuts what is too long, and leaves out attributes that no longer fit.
    fn bound(&mut self) {
        if self.action.len() > LONGEST {
            self.action.truncate(self.action.floor_char_boundary(LONGEST));
            self.action.shrink_to_fit();
        }
        let mut left = LONGEST;
        self.attributes.retain(|name, value| {
            let length = name.len() + value.len();
            let fits = length <= left;
            left -= if fits { length } else { 0 };
            fits
        });
    }
}

/// Keeps and hands out events.
#[derive(Debug)]
pub(crate) struct Events {
    kept: Mutex<VecDeque<Arc<Event>>>,
    live: broadcast::Sender<Arc<Event>>,
}

/// Events as they come. A reader that falls more than [`KEPT`] behind loses the oldest.
pub struct EventStream(broadcast::Receiver<Arc<Event>>);

impl EventStream {
    /// The next event; `None` when the engine ends.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(lost)) => {
                    tracing::warn!(lost, "a reader of events was too slow");
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Events {
    pub(crate) fn new() -> Self {
        Self { kept: Mutex::default(), live: broadcast::Sender::new(KEPT) }
    }

    pub(crate) fn emit(&self, mut event: Event) {
        event.bound();
        let event = Arc::new(event);
        tracing::debug!(action = event.action, id = event.id, "event");
        let mut kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(Arc::clone(&event));
        // Nobody listening is the usual case. Sent under the lock, so that `subscribe` sees each
        // event exactly once.
        let _ = self.live.send(event);
    }

    /// The kept events, and all that follow them.
    pub(crate) fn subscribe(&self) -> (Vec<Arc<Event>>, EventStream) {
        let kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        (kept.iter().cloned().collect(), EventStream(self.live.subscribe()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: usize) -> Event {
        Event {
            subject: Subject::Container,
            action: number.to_string(),
            id: String::new(),
            attributes: BTreeMap::new(),
            at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn an_event_is_bounded() {
        let events = Events::new();
        let long = "é".repeat(LONGEST);
        let attributes = [("label", long.as_str()), ("name", "web")];
        events.emit(Event {
            action: format!("exec_create: {long}"),
            attributes: attributes.map(|(name, value)| (name.into(), value.into())).into(),
            ..event(0)
        });
        let (kept, _) = events.subscribe();
        assert!(kept[0].action.starts_with("exec_create: é") && kept[0].action.len() <= LONGEST);
        assert_eq!(kept[0].attributes, [("name".to_owned(), "web".to_owned())].into());
    }

    #[tokio::test]
    async fn a_reader_gets_the_last_ones_and_then_the_new_ones() {
        let events = Events::new();
        for number in 0..300 {
            events.emit(event(number));
        }
        let (kept, mut live) = events.subscribe();
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept.first().unwrap().action, "44");
        events.emit(event(300));
        assert_eq!(live.next().await.unwrap().action, "300");
    }
}
