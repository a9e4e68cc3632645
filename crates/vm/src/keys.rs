//! Keys of a PC's keyboard: by name, and by what a US keyboard writes.

use crate::error::{Error, ErrorKind, Result};

/// The most strokes taken at once: some minutes of typing.
const MOST: usize = 4096;

/// Keys that are pressed together, in QEMU's names; those before the last are held meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stroke(pub Vec<&'static str>);

/// QEMU's names that are used as they are. Source: QEMU's qapi/ui.json, `QKeyCode`.
const NAMES: &[&str] = &[
    "shift",
    "shift_r",
    "alt",
    "alt_r",
    "ctrl",
    "ctrl_r",
    "menu",
    "esc",
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "7",
    "8",
    "9",
    "0",
    "minus",
    "equal",
    "backspace",
    "tab",
    "q",
    "w",
    "e",
    "r",
    "t",
    "y",
    "u",
    "i",
    "o",
    "p",
    "bracket_left",
    "bracket_right",
    "ret",
    "a",
    "s",
    "d",
    "f",
    "g",
    "h",
    "j",
    "k",
    "l",
    "semicolon",
    "apostrophe",
    "grave_accent",
    "backslash",
    "z",
    "x",
    "c",
    "v",
    "b",
    "n",
    "m",
    "comma",
    "dot",
    "slash",
    "asterisk",
    "spc",
    "caps_lock",
    "f1",
    "f2",
    "f3",
    "f4",
    "f5",
    "f6",
    "f7",
    "f8",
    "f9",
    "f10",
    "f11",
    "f12",
    "num_lock",
    "scroll_lock",
    "kp_divide",
    "kp_multiply",
    "kp_subtract",
    "kp_add",
    "kp_enter",
    "kp_decimal",
    "kp_0",
    "kp_1",
    "kp_2",
    "kp_3",
    "kp_4",
    "kp_5",
    "kp_6",
    "kp_7",
    "kp_8",
    "kp_9",
    "sysrq",
    "less",
    "print",
    "pause",
    "home",
    "pgup",
    "pgdn",
    "end",
    "left",
    "up",
    "down",
    "right",
    "insert",
    "delete",
    "meta_l",
    "meta_r",
];

/// What people call some of them.
const ALIASES: &[(&str, &str)] = &[
    ("enter", "ret"),
    ("return", "ret"),
    ("space", "spc"),
    ("escape", "esc"),
    ("del", "delete"),
    ("ins", "insert"),
    ("control", "ctrl"),
    ("win", "meta_l"),
    ("super", "meta_l"),
    ("pageup", "pgup"),
    ("pagedown", "pgdn"),
    ("period", "dot"),
];

/// What a key of a US keyboard writes, alone and with shift.
const WRITTEN: &[(&str, char, char)] = &[
    ("1", '1', '!'),
    ("2", '2', '@'),
    ("3", '3', '#'),
    ("4", '4', '$'),
    ("5", '5', '%'),
    ("6", '6', '^'),
    ("7", '7', '&'),
    ("8", '8', '*'),
    ("9", '9', '('),
    ("0", '0', ')'),
    ("minus", '-', '_'),
    ("equal", '=', '+'),
    ("bracket_left", '[', '{'),
    ("bracket_right", ']', '}'),
    ("semicolon", ';', ':'),
    ("apostrophe", '\'', '"'),
    ("grave_accent", '`', '~'),
    ("backslash", '\\', '|'),
    ("comma", ',', '<'),
    ("dot", '.', '>'),
    ("slash", '/', '?'),
    ("spc", ' ', ' '),
    ("tab", '\t', '\t'),
    ("ret", '\n', '\n'),
];

/// Reads keys by their names, such as `ctrl-alt-delete`, `f2` or `a`.
///
/// # Errors
/// `InvalidSpec` naming the first that is none, and where they are none or thousands.
pub fn named(words: &[String]) -> Result<Vec<Stroke>> {
    check_count(words.len())?;
    words.iter().map(|word| name(word)).collect()
}

/// Reads a text as it is typed on a US keyboard.
///
/// # Errors
/// `InvalidSpec` naming the first character that is on none, and where they are none or thousands.
pub fn text(text: &str) -> Result<Vec<Stroke>> {
    check_count(text.chars().count())?;
    text.chars().map(written).collect()
}

fn check_count(count: usize) -> Result<()> {
    match count {
        0 => Err(wrong("there is nothing to type".into())),
        1..=MOST => Ok(()),
        _ => Err(wrong(format!("more than {MOST} keys are not typed at once"))),
    }
}

fn name(word: &str) -> Result<Stroke> {
    let keys = word.split('-').map(|name| {
        let name = name.to_ascii_lowercase();
        let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
        let name = alias.map_or(name.as_str(), |(_, name)| name);
        NAMES.iter().find(|known| **known == name).copied().ok_or_else(|| {
            let aliases = ALIASES.iter().map(|(alias, _)| *alias);
            let known: Vec<_> = NAMES.iter().copied().chain(aliases).collect();
            wrong(format!(
                "{word:?} is no key; several at once are ctrl-alt-delete, a text is typed by --text; keys \
                 are {}",
                known.join(", ")
            ))
        })
    });
    keys.collect::<Result<_>>().map(Stroke)
}

fn written(character: char) -> Result<Stroke> {
    if character.is_ascii_alphabetic() {
        let name = character.to_ascii_lowercase().to_string();
        let key = NAMES.iter().find(|known| **known == name).copied().into_iter();
        let shift = character.is_ascii_uppercase().then_some("shift");
        return Ok(Stroke(shift.into_iter().chain(key).collect()));
    }
    let key = WRITTEN.iter().find(|(_, plain, shifted)| [*plain, *shifted].contains(&character));
    match key {
        Some((key, plain, _)) if *plain == character => Ok(Stroke(vec![key])),
        Some((key, ..)) => Ok(Stroke(vec!["shift", key])),
        None => Err(wrong(format!("{character:?} is on no US keyboard"))),
    }
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::InvalidSpec, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(strokes: Result<Vec<Stroke>>) -> String {
        let strokes = strokes.unwrap();
        strokes.iter().map(|Stroke(keys)| keys.join("+")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn keys_go_by_qemus_names_and_by_those_that_people_use() {
        let words = ["ctrl-alt-Del", "enter", "f2", "win-r"].map(str::to_owned);
        assert_eq!(shown(named(&words)), "ctrl+alt+delete ret f2 meta_l+r");
        for word in ["", "-", "nope", "ctrl-", "é"] {
            assert!(named(&[word.to_owned()]).is_err(), "{word}");
        }
    }

    #[test]
    fn a_text_is_typed_as_on_a_us_keyboard() {
        let expected = "r shift+o 0 t shift+semicolon minus shift+minus ret";
        assert_eq!(shown(text("rO0t:-_\n")), expected);
        for character in ' '..='~' {
            written(character).unwrap();
        }
        assert!(text("é").is_err());
        assert!(text("").is_err());
        assert!(text(&"a".repeat(MOST + 1)).is_err());
    }

    #[test]
    fn every_name_that_is_meant_is_there() {
        let meant = ALIASES.iter().map(|(_, name)| name).chain(WRITTEN.iter().map(|(key, ..)| key));
        for name in meant {
            assert!(NAMES.contains(name), "{name}");
        }
    }
}
