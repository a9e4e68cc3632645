//! What comes in a request's query.

use crate::api::error::{ApiError, ApiResult};
use axum::extract::{FromRequestParts, Query};
use hyper::http::request::Parts;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::str::FromStr;

/// A query's pairs, in order; names may repeat.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(pairs)| Self(pairs))
            .map_err(|error| ApiError::bad_request(format!("invalid query: {error}")))
    }
}

impl Params {
    /// The first value; empty counts as none.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let pair = self.0.iter().find(|(key, _)| key == name);
        pair.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Every value of a name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// docker's idea of a boolean: all but a few words for no is true.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    /// Likewise, with the value of one that is not there.
    pub(crate) fn flag_or(&self, name: &str, default: bool) -> bool {
        match self.all(name).next() {
            None => default,
            Some(text) => !matches!(
                text.trim().to_ascii_lowercase().as_str(),
                "" | "0" | "no" | "false" | "none"
            ),
        }
    }

    /// A number; an error where it is none.
    pub(crate) fn number<T: FromStr>(&self, name: &str) -> ApiResult<Option<T>> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| ApiError::bad_request(format!("invalid {name}: {text:?}")))
            })
            .transpose()
    }

    /// Seconds since 1970 with a fraction, or RFC 3339; 0 counts as none.
    pub(crate) fn time(&self, name: &str) -> ApiResult<Option<Timestamp>> {
        match self.get(name) {
            None | Some("0") => Ok(None),
            Some(text) => parse_time(text).map(Some).ok_or_else(|| {
                ApiError::bad_request(format!("invalid value for {name:?}: {text}"))
            }),
        }
    }

    /// The `filters` of a list; an error where a name is none of `known`.
    pub(crate) fn filters(&self, known: &[&str]) -> ApiResult<Filters> {
        let filters = Filters::parse(self.get("filters").unwrap_or("{}"))?;
        match filters.0.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(ApiError::bad_request(format!("invalid filter '{name}'"))),
            None => Ok(filters),
        }
    }
}

pub(crate) fn parse_time(text: &str) -> Option<Timestamp> {
    let Some((seconds, fraction)) =
        Some(text.split_once('.').unwrap_or((text, ""))).filter(|(s, _)| s.parse::<i64>().is_ok())
    else {
        return text.parse().ok();
    };
    let nanos = match fraction.len() {
        0 => 0,
        1..=9 if fraction.bytes().all(|b| b.is_ascii_digit()) => {
            fraction.parse::<i32>().ok()? * 10_i32.pow(9 - fraction.len() as u32)
        }
        _ => return None,
    };
    Timestamp::new(seconds.parse().ok()?, nanos).ok()
}

/// What a list is narrowed down by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Reads `{"label":{"a=b":true}}` (Go clients) or `{"label":["a=b"]}` (all others).
    fn parse(text: &str) -> ApiResult<Self> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Values {
            Map(BTreeMap<String, bool>),
            List(Vec<String>),
        }
        let parsed: BTreeMap<String, Values> =
            serde_json::from_str(text).map_err(|_| ApiError::bad_request("invalid filter"))?;
        let lists = parsed.into_iter().map(|(name, values)| match values {
            Values::Map(map) => {
                (name, map.into_iter().filter(|(_, on)| *on).map(|(value, _)| value).collect())
            }
            Values::List(list) => (name, list),
        });
        Ok(Self(lists.collect()))
    }

    /// The values of a name; empty where it is not filtered by.
    pub(crate) fn values(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// One of the values matches, or there are none.
    pub(crate) fn any(&self, name: &str, matches: impl Fn(&str) -> bool) -> bool {
        let values = self.values(name);
        values.is_empty() || values.iter().any(|value| matches(value))
    }

    /// Every `label` value matches, `key` or `key=value`, and no `label!` does.
    pub(crate) fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
            None => labels.contains_key(wanted),
        };
        self.values("label").iter().all(has) && !self.values("label!").iter().any(has)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Params {
        let uri = format!("http://x/?{query}").parse().unwrap();
        Query::try_from_uri(&uri).map(|Query(pairs)| Params(pairs)).unwrap()
    }

    #[test]
    fn booleans_are_what_go_and_python_write() {
        let params = params("a=1&b=True&c=0&d=False&e=");
        assert_eq!(
            ["a", "b", "c", "d", "e", "f"].map(|name| params.flag(name)),
            [true, true, false, false, false, false]
        );
        assert!(params.flag_or("f", true));
    }

    #[test]
    fn filters_come_in_two_shapes() {
        for text in [r#"{"label":{"a=b":true,"c":true}}"#, r#"{"label":["a=b","c"]}"#] {
            let filters = Filters::parse(text).unwrap();
            let labels = |pairs: &[(&str, &str)]| {
                pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
            };
            assert!(filters.labels(&labels(&[("a", "b"), ("c", "")])));
            assert!(!filters.labels(&labels(&[("a", "x"), ("c", "")])));
            assert!(!filters.labels(&labels(&[("a", "b")])));
            let filters = Filters::parse(&text.replace("label", "label!")).unwrap();
            assert!(filters.labels(&labels(&[("a", "x")])));
            assert!(!filters.labels(&labels(&[("a", "b")])));
        }
        assert!(Filters::parse("[]").is_err());
        assert_eq!(
            params("filters=%7B%22zz%22%3A%5B%22x%22%5D%7D")
                .filters(&["label"])
                .unwrap_err()
                .to_string(),
            "invalid filter 'zz'"
        );
    }

    #[test]
    fn times_are_seconds_or_dates() {
        let nanos = |text| parse_time(text).map(|time| time.as_nanosecond());
        assert_eq!(nanos("12"), Some(12_000_000_000));
        assert_eq!(nanos("12.5"), Some(12_500_000_000));
        assert_eq!(nanos("12.000000001"), Some(12_000_000_001));
        assert_eq!(nanos("1970-01-01T00:00:01Z"), Some(1_000_000_000));
        assert_eq!(nanos("soon"), None);
    }
}
