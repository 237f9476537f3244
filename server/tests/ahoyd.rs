//! The binary as an operator uses it: set up, print the record, make invites, serve, stop.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use ahoy_proto::anchor::Anchor;

fn ahoyd(dir: &Path, arguments: &[&str]) -> Output {
    command(dir, arguments).output().expect("ahoyd runs")
}

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ahoyd"));
    command.current_dir(dir).args(arguments).env_remove("AHOYD_CONFIG");
    command
}

fn init(dir: &Path) -> Output {
    let arguments = "init --name bank.example --endpoint hs.bank.example --special-use-allowed example \
         --listen 127.0.0.1:0 --http-listen 127.0.0.1:0 --dns-server 127.0.0.1:9";
    ahoyd(dir, &arguments.split_whitespace().collect::<Vec<_>>())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn lines_of(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn init_prints_the_record_that_anchor_prints_again() {
    let dir = tempfile::tempdir().unwrap();
    let printed = lines_of(&init(dir.path()));
    let value = lines_of(&ahoyd(dir.path(), &["anchor", "--value"]));
    assert!(printed.contains(value.trim()) && printed.contains("_ahoy.bank.example"), "{printed}");
    let anchor = Anchor::parse(value.trim()).unwrap();
    assert_eq!(anchor.endpoints[0].to_string(), "hs.bank.example");
    let zone_line = lines_of(&ahoyd(dir.path(), &["anchor", "--zone-line"]));
    assert_eq!(zone_line.trim(), format!("_ahoy.bank.example. 3600 IN TXT \"{}\"", value.trim()));
    let renewed = lines_of(&ahoyd(dir.path(), &["anchor", "--renew", "--value"]));
    assert!(Anchor::parse(renewed.trim()).unwrap().signed_at > anchor.signed_at);
    let again = init(dir.path());
    assert!(!again.status.success() && text(&again.stderr).contains("never replaced"));
}

#[test]
fn a_mistake_is_told_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let output = ahoyd(dir.path(), &[]);
    assert!(text(&output.stderr).contains("`ahoyd init` writes a first configuration"), "{output:?}");
    lines_of(&init(dir.path()));
    let file = dir.path().join("ahoyd.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("listne = 1\n{good}")).unwrap();
    let output = ahoyd(dir.path(), &["--config", "ahoyd.toml"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.starts_with("ahoyd: ahoyd.toml, line 1: unknown field `listne`, expected one of"), "{said}");
    std::fs::write(&file, good).unwrap();
    let output = ahoyd(dir.path(), &["invite", "ann@other.example"]);
    assert!(
        text(&output.stderr).contains("ann@other.example is of a name that this homeserver does not serve")
    );
}

/// A running `ahoyd`, killed when a test ends early.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn serves_until_sigterm_and_makes_invites_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    lines_of(&init(dir.path()));
    let file = dir.path().join("ahoyd.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("log_format = \"json\"\n{config}")).unwrap();
    let mut serving = command(dir.path(), &["--config", "ahoyd.toml"]);
    let mut running = Running(serving.stderr(Stdio::piped()).spawn().expect("ahoyd starts"));
    let mut log = BufReader::new(running.0.stderr.take().expect("piped")).lines();
    let http = log
        .find_map(|line| {
            let entry: serde_json::Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
            Some(entry.get("http")?.as_str()?.to_owned())
        })
        .expect("it says where it listens");

    assert!(page(&http, "/healthz").starts_with("HTTP/1.1 200 "));
    let metrics = page(&http, "/metrics");
    assert!(metrics.contains("ahoyd_store_commits_total 1\n"), "the card's number is kept: {metrics}");
    let invite = lines_of(&ahoyd(dir.path(), &["invite", "ann@bank.example"]));
    let service = "invite --service bridge --address support@bank.example --address bank.example --days 30";
    let second = lines_of(&ahoyd(dir.path(), &service.split(' ').collect::<Vec<_>>()));
    assert!(invite.starts_with("ahoyinvite_") && second.starts_with("ahoyinvite_") && invite != second);
    let twin = ahoyd(dir.path(), &["--config", "ahoyd.toml"]);
    assert!(text(&twin.stderr).contains("in use by another process"), "{}", text(&twin.stderr));

    let told = Command::new("kill").args(["-TERM", &running.0.id().to_string()]).status().expect("kill runs");
    assert!(told.success());
    let rest: Vec<String> = log.map(|line| line.expect("a line")).collect();
    let ended = running.0.wait().expect("it ends");
    assert!(ended.success(), "{ended}: {rest:#?}");
    assert!(rest.iter().any(|line| line.contains("SIGTERM")), "{rest:#?}");
}

fn page(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
        .expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}
