//! Times and sizes as docker's tables say them.

use std::time::Duration;

/// `3 minutes`, `About an hour`, `2 weeks`: a length of time in its largest unit.
pub fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".into(),
        (1, ..) => "1 second".into(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".into(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".into(),
        (_, _, 2..48) => format!("{hours} hours"),
        (_, _, 48..336) => format!("{} days", hours / 24),
        (_, _, 336..1440) => format!("{} weeks", hours / (24 * 7)),
        (_, _, 1440..17520) => format!("{} months", hours / (24 * 30)),
        _ => format!("{} years", hours / (24 * 365)),
    }
}

/// `3 minutes ago`; both are seconds since 1970. A time ahead of `now` counts as just past.
pub fn ago(then: i64, now: i64) -> String {
    let elapsed = u64::try_from(now.saturating_sub(then)).unwrap_or(0);
    format!("{} ago", duration(Duration::from_secs(elapsed)))
}

/// `4.2MB`: bytes in decimal units with three figures, as docker's image list has them.
pub fn size(bytes: u64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// `512MiB`: bytes in binary units with at most four figures, for memory and virtual disks.
pub fn binary_size(bytes: u64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

fn scaled(bytes: u64, base: f64, units: &[&str]) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    // 999.5 would be shown as 1000; it is 1.0 of the next unit.
    while value >= base - 0.5 && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    let figures = format!("{value:.decimals$}");
    let figures = match figures.contains('.') {
        true => figures.trim_end_matches('0').trim_end_matches('.'),
        false => &figures,
    };
    format!("{figures}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_dockers_do() {
        let minute = 60;
        let hour = 60 * minute;
        let day = 24 * hour;
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (minute, "About a minute"),
            (2 * minute, "2 minutes"),
            (59 * minute, "59 minutes"),
            (hour, "About an hour"),
            (hour + 29 * minute, "About an hour"),
            (hour + 30 * minute, "2 hours"),
            (47 * hour, "47 hours"),
            (2 * day, "2 days"),
            (13 * day, "13 days"),
            (14 * day, "2 weeks"),
            (59 * day, "8 weeks"),
            (60 * day, "2 months"),
            (729 * day, "24 months"),
            (730 * day, "2 years"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), words, "{seconds} s");
        }
    }

    #[test]
    fn a_clock_that_ran_backwards_is_no_error() {
        assert_eq!(ago(100, 90), "Less than a second ago");
        assert_eq!(ago(100, 160), "About a minute ago");
    }

    #[test]
    fn sizes_have_three_figures_and_no_idle_zeros() {
        for (bytes, words) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.23kB"),
            (4_200_000, "4.2MB"),
            (72_800_000, "72.8MB"),
            (117_400_000, "117MB"),
            (120_000_000, "120MB"),
            (999_600_000, "1GB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(size(bytes), words);
        }
        assert_eq!(binary_size(64 << 30), "64GiB");
        assert_eq!(binary_size(1000 << 20), "1000MiB");
    }
}
