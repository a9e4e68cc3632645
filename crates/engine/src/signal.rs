//! Signals by name or number.

use crate::error::{Error, Result};

/// SIGTERM: what stops a container unless it says otherwise.
pub(crate) const TERM: i32 = 15;
/// SIGKILL.
pub(crate) const KILL: i32 = 9;

const NAMES: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("RTMIN", 34),
    ("RTMAX", 64),
];

/// Reads `SIGTERM`, `TERM`, `term`, `15` or `RTMIN+3`; Linux numbers, 1 to 64.
pub fn parse_signal(text: &str) -> Result<i32> {
    let unknown = || Error::bad_parameter(format!("Invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number).ok_or_else(unknown);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = |name: &str| NAMES.iter().find(|(known, _)| *known == name).map(|(_, n)| *n);
    if let Some(number) = named(name) {
        return Ok(number);
    }
    let offset = |prefix: &str, sign| {
        let digits = name.strip_prefix(prefix)?.strip_prefix(sign)?;
        digits.parse::<i32>().ok().filter(|n| (0..=30).contains(n))
    };
    let number = offset("RTMIN", '+')
        .map(|n| 34 + n)
        .or_else(|| offset("RTMAX", '-').map(|n| 64 - n))
        .ok_or_else(unknown)?;
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_many_spellings() {
        for text in ["SIGTERM", "TERM", "term", "15"] {
            assert_eq!(parse_signal(text).unwrap(), 15);
        }
        assert_eq!(parse_signal("SIGRTMIN+3").unwrap(), 37);
        assert_eq!(parse_signal("RTMAX-1").unwrap(), 63);
        for bad in ["", "0", "65", "SIGNOPE", "RTMIN+", "-9"] {
            assert!(parse_signal(bad).is_err(), "{bad:?}");
        }
    }
}
