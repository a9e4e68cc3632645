//! Sizes, processor counts, environment entries and points in time as they are typed.

use jiff::{Timestamp, civil, tz::TimeZone};

/// Bytes from `512m`, `1.5g`, `64KiB`, `4096`: units are powers of 1024, in either case.
pub fn bytes(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim().to_ascii_lowercase();
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" if unit.contains('i') => return Err(format!("unknown unit {unit:?}")),
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(format!("unknown unit {unit:?}: use b, k, m, g or t")),
    };
    let scale = 1u64 << (10 * power);
    let too_large = || format!("{text} is too large");
    if let Ok(number) = number.parse::<u64>() {
        return number.checked_mul(scale).ok_or_else(too_large);
    }
    let number: f64 =
        number.parse().map_err(|_| "a size is a number and a unit: 512m".to_owned())?;
    let bytes = number * scale as f64;
    if bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err(too_large()) }
}

/// Billionths of a processor from `1.5`.
pub fn nano_cpus(text: &str) -> Result<i64, String> {
    let wrong = || "a number of CPUs is decimal, such as 1 or 1.5".to_owned();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return Err(wrong());
    }
    if fraction.len() > 9 {
        return Err("a number of CPUs has at most nine decimals".into());
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| wrong())? };
    let fraction: i64 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
    whole
        .checked_mul(1_000_000_000)
        .and_then(|nanos| nanos.checked_add(fraction))
        .ok_or_else(|| format!("{text} CPUs are too many"))
}

/// `NAME=VALUE` as it is; `NAME` with the value it has here, or alone, which asks for its removal.
pub fn environment_entry(text: &str) -> Result<String, String> {
    let name = text.split('=').next().unwrap_or_default();
    if name.is_empty() {
        return Err("a variable is written NAME=VALUE or NAME".into());
    }
    Ok(match (text.contains('='), std::env::var(name)) {
        (false, Ok(value)) => format!("{name}={value}"),
        _ => text.to_owned(),
    })
}

/// The entries of an `--env-file`: one a line, `#` begins a comment line; `NAME` alone takes its
/// value from `lookup` and is left out where it has none.
pub fn environment_file(
    text: &str,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Vec<String>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().map(str::trim_start).enumerate();
    let mut entries = Vec::new();
    for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let name = line.split('=').next().unwrap_or_default();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(format!("line {}: variable name {name:?} is not usable", index + 1));
        }
        match line.contains('=') {
            true => entries.push(line.to_owned()),
            false => entries.extend(lookup(name).map(|value| format!("{name}={value}"))),
        }
    }
    Ok(entries)
}

/// Seconds since 1970 with a fraction, from RFC 3339, a local date or time, seconds since 1970,
/// or a length of time before `now` (`10m`, `1h30m`).
pub fn point_in_time(text: &str, now: Timestamp) -> Result<String, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Ok(text.to_owned());
    }
    let local = |civil: civil::DateTime| {
        civil.to_zoned(TimeZone::system()).map(|zoned| zoned.timestamp()).ok()
    };
    let point = match before(text, now) {
        Some(point) => Some(point),
        None => text.parse::<Timestamp>().ok().or_else(|| local(text.parse().ok()?)),
    };
    let point = point.ok_or_else(|| {
        format!("{text:?} is not a time: use 2026-01-02T15:04:05Z, 2026-01-02 or 10m")
    })?;
    Ok(format!("{}.{:09}", point.as_second(), point.subsec_nanosecond().unsigned_abs()))
}

/// Nanoseconds from `1m30s`, `500ms`, `0`.
pub fn nanoseconds(text: &str) -> Result<i64, String> {
    let length = if text == "0" { Some(0.0) } else { seconds(text) };
    let nanos = length.map(|seconds| seconds * 1e9).filter(|nanos| *nanos < i64::MAX as f64);
    nanos
        .map(|nanos| nanos.round() as i64)
        .ok_or_else(|| "a length of time is numbers and units: 500ms, 1m30s".to_owned())
}

/// `1h30m` before `now`; `None` where `text` is not such a length.
fn before(text: &str, now: Timestamp) -> Option<Timestamp> {
    let length = std::time::Duration::try_from_secs_f64(seconds(text)?).ok()?;
    now.checked_sub(length).ok()
}

/// Seconds from `1h30m`.
fn seconds(text: &str) -> Option<f64> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        seconds += number
            * match &rest[..end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 0.001,
                _ => return None,
            };
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, expected) in [
            ("4096", 4096),
            ("10b", 10),
            ("512m", 512 << 20),
            ("512M", 512 << 20),
            ("1.5g", 3 << 29),
            ("64KiB", 64 << 10),
            ("2gb", 2 << 30),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for wrong in ["", "m", "1z", "-1", "1ib", "1.2.3m", "99999999999t", "20000p"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn processors_are_exact_decimals() {
        assert_eq!(nano_cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(nano_cpus("2"), Ok(2_000_000_000));
        assert_eq!(nano_cpus(".000000001"), Ok(1));
        for wrong in ["", ".", "-1", "1,5", "x", "1.0000000001", "99999999999"] {
            assert!(nano_cpus(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_environment_file_is_read_as_docker_reads_it() {
        let lookup = |name: &str| (name == "HOME").then(|| "/home/ann".to_owned());
        let text = "\u{feff}# comment\n\n  A=1\nB=x y \nHOME\nUNSET\nC=\"q\"\n";
        assert_eq!(
            environment_file(text, lookup).unwrap(),
            ["A=1", "B=x y ", "HOME=/home/ann", "C=\"q\""]
        );
        assert!(environment_file("A B=1\n", lookup).unwrap_err().contains("line 1"));
        assert!(environment_file("=1\n", lookup).is_err());
    }

    #[test]
    fn a_variable_without_a_name_is_refused() {
        assert!(environment_entry("=x").is_err());
        assert_eq!(environment_entry("A=").as_deref(), Ok("A="));
        assert_eq!(environment_entry("IREKO_NOT_SET").as_deref(), Ok("IREKO_NOT_SET"));
    }

    #[test]
    fn points_in_time_have_four_spellings() {
        let now: Timestamp = "2026-01-02T00:00:10Z".parse().unwrap();
        let point = |text| point_in_time(text, now);
        assert_eq!(point("1700000000.5").unwrap(), "1700000000.5");
        assert_eq!(point("10s").unwrap(), "1767312000.000000000");
        assert_eq!(point("1h30m").unwrap(), "1767306610.000000000");
        assert_eq!(point("2026-01-02T00:00:00.25Z").unwrap(), "1767312000.250000000");
        assert!(point("2026-01-02").is_ok());
        assert!(point("2026-01-02T15:04").is_ok());
        for wrong in ["", "10", "yesterday", "10x", "m"] {
            assert_eq!(point(wrong).is_err(), wrong != "10", "{wrong}");
        }
    }
}
