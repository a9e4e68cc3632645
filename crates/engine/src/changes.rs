//! `--change`: lines of a Dockerfile that change the configuration of a new image.

use crate::error::{Error, Result};
use crate::store::oci::RunConfig;

/// Applies lines such as `CMD ["sh"]`, `ENV A=b` or `EXPOSE 80` to a configuration, in order.
///
/// The instructions are those docker's commit takes: CMD ENTRYPOINT ENV EXPOSE LABEL ONBUILD
/// STOPSIGNAL USER VOLUME WORKDIR. Errors where a line is another one, or malformed.
pub fn apply_changes(config: &mut RunConfig, lines: &[String]) -> Result<()> {
    for line in lines.iter().flat_map(|text| text.lines()).map(str::trim) {
        if !line.is_empty() && !line.starts_with('#') {
            apply(config, line)?;
        }
    }
    Ok(())
}

fn apply(config: &mut RunConfig, line: &str) -> Result<()> {
    let (instruction, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let instruction = instruction.to_ascii_uppercase();
    if rest.is_empty() {
        return Err(Error::bad_parameter(format!("{instruction} requires an argument: {line:?}")));
    }
    match instruction.as_str() {
        "CMD" => config.cmd = command(rest),
        "ENTRYPOINT" => config.entrypoint = command(rest),
        "ENV" => config.env = crate::create::merge_env(&config.env, &pairs(rest)?),
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                config.exposed_ports.insert(exposed_port(port)?);
            }
        }
        "LABEL" => {
            for pair in pairs(rest)? {
                let (key, value) = pair.split_once('=').unwrap_or((&pair, ""));
                config.labels.insert(key.to_owned(), value.to_owned());
            }
        }
        "ONBUILD" => config.on_build.push(rest.to_owned()),
        "STOPSIGNAL" => {
            crate::signal::parse_signal(rest)?;
            config.stop_signal = rest.to_owned();
        }
        "USER" => config.user = rest.to_owned(),
        "VOLUME" => match exec_form(rest) {
            Some(paths) => config.volumes.extend(paths),
            None => config.volumes.extend(rest.split_whitespace().map(str::to_owned)),
        },
        "WORKDIR" => config.working_dir = below(&config.working_dir, rest),
        other => {
            return Err(Error::bad_parameter(format!("{other} is not a valid change command")));
        }
    }
    Ok(())
}

/// `["a","b"]` as it stands, anything else as a shell's command.
fn command(text: &str) -> Vec<String> {
    exec_form(text).unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into(), text.into()])
}

fn exec_form(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// `A=b "C=d e"` or the old `A b c`.
fn pairs(text: &str) -> Result<Vec<String>> {
    let words = words(text)?;
    match words.split_first() {
        Some((first, _)) if !first.contains('=') => {
            let (name, value) = text.split_once(char::is_whitespace).ok_or_else(|| {
                Error::bad_parameter(format!("{text:?} must have the form NAME=value"))
            })?;
            Ok(vec![format!("{name}={}", value.trim())])
        }
        _ => match words.iter().find(|word| !word.contains('=')) {
            Some(word) => {
                Err(Error::bad_parameter(format!("{word:?} must have the form NAME=value")))
            }
            None => Ok(words),
        },
    }
}

/// Cuts at spaces outside quotes; quotes are taken off, a backslash takes the next character.
fn words(text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\\', None | Some('"')) => {
                word.get_or_insert_default().extend(characters.next());
            }
            ('"' | '\'', None) => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (end, Some(begin)) if end == begin => quote = None,
            (space, None) if space.is_whitespace() => words.extend(word.take()),
            (other, _) => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    match quote {
        None => Ok(words),
        Some(_) => Err(Error::bad_parameter(format!("a quote is not closed in {text:?}"))),
    }
}

fn exposed_port(text: &str) -> Result<String> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    match (port.parse::<u16>(), protocol) {
        (Ok(1..), "tcp" | "udp" | "sctp") => Ok(format!("{port}/{protocol}")),
        _ => Err(Error::bad_parameter(format!("invalid port in EXPOSE: {text}"))),
    }
}

fn below(folder: &str, path: &str) -> String {
    match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("{}/{path}", folder.trim_end_matches('/')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(lines: &[&str]) -> RunConfig {
        let mut config = RunConfig { env: vec!["A=1".into()], ..Default::default() };
        let lines: Vec<_> = lines.iter().map(|line| (*line).to_owned()).collect();
        apply_changes(&mut config, &lines).unwrap();
        config
    }

    #[test]
    fn every_instruction_lands_in_its_field() {
        let config = changed(&[
            r#"CMD ["sh", "-x"]"#,
            "entrypoint echo hi",
            r#"ENV A=2 B="c d" E=f\ g"#,
            "ENV OLD a b",
            "EXPOSE 80 53/udp",
            "LABEL a.b=c 'd=e f'",
            "USER ann",
            "WORKDIR /srv",
            "WORKDIR sub",
            r#"VOLUME ["/data"]"#,
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN true",
        ]);
        assert_eq!(config.cmd, ["sh", "-x"]);
        assert_eq!(config.entrypoint, ["/bin/sh", "-c", "echo hi"]);
        assert_eq!(config.env, ["A=2", "B=c d", "E=f g", "OLD=a b"]);
        assert!(config.exposed_ports.iter().eq(["53/udp", "80/tcp"]));
        assert_eq!(config.labels["d"], "e f");
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("ann", "/srv/sub"));
        assert!(config.volumes.contains("/data"));
        assert_eq!((config.stop_signal.as_str(), config.on_build.len()), ("SIGINT", 1));
    }

    #[test]
    fn other_lines_are_refused() {
        for bad in ["RUN true", "ENV", "ENV A=b c", "EXPOSE 99999", "LABEL \"a=b", "CMD"] {
            let lines = [bad.to_owned()];
            assert!(apply_changes(&mut RunConfig::default(), &lines).is_err(), "{bad}");
        }
    }
}
