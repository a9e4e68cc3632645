//! Daemon and shim of different releases: what the first release said, and what a later one may add.
//!
//! `golden/shim-v1.jsonl` is what the first release wrote, a message a line. It is never changed: a VM
//! that was started then may run still.

use ireko_protocol::shim::{Answer, Envelope};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const FIRST: &str = include_str!("golden/shim-v1.jsonl");

fn first() -> (Vec<Value>, Vec<Value>) {
    let lines = FIRST.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.partition(|message| message.get("request").is_some())
}

/// Today's reader understands it, and today's writer writes it so that a reader of then does: what it
/// said is all there, beside what was added since.
#[track_caller]
fn check<T: Serialize + DeserializeOwned>(message: &Value) {
    let read: T = serde_json::from_value(message.clone()).unwrap_or_else(|error| {
        panic!("{message} is not understood any more: {error}");
    });
    let written = serde_json::to_value(&read).unwrap();
    assert!(says_all_of(&written, message), "{message} became {written}");
}

fn says_all_of(now: &Value, then: &Value) -> bool {
    match (now, then) {
        (Value::Object(now), Value::Object(then)) => {
            then.iter().all(|(name, then)| now.get(name).is_some_and(|now| says_all_of(now, then)))
        }
        (Value::Array(now), Value::Array(then)) => {
            now.len() == then.len()
                && now.iter().zip(then).all(|(now, then)| says_all_of(now, then))
        }
        (now, then) => now == then,
    }
}

#[test]
fn requests_of_the_first_release_are_understood_and_written_as_it_understood_them() {
    let (requests, _) = first();
    assert_eq!(requests.len(), 13);
    requests.iter().for_each(check::<Envelope>);
}

#[test]
fn answers_of_the_first_release_are_understood_and_written_as_it_understood_them() {
    let (_, answers) = first();
    assert_eq!(answers.len(), 17);
    answers.iter().for_each(check::<Answer>);
}

#[test]
fn what_a_later_release_adds_to_a_message_is_passed_over() {
    /// The same with one more field in each of its objects.
    fn grown(message: &Value) -> Value {
        match message {
            Value::Object(fields) => {
                let mut grown: serde_json::Map<_, _> =
                    fields.iter().map(|(name, value)| (name.clone(), grown_value(value))).collect();
                grown.insert("of_later".into(), json!({ "more": [1, 2] }));
                Value::Object(grown)
            }
            other => other.clone(),
        }
    }
    fn grown_value(value: &Value) -> Value {
        // A value that names its kind by its only key has no room for more.
        match value {
            Value::Object(fields) if fields.len() == 1 && !fields.contains_key("do") => {
                value.clone()
            }
            other => grown(other),
        }
    }
    let (requests, answers) = first();
    for message in &requests {
        let then: Envelope = serde_json::from_value(message.clone()).unwrap();
        assert_eq!(serde_json::from_value::<Envelope>(grown(message)).unwrap(), then);
    }
    for message in &answers {
        let then: Answer = serde_json::from_value(message.clone()).unwrap();
        assert_eq!(serde_json::from_value::<Answer>(grown(message)).unwrap(), then);
    }
}
