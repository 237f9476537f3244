//! Holds the specification and the code together: requirement tables, citations, vectors and the tables of codes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ahoy_proto::limit;

/// Folders in which nothing is cited.
const SKIPPED: [&str; 3] = ["target", ".git", "corpus"];
/// What may cite a requirement.
const CITING: [&str; 6] = ["rs", "proto", "toml", "md", "sh", "py"];

/// One row of a requirement table.
struct Row {
    file: String,
    id: String,
    level: String,
    sentence: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace holds this crate").to_owned()
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below a folder with one of these extensions.
fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if path.is_dir() {
            if !SKIPPED.contains(&name.as_str()) {
                found.extend(files(&path, extensions));
            }
        } else if extensions.iter().any(|extension| name.ends_with(&format!(".{extension}"))) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// `1-overview.md` and its siblings.
fn sections() -> Vec<PathBuf> {
    let mut sections = files(&root().join("spec"), &["md"]);
    sections.retain(|path| path.parent().is_some_and(|folder| folder.ends_with("spec")));
    sections
}

/// `AREA-TOPIC-NN`.
fn is_id(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let is_word = |word: &str| word.len() >= 2 && word.bytes().all(|b| b.is_ascii_uppercase());
    matches!(parts[..], [area, topic, number] if is_word(area) && is_word(topic)
        && number.len() == 2 && number.bytes().all(|b| b.is_ascii_digit()))
}

/// The IDs that a text cites in brackets.
fn cited(text: &str) -> BTreeSet<String> {
    let inner = text.split('[').skip(1).filter_map(|rest| rest.split_once(']'));
    inner.map(|(id, _)| id).filter(|id| is_id(id)).map(str::to_owned).collect()
}

/// The rows of the requirement tables: those whose first cell begins with an area and a topic.
fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for path in sections() {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for line in text(&path).lines() {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [before, id, level, sentence, after] = cells[..] else {
                assert!(!cells.iter().any(|cell| is_id(cell)), "{file}: a row has not three cells: {line}");
                continue;
            };
            if is_id(id) {
                assert!(before.is_empty() && after.is_empty(), "{file}: a row has not three cells: {line}");
                let (id, level, sentence) = (id.to_owned(), level.to_owned(), sentence.to_owned());
                rows.push(Row { file: file.clone(), id, level, sentence });
            }
        }
    }
    rows
}

#[test]
fn every_requirement_is_one_sentence_with_a_level_and_an_id_of_its_own() {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let rows = rows();
    assert!(rows.len() > 150, "only {} requirements were read", rows.len());
    for Row { file, id, level, sentence } in rows {
        assert!(["MUST", "SHOULD", "MAY"].contains(&level.as_str()), "{file}: {id}: level `{level}`");
        assert!(sentence.len() > 20 && sentence.ends_with('.'), "{file}: {id}: not a sentence: {sentence}");
        if let Some(other) = seen.insert(id.clone(), file.clone()) {
            panic!("{id} is in {other} and in {file}");
        }
    }
}

#[test]
fn every_requirement_that_is_cited_exists() {
    let known: BTreeSet<String> = rows().into_iter().map(|row| row.id).collect();
    let mut missing = Vec::new();
    let mut citations = 0;
    for path in files(&root(), &CITING) {
        for id in cited(&text(&path)) {
            citations += 1;
            if !known.contains(&id) {
                missing.push(format!("{}: [{id}]", path.strip_prefix(root()).unwrap_or(&path).display()));
            }
        }
    }
    assert!(citations > 100, "only {citations} citations were found");
    assert!(missing.is_empty(), "cited, but in no table of spec/:\n{}", missing.join("\n"));
}

#[test]
fn every_vector_is_listed_and_every_listed_file_exists() {
    let readme = text(&root().join("spec/README.md"));
    let vectors = files(&root().join("spec/vectors"), &["json"]);
    assert!(!vectors.is_empty());
    for path in &vectors {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        assert!(readme.contains(&format!("(vectors/{name})")), "spec/README.md does not list {name}");
    }
    for path in sections() {
        let text = text(&path);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        // A regular expression in the text may look like a link.
        for link in links.filter(|link| [".md", ".json", "/"].iter().any(|end| link.ends_with(end))) {
            let file = path.parent().expect("a section is in spec").join(link.trim_end_matches('/'));
            assert!(link.starts_with("http") || file.exists(), "{}: no {link}", path.display());
        }
        for name in text.split("`vectors/").skip(1).filter_map(|rest| rest.split_once('`')).map(|(n, _)| n) {
            assert!(root().join("spec/vectors").join(name).exists(), "{}: no vector {name}", path.display());
        }
    }
}

/// `number name class` of every value of an enum of the schema; the class is the comment's first word.
fn schema_values(file: &str, prefix: &str) -> Vec<(String, String, String)> {
    let schema = text(&root().join("proto/schema/ahoy/v1").join(file));
    let mut values = Vec::new();
    for line in schema.lines().filter_map(|line| line.trim().strip_prefix(prefix)) {
        let (name, rest) = line.split_once(" = ").expect("a value has a number");
        let (number, comment) = rest.split_once(';').expect("a value ends");
        let comment = comment.trim_start_matches([' ', '/']);
        let class = comment.split([' ', ':']).next().unwrap_or_default();
        values.push((number.to_owned(), name.to_owned(), class.to_owned()));
    }
    values
}

#[test]
fn the_tables_of_errors_and_reasons_are_those_of_the_schema() {
    let transport = text(&root().join("spec/3-transport.md"));
    let errors = schema_values("errors.proto", "ERROR_CODE_");
    assert!(errors.len() > 40);
    for (number, name, class) in errors.into_iter().filter(|(number, ..)| number != "0") {
        let row = format!("| {number} | {name} | {class} | ");
        assert!(transport.contains(&row), "spec/3-transport.md has no row `{row}`");
    }
    let calls = text(&root().join("spec/6-calls.md"));
    let reasons = schema_values("calls.proto", "HANGUP_REASON_");
    assert!(reasons.len() > 15);
    for (number, name, _) in reasons.into_iter().filter(|(number, ..)| number != "0") {
        let row = format!("| {number} | {name} |");
        assert!(calls.contains(&row), "spec/6-calls.md has no row `{row}`");
    }
}

#[test]
fn the_advertised_limits_are_those_of_the_code() {
    let transport = text(&root().join("spec/3-transport.md"));
    let limits = [
        ("frame_bytes", limit::FRAME_BYTES as u128),
        ("request_streams", limit::REQUEST_STREAMS.into()),
        ("call_streams", limit::CALL_STREAMS.into()),
        ("pipe_window", limit::PIPE_WINDOW.into()),
        ("content_bytes", limit::CONTENT_BYTES as u128),
        ("idle_timeout_ms", limit::IDLE_TIME.as_millis()),
    ];
    for (field, value) in limits {
        let row = format!("| `{field}` | {value} | ");
        assert!(transport.contains(&row), "spec/3-transport.md has no row `{row}`");
    }
    assert!(transport.contains(&format!("one UDP port, {} ", limit::PORT)));
}
