//! From the file's text to a checked [`Config`], with errors that name the file, the line and the key.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ahoy_proto::address::Local;
use ahoy_proto::anchor::AnchorEndpoint;
use ahoy_proto::name::{Name, NamePolicy};

use super::Config;
use super::section::{File, LineSection, OneOrMany};

/// A mistake in the configuration, or no configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    file: PathBuf,
    line: Option<usize>,
    message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for ConfigError {}

pub(super) fn load(file: &Path) -> Result<Config, ConfigError> {
    match std::fs::read_to_string(file) {
        Ok(text) => parse(&text, file),
        Err(error) => {
            let message = format!("{error}; `ahoyd init` writes a first configuration");
            Err(ConfigError { file: file.to_owned(), line: None, message })
        }
    }
}

pub(super) fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
    let written: File = toml::from_str(text).map_err(|error| ConfigError {
        file: file.to_owned(),
        line: error.span().map(|span| line_of(text, span.start)),
        message: error.message().trim_end().to_owned(),
    })?;
    Check { text, file }.config(written)
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// What a check needs to say where the mistake is.
struct Check<'a> {
    text: &'a str,
    file: &'a Path,
}

impl Check<'_> {
    fn config(&self, written: File) -> Result<Config, ConfigError> {
        let policy = NamePolicy::allowing(&written.special_use_allowed);
        let names = self.names(written.name, &policy)?;
        let lines = self.lines(written.line, &names, &policy)?;
        let folder = self.file.parent().unwrap_or(Path::new("")).to_owned();
        let folder = std::path::absolute(if folder.as_os_str().is_empty() { ".".into() } else { folder })
            .map_err(|error| {
                self.wrong("data_dir", format_args!("the current folder is unknown: {error}"))
            })?;
        let mut dns = written.dns;
        dns.trust_anchor = dns.trust_anchor.map(|path| folder.join(path));
        self.country(&written.card.country)?;
        if written.store_cache_mib == 0 || written.store_cache_mib > 1 << 20 {
            return Err(self.wrong("store_cache_mib", "it must be from 1 to 1048576"));
        }
        self.rates(&written.limits)?;
        Ok(Config {
            endpoint: self.endpoint(&written.endpoint)?,
            data_dir: folder.join(written.data_dir),
            file: self.file.to_owned(),
            names,
            listen: written.listen,
            http_listen: written.http_listen,
            policy,
            dns,
            log: written.log,
            log_format: written.log_format,
            drain: Duration::from_secs(written.drain_seconds),
            cache_bytes: written.store_cache_mib << 20,
            first_contact: written.first_contact,
            card: written.card,
            lines,
            limits: written.limits,
        })
    }

    fn names(&self, written: OneOrMany, policy: &NamePolicy) -> Result<Vec<Name>, ConfigError> {
        let written = match written {
            OneOrMany::One(name) => vec![name],
            OneOrMany::Many(names) => names,
        };
        let mut names = Vec::new();
        for text in &written {
            let name = self.name("name", text, policy)?;
            if names.contains(&name) {
                return Err(self.wrong("name", format_args!("{name} is listed twice")));
            }
            names.push(name);
        }
        if names.is_empty() {
            return Err(self.wrong("name", "list at least one name"));
        }
        Ok(names)
    }

    fn name(&self, key: &str, text: &str, policy: &NamePolicy) -> Result<Name, ConfigError> {
        Name::parse(text, policy)
            .map_err(|error| self.wrong(key, format_args!("`{text}` cannot be a name: {error}")))
    }

    fn endpoint(&self, text: &str) -> Result<AnchorEndpoint, ConfigError> {
        let endpoint = match text.rsplit_once(':') {
            None => AnchorEndpoint::at(text).ok(),
            Some((host, port)) => {
                let port = port.parse().ok();
                let with = AnchorEndpoint::at(host).ok().zip(port);
                with.and_then(|(at, port)| AnchorEndpoint::new(host, port, at.priority(), at.weight()).ok())
            }
        };
        let expected =
            "must be a host name in lower case, with or without `:port`, for example hs.bank.example";
        endpoint.ok_or_else(|| self.wrong("endpoint", format_args!("`{text}` {expected}")))
    }

    fn country(&self, country: &str) -> Result<(), ConfigError> {
        let is_code = country.len() == 2 && country.bytes().all(|byte| byte.is_ascii_uppercase());
        if country.is_empty() || is_code {
            return Ok(());
        }
        Err(self
            .wrong("country", format_args!("`{country}` must be two capital letters, for example \"DE\"")))
    }

    fn rates(&self, limits: &super::LimitSection) -> Result<(), ConfigError> {
        let rates = [
            ("device_messages", limits.device_messages),
            ("service_messages", limits.service_messages),
            ("device_calls", limits.device_calls),
            ("service_calls", limits.service_calls),
            ("requests", limits.requests),
            ("peer_items", limits.peer_items),
            ("peer_calls", limits.peer_calls),
        ];
        match rates.into_iter().find(|(_, rate)| !(0.001..=1e9).contains(rate)) {
            Some((key, _)) => Err(self.wrong(key, "it must be from 0.001 to 1000000000 per second")),
            None => Ok(()),
        }
    }

    fn lines(
        &self,
        written: Vec<LineSection>,
        names: &[Name],
        policy: &NamePolicy,
    ) -> Result<Vec<(Name, LineSection)>, ConfigError> {
        let mut lines: Vec<(Name, LineSection)> = Vec::new();
        for mut line in written {
            let of = match (&line.name, names) {
                (Some(text), _) => self.name("name", text, policy)?,
                (None, [only]) => only.clone(),
                (None, _) => {
                    return Err(self.at_line(&line, "several names are served: add `name = \"...\"` to it"));
                }
            };
            if !names.contains(&of) {
                return Err(self.at_line(&line, format_args!("{of} is not among the served names")));
            }
            if !line.local.is_empty() {
                let local = Local::parse(&line.local)
                    .map_err(|error| self.at_line(&line, format_args!("`local` cannot be: {error}")))?;
                line.local = local.as_str().to_owned();
            }
            if lines.iter().any(|(name, other)| *name == of && other.local == line.local) {
                return Err(self.at_line(&line, "it is there twice"));
            }
            self.targets(&line)?;
            lines.push((of, line));
        }
        Ok(lines)
    }

    fn targets(&self, line: &LineSection) -> Result<(), ConfigError> {
        let sound = |target: &str| {
            let rest = target.strip_prefix("service:").or_else(|| target.strip_prefix("account:"));
            rest.is_some_and(|rest| Local::parse(rest).is_ok())
        };
        if line.targets.is_empty() {
            return Err(self.at_line(line, "`targets` is empty: nobody would answer"));
        }
        match line.targets.iter().find(|target| !sound(target)) {
            Some(target) => {
                let expected = "must be `service:<name>` or `account:<local part>`";
                Err(self.at_line(line, format_args!("the target `{target}` {expected}")))
            }
            None => Ok(()),
        }
    }

    /// An error about `key`, with the first line that sets it.
    fn wrong(&self, key: &str, message: impl fmt::Display) -> ConfigError {
        let sets = |line: &str| {
            line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
        };
        let line = self.text.lines().position(sets).map(|at| at + 1);
        ConfigError { file: self.file.to_owned(), line, message: format!("{key}: {message}") }
    }

    fn at_line(&self, line: &LineSection, message: impl fmt::Display) -> ConfigError {
        let what =
            if line.local.is_empty() { "the front desk".to_owned() } else { format!("`{}`", line.local) };
        ConfigError { file: self.file.to_owned(), line: None, message: format!("[[line]] {what}: {message}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str =
        "special_use_allowed = [\"example\"]\nname = \"bank.example\"\nendpoint = \"hs.bank.example\"\n";

    fn parsed(more: &str) -> Result<Config, String> {
        parse(&format!("{LEAST}{more}"), Path::new("/etc/ahoyd.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_least_file_has_a_name_and_an_endpoint() {
        let config = parsed("").unwrap();
        assert_eq!(config.names[0].as_str(), "bank.example");
        assert_eq!((config.endpoint.host(), config.endpoint.port()), ("hs.bank.example", 2469));
        assert_eq!(config.data_dir, Path::new("/etc/data"));
        assert_eq!(config.listen.to_string(), "0.0.0.0:2469");
        assert!(config.http_listen.ip().is_loopback());
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name_file_and_line() {
        let error = parsed("lissten = \"0.0.0.0:1\"\n").unwrap_err();
        assert!(error.starts_with("/etc/ahoyd.toml, line 4: unknown field `lissten`, expected"), "{error}");
        let error = parsed("[dns]\nserver = []\n").unwrap_err();
        assert!(error.starts_with("/etc/ahoyd.toml, line 5: unknown field `server`, expected"), "{error}");
        let error = parsed("[[line]]\ntargets = [\"service:bot\"]\nlabels = \"x\"\n").unwrap_err();
        assert!(error.starts_with("/etc/ahoyd.toml, line 6: unknown field `labels`, expected"), "{error}");
    }

    #[test]
    fn a_wrong_value_is_refused_with_what_to_write() {
        for (more, expected) in [
            ("listen = \"localhost\"\n", "line 4: invalid socket address syntax"),
            ("[card]\ncountry = \"Germany\"\n", "line 5: country: `Germany` must be two capital letters"),
            ("log_format = \"xml\"\n", "line 4: unknown variant `xml`, expected `text` or `json`"),
            ("[[line]]\nlocal = \"support\"\ntargets = []\n", "[[line]] `support`: `targets` is empty"),
            ("[[line]]\ntargets = [\"phone\"]\n", "[[line]] the front desk: the target `phone` must be"),
            (
                "[[line]]\nname = \"x.example\"\ntargets = [\"service:a\"]\n",
                "x.example is not among the served",
            ),
            ("[limits]\nrequests = -1\n", "line 5: requests: it must be from 0.001"),
        ] {
            let error = parsed(more).unwrap_err();
            assert!(error.contains(expected), "{more}: {error}");
        }
        let twice = "[[line]]\ntargets = [\"service:a\"]\n".repeat(2);
        assert!(parsed(&twice).unwrap_err().ends_with("the front desk: it is there twice"));
    }

    #[test]
    fn names_and_the_endpoint_are_checked() {
        let parsed = |text: &str| parse(text, Path::new("a.toml")).map_err(|error| error.to_string());
        let error = parsed("name = \"bank.example\"\nendpoint = \"hs.bank.example\"\n").unwrap_err();
        assert!(error.starts_with("a.toml, line 1: name: `bank.example` cannot be a name"), "{error}");
        let two = "name = [\"a.example.com\", \"A.example.com.\"]\nspecial_use_allowed = [\"example.com\"]\n";
        let error = parsed(&format!("{two}endpoint = \"hs.example.com\"\n")).unwrap_err();
        assert_eq!(error, "a.toml, line 1: name: a.example.com is listed twice");
        for wrong in ["HS.bank.example", "10.0.0.1", "hs.bank.example:0", "hs.bank.example:x", ""] {
            let text = LEAST.replace("hs.bank.example", wrong);
            assert!(parsed(&text).unwrap_err().starts_with("a.toml, line 3: endpoint: "), "{wrong}");
        }
        let text = LEAST.replace("hs.bank.example", "hs.bank.example:9000");
        assert_eq!(parsed(&text).unwrap().endpoint.port(), 9000);
        assert!(parsed("endpoint = \"a.b\"").unwrap_err().contains("missing field `name`"));
    }
}
