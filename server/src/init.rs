//! `ahoyd init`: the first configuration, the keys, and the record to publish.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ahoy_proto::time::{Clock, Entropy};
use ahoy_transport::identity::TlsIdentity;
use anyhow::Context;

use crate::config::Config;
use crate::invite::InviteKey;
use crate::key_file;
use crate::name_folder::NameFolder;

/// What the operator chose; what is `None` keeps its default and stays out of the file.
#[derive(Clone, Debug, Default)]
pub struct Choices {
    /// Names to serve.
    pub names: Vec<String>,
    /// Host, with or without port, to publish.
    pub endpoint: String,
    /// UDP address to listen at.
    pub listen: Option<SocketAddr>,
    /// TCP address of metrics and health.
    pub http_listen: Option<SocketAddr>,
    /// Folder of keys and store.
    pub data_dir: Option<PathBuf>,
    /// Special-use domains to allow.
    pub special_use_allowed: Vec<String>,
    /// DNS servers to ask.
    pub dns_servers: Vec<SocketAddr>,
    /// Where validation starts.
    pub trust_anchor: Option<PathBuf>,
}

/// Writes `file` and makes the keys that are missing. Nothing is written when `file` exists or the choices are wrong;
/// keys that exist are kept.
pub fn init(
    file: &Path,
    choices: &Choices,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> anyhow::Result<(Config, Vec<NameFolder>)> {
    let text = configuration(choices)?;
    let config = Config::parse(&text, file)?;
    let mut written = OpenOptions::new().write(true).create_new(true).open(file).with_context(|| {
        format!("{} cannot be created; an existing one is never replaced", file.display())
    })?;
    written.write_all(text.as_bytes()).and_then(|()| written.sync_all())?;
    let names = set_up(&config, false, clock, entropy)?;
    Ok((config, names))
}

/// Makes whatever is missing of the keys that `config` needs, and signs the anchors that are missing, out of date or
/// to be renewed.
pub fn set_up(
    config: &Config,
    renew: bool,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> anyhow::Result<Vec<NameFolder>> {
    key_file::create_folder(&config.data_dir)?;
    TlsIdentity::load_or_create(&config.data_dir, entropy)?;
    InviteKey::load_or_create(&config.data_dir, entropy)?;
    let set_up = |name| NameFolder::set_up(config, name, renew, clock, entropy);
    Ok(config.names.iter().map(set_up).collect::<Result<_, _>>()?)
}

fn configuration(choices: &Choices) -> anyhow::Result<String> {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let list = |texts: Vec<String>| {
        let quoted: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
        format!("[{}]", quoted.join(", "))
    };
    let path = |path: &Path| {
        path.to_str().map(quoted).with_context(|| format!("{}: write the path in UTF-8", path.display()))
    };
    let mut text =
        String::from("# ahoyd.example.toml of the distribution explains every key and its default.\n\n");
    let mut set = |key: &str, value: String| text.push_str(&format!("{key} = {value}\n"));
    match &choices.names[..] {
        [name] => set("name", quoted(name)),
        names => set("name", list(names.to_vec())),
    }
    set("endpoint", quoted(&choices.endpoint));
    if let Some(address) = choices.listen {
        set("listen", quoted(&address.to_string()));
    }
    if let Some(address) = choices.http_listen {
        set("http_listen", quoted(&address.to_string()));
    }
    if let Some(dir) = &choices.data_dir {
        set("data_dir", path(dir)?);
    }
    if !choices.special_use_allowed.is_empty() {
        set("special_use_allowed", list(choices.special_use_allowed.clone()));
    }
    if !choices.dns_servers.is_empty() || choices.trust_anchor.is_some() {
        text.push_str("\n[dns]\n");
    }
    if !choices.dns_servers.is_empty() {
        let servers = list(choices.dns_servers.iter().map(SocketAddr::to_string).collect());
        text.push_str(&format!("servers = {servers}\n"));
    }
    if let Some(file) = &choices.trust_anchor {
        text.push_str(&format!("trust_anchor = {}\n", path(file)?));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use ahoy_transport::clock::{OsEntropy, SystemClock};

    use super::*;

    fn choices() -> Choices {
        Choices {
            names: vec!["bank.example".into()],
            endpoint: "hs.bank.example".into(),
            special_use_allowed: vec!["example".into()],
            ..Choices::default()
        }
    }

    fn run(dir: &Path, choices: &Choices) -> anyhow::Result<(Config, Vec<NameFolder>)> {
        init(&dir.join("ahoyd.toml"), choices, &SystemClock, &OsEntropy)
    }

    #[test]
    fn what_is_written_loads_again_with_private_keys() {
        let dir = tempfile::tempdir().unwrap();
        let chosen = Choices {
            listen: Some("127.0.0.1:7000".parse().unwrap()),
            http_listen: Some("127.0.0.1:7001".parse().unwrap()),
            data_dir: Some("a \"quoted\" folder".into()),
            dns_servers: vec!["127.0.0.1:5300".parse().unwrap()],
            trust_anchor: Some("anchor.key".into()),
            ..choices()
        };
        let (config, names) = run(dir.path(), &chosen).unwrap();
        assert_eq!(Config::load(&dir.path().join("ahoyd.toml")).unwrap(), config);
        assert_eq!(config.data_dir, dir.path().join("a \"quoted\" folder"));
        assert_eq!(config.dns.trust_anchor, Some(dir.path().join("anchor.key")));
        for key in
            ["tls.key", "invite.key", "names/bank.example/anchor.key", "names/bank.example/message.key"]
        {
            let mode = fs::metadata(config.data_dir.join(key)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{key}");
        }
        let opened = NameFolder::open(&config, &config.names[0]).unwrap();
        assert_eq!(opened.anchor, names[0].anchor);
    }

    #[test]
    fn an_existing_configuration_and_keys_are_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (_, names) = run(dir.path(), &choices()).unwrap();
        let refused = run(dir.path(), &choices()).unwrap_err();
        assert!(format!("{refused:#}").contains("an existing one is never replaced"), "{refused:#}");
        fs::remove_file(dir.path().join("ahoyd.toml")).unwrap();
        let (_, again) = run(dir.path(), &choices()).unwrap();
        assert_eq!(again[0].anchor, names[0].anchor);
    }

    #[test]
    fn a_wrong_name_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let refused = run(dir.path(), &Choices { special_use_allowed: Vec::new(), ..choices() });
        assert!(refused.is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
