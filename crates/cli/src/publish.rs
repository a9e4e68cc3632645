//! `--publish`: a container's port, and a port of the host that leads to it.

use serde::Serialize;

/// `--publish`, a single port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// `80/tcp`
    pub container: String,
    /// Where the host listens.
    pub host: PortBinding,
}

/// A port of the host, as the API has it; empty is any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PortBinding {
    host_ip: String,
    host_port: String,
}

impl std::str::FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (addresses, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (hosts, port) = addresses.rsplit_once(':').unwrap_or(("", addresses));
        let (host_ip, host_port) = match hosts.rsplit_once(':') {
            Some((ip, port)) => (ip.trim_matches(['[', ']']), port),
            None => ("", hosts),
        };
        let number = |text: &str| text.parse::<u16>().ok();
        let (first, last) = host_port.split_once('-').unwrap_or((host_port, host_port));
        let is_range = number(first).is_some_and(|first| number(last) >= Some(first));
        if number(port).is_none() || !(host_port.is_empty() || is_range) {
            return Err("a port is written [[IP:]HOST[-LAST]:]CONTAINER[/PROTOCOL]".into());
        }
        let host = PortBinding { host_ip: host_ip.to_owned(), host_port: host_port.to_owned() };
        Ok(Self { container: format!("{port}/{protocol}"), host })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_written_as_docker_writes_them() {
        let parse = |text: &str| text.parse::<Publish>();
        let publish = |ip: &str, host: &str, container: &str| {
            let host = PortBinding { host_ip: ip.into(), host_port: host.into() };
            Ok(Publish { container: container.into(), host })
        };
        assert_eq!(parse("80"), publish("", "", "80/tcp"));
        assert_eq!(parse("8080:80/udp"), publish("", "8080", "80/udp"));
        assert_eq!(parse("[::1]:8080:80"), publish("::1", "8080", "80/tcp"));
        assert_eq!(parse("127.0.0.1::80"), publish("127.0.0.1", "", "80/tcp"));
        for wrong in ["", "x", "80:", "70000", "2-1:80"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
