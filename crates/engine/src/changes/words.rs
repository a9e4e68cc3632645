//! How a Dockerfile's line is cut into words, and variables in it become their values.
//!
//! | written | is |
//! |---|---|
//! | `'…'` | what stands there |
//! | `"…"` | the same with variables |
//! | `\c` | that character |
//! | `$A`, `${A}` | its value; nothing where it has none |
//! | `${A:-b}`, `${A:+b}` | `b` where it has none, or is empty; `b` where it has one |

use crate::error::{Error, Result};
use std::iter::Peekable;
use std::str::Chars;

/// Words within words.
const DEPTH: u32 = 16;

/// Cuts at spaces outside quotes; quotes are taken off, variables replaced.
pub(super) fn words(text: &str, env: &[String]) -> Result<Vec<String>> {
    Reader { text, env, characters: text.chars().peekable() }.words()
}

/// The same for a text that is one word, with its spaces.
pub(super) fn expand(text: &str, env: &[String]) -> Result<String> {
    let mut reader = Reader { text, env, characters: text.chars().peekable() };
    let mut whole = String::new();
    reader.read(&mut whole, |_| false, DEPTH)?;
    Ok(whole)
}

struct Reader<'a> {
    text: &'a str,
    env: &'a [String],
    characters: Peekable<Chars<'a>>,
}

impl Reader<'_> {
    fn words(mut self) -> Result<Vec<String>> {
        let mut words = Vec::new();
        loop {
            while self.characters.next_if(|character| character.is_whitespace()).is_some() {}
            if self.characters.peek().is_none() {
                return Ok(words);
            }
            let mut word = String::new();
            self.read(&mut word, char::is_whitespace, DEPTH)?;
            words.push(word);
        }
    }

    /// Reads up to a character that ends it, which stays.
    fn read(&mut self, to: &mut String, ends: impl Fn(char) -> bool, depth: u32) -> Result<()> {
        let mut in_quotes = false;
        while let Some(&character) = self.characters.peek() {
            if !in_quotes && ends(character) {
                return Ok(());
            }
            self.characters.next();
            match character {
                '\\' => to.extend(self.characters.next()),
                '"' => in_quotes = !in_quotes,
                '\'' if !in_quotes => self.literal(to)?,
                '$' => self.variable(to, depth)?,
                other => to.push(other),
            }
        }
        if in_quotes { Err(self.wrong("a quote is not closed")) } else { Ok(()) }
    }

    fn literal(&mut self, to: &mut String) -> Result<()> {
        loop {
            match self.characters.next() {
                Some('\'') => return Ok(()),
                Some(character) => to.push(character),
                None => return Err(self.wrong("a quote is not closed")),
            }
        }
    }

    fn variable(&mut self, to: &mut String, depth: u32) -> Result<()> {
        let is_braced = self.characters.next_if_eq(&'{').is_some();
        let mut name = String::new();
        let is_name = |character: &char| character.is_ascii_alphanumeric() || *character == '_';
        while let Some(character) = self.characters.next_if(is_name) {
            name.push(character);
        }
        if !is_braced {
            match name.is_empty() {
                true => to.push('$'),
                false => to.push_str(self.value(&name).unwrap_or_default()),
            }
            return Ok(());
        }
        let depth = depth.checked_sub(1).ok_or_else(|| self.wrong("too many braces"))?;
        let value = self.value(&name).unwrap_or_default().to_owned();
        match self.characters.next() {
            Some('}') if !name.is_empty() => to.push_str(&value),
            Some(':') if !name.is_empty() => {
                let kind = self.characters.next();
                let mut other = String::new();
                self.read(&mut other, |character| character == '}', depth)?;
                if self.characters.next().is_none() {
                    return Err(self.wrong("a brace is not closed"));
                }
                match (kind, value.is_empty()) {
                    (Some('-'), true) | (Some('+'), false) => to.push_str(&other),
                    (Some('-'), false) => to.push_str(&value),
                    (Some('+'), true) => {}
                    _ => return Err(self.wrong("unsupported modifier of a variable")),
                }
            }
            _ => return Err(self.wrong("a variable is malformed")),
        }
        Ok(())
    }

    fn value(&self, name: &str) -> Option<&str> {
        let pairs = self.env.iter().filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next_back()
    }

    fn wrong(&self, what: &str) -> Error {
        Error::bad_parameter(format!("{what} in {:?}", self.text))
    }
}
