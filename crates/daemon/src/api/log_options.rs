//! `LogConfig`: which log driver a container has, and how much of its output is kept.

use crate::api::error::{ApiError, ApiResult};
use crate::api::types::create::LogConfig;
use ireko_engine::LogLimit;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Options that docker's own log drivers know, beside those that are taken.
const WITHOUT_EFFECT: &[&str] =
    &["compress", "env", "env-regex", "labels", "labels-regex", "max-buffer-size", "mode", "tag"];
const MAX_SIZE: &str = "max-size";
const MAX_FILE: &str = "max-file";

/// The most files that are kept of one log.
const MOST_FILES: u32 = ireko_engine::MAX_LOG_FILES;

/// What the `local` driver keeps where nothing is said. Source: docker's daemon/logger/local.
const LOCAL: LogLimit = LogLimit { bytes: 20 << 20, files: 5 };

/// Notes which log driver was asked for, and its options; warns of those that have no effect.
pub(crate) fn note(
    log: Option<&LogConfig>,
    noted: &mut BTreeMap<String, Value>,
) -> ApiResult<Option<String>> {
    let Some(LogConfig { r#type: driver, config }) = log else { return Ok(None) };
    let driver = driver_name(driver.as_deref());
    let options = config.clone().unwrap_or_default();
    let names = || options.keys().map(String::as_str);
    let is_taken = |name: &str| matches!(name, MAX_SIZE | MAX_FILE);
    if let Some(name) = names().find(|name| !is_taken(name) && !WITHOUT_EFFECT.contains(name)) {
        return Err(ApiError::bad_request(format!(
            "unknown log opt '{name}' for {driver} log driver"
        )));
    }
    let idle: Vec<_> = names().filter(|name| !is_taken(name)).collect();
    let warning = (!idle.is_empty()).then(|| {
        format!("Output is kept plainly: the log options {} have no effect.", idle.join(", "))
    });
    noted.insert("LogConfig".to_owned(), json!({ "Type": driver, "Config": options }));
    Ok(warning)
}

/// Whether output is kept, and how much of it; `None` is all.
pub(crate) fn parse(log: Option<&LogConfig>) -> ApiResult<(bool, Option<LogLimit>)> {
    let option = |name: &str| {
        let options = log.and_then(|log| log.config.as_ref());
        options.and_then(|options| options.get(name)).map(String::as_str)
    };
    let (unit, usual) = match driver_name(log.and_then(|log| log.r#type.as_deref())) {
        "json-file" => (1000, None),
        "local" => (1024, Some(LOCAL)),
        "none" => return Ok((false, None)),
        other => {
            return Err(ApiError::bad_request(format!(
                "logger: no log driver named '{other}' is registered"
            )));
        }
    };
    let files = match option(MAX_FILE) {
        Some(text) => files(text)?,
        None => usual.map_or(1, |limit| limit.files),
    };
    let bytes = match option(MAX_SIZE) {
        Some("-1") => None,
        Some(text) => Some(size(text, unit).ok_or_else(|| {
            ApiError::bad_request(format!("max-size must be a positive number, not '{text}'"))
        })?),
        None => usual.map(|limit| limit.bytes),
    };
    Ok((true, bytes.map(|bytes| LogLimit { bytes, files })))
}

fn driver_name(name: Option<&str>) -> &str {
    name.filter(|name| !name.is_empty()).unwrap_or("json-file")
}

fn files(text: &str) -> ApiResult<u32> {
    match text.parse() {
        Ok(files @ 1..=MOST_FILES) => Ok(files),
        _ => Err(ApiError::bad_request(format!(
            "max-file cannot be less than 1, or more than {MOST_FILES}: '{text}'"
        ))),
    }
}

/// Reads `10m`, `1.5 GB` or a number of bytes; a thousand has `unit`.
fn size(text: &str, unit: u64) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, suffix) = lower.split_at(digits);
    let suffix = suffix.trim();
    let letter = suffix.strip_suffix("ib").or(suffix.strip_suffix('b')).unwrap_or(suffix);
    let power = match letter {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * unit.pow(power) as f64;
    // Beyond what f64 counts exactly there is no disk.
    (1.0..9e15).contains(&bytes).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(config: Value) -> ApiResult<(bool, Option<LogLimit>)> {
        parse(Some(&serde_json::from_value(config).unwrap()))
    }

    #[track_caller]
    fn check(config: Value, bytes: u64, files: u32) {
        assert_eq!(parsed(config).ok(), Some((true, Some(LogLimit { bytes, files }))));
    }

    #[test]
    fn a_log_is_kept_as_far_as_its_options_say() {
        let options = |driver: &str, options: Value| json!({ "Type": driver, "Config": options });
        check(options("", json!({ "max-size": "10m", "max-file": "3" })), 10_000_000, 3);
        check(options("json-file", json!({ "max-size": "1.5kB" })), 1500, 1);
        check(options("local", json!({})), 20 << 20, 5);
        check(options("local", json!({ "max-size": "1m" })), 1 << 20, 5);
        let all = Some((true, None));
        assert_eq!(parsed(json!({})).ok(), all);
        assert_eq!(parsed(options("json-file", json!({ "max-file": "2" }))).ok(), all);
        assert_eq!(parsed(options("json-file", json!({ "max-size": "-1" }))).ok(), all);
        assert_eq!(parsed(options("none", json!({}))).ok(), Some((false, None)));
    }

    #[test]
    fn limits_that_make_no_sense_and_other_drivers_are_refused() {
        let refused = |options: Value| assert!(parsed(json!({ "Config": options })).is_err());
        for size in ["", "0", "x", "-2", "1x", "1e9", "9999999t"] {
            refused(json!({ "max-size": size }));
        }
        for files in ["0", "-1", "101", "x"] {
            refused(json!({ "max-size": "1m", "max-file": files }));
        }
        assert!(parsed(json!({ "Type": "syslog" })).is_err());
    }

    #[test]
    fn options_without_effect_are_warned_about_and_unknown_ones_refused() {
        let note = |options: Value| {
            let log = serde_json::from_value(json!({ "Config": options })).unwrap();
            note(Some(&log), &mut BTreeMap::new()).ok()
        };
        assert_eq!(note(json!({ "max-size": "1m" })), Some(None));
        let warning = note(json!({ "max-size": "1m", "compress": "true" })).flatten().unwrap();
        assert!(warning.contains("compress") && !warning.contains("max-size"), "{warning}");
        assert_eq!(note(json!({ "nope": "1" })), None);
    }
}
