//! Decides whether every requirement of the spec is checked: by a case, or by what a stated reason names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cases;

/// The requirements without a case, each with its reason: `ID | reason`.
const EXEMPT: &str = "coverage-exempt.txt";

/// A requirement as the spec states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// E.g. `NAME-ANCHOR-03`.
    pub id: String,
    /// MUST, SHOULD or MAY.
    pub force: String,
}

/// What the comparison found.
#[derive(Debug, Default)]
pub struct Coverage {
    /// Requirements in all, by force.
    pub stated: BTreeMap<String, usize>,
    /// Requirements that a case checks.
    pub by_case: usize,
    /// Requirements with a reason instead.
    pub by_reason: usize,
    /// What makes the check fail, in words.
    pub wrong: Vec<String>,
    /// SHOULDs and MAYs without either.
    pub open: Vec<String>,
}

/// Compares the spec in this folder with the cases and the reasons.
///
/// # Errors
/// When the folder cannot be read, or holds no requirement.
pub fn compare(spec: &Path) -> anyhow::Result<Coverage> {
    let requirements = requirements(spec)?;
    let reasons = reasons(&spec.join(EXEMPT))?;
    Ok(judge(&requirements, &reasons))
}

fn judge(requirements: &[Requirement], reasons: &BTreeMap<String, String>) -> Coverage {
    let mut coverage = Coverage::default();
    let known: BTreeSet<&str> = requirements.iter().map(|r| r.id.as_str()).collect();
    let cases = cases::all();
    for case in &cases {
        for id in case.rules.iter().filter(|id| !known.contains(**id)) {
            coverage.wrong.push(format!("the case {} quotes {id}, which the spec does not state", case.id));
        }
    }
    let checked: BTreeSet<&str> = cases.iter().flat_map(|case| case.rules.iter().copied()).collect();
    for id in reasons.keys() {
        if !known.contains(id.as_str()) {
            coverage.wrong.push(format!("{EXEMPT} excuses {id}, which the spec does not state"));
        }
        if checked.contains(id.as_str()) {
            coverage.wrong.push(format!("{EXEMPT} excuses {id}, which a case checks: remove the line"));
        }
    }
    let mut seen = BTreeSet::new();
    for Requirement { id, force } in requirements {
        if !seen.insert(id) {
            coverage.wrong.push(format!("{id} is stated twice"));
            continue;
        }
        *coverage.stated.entry(force.clone()).or_default() += 1;
        if checked.contains(id.as_str()) {
            coverage.by_case += 1;
        } else if reasons.contains_key(id) {
            coverage.by_reason += 1;
        } else if force == "MUST" {
            coverage.wrong.push(format!("{id} is a MUST with neither a case nor a reason"));
        } else {
            coverage.open.push(id.clone());
        }
    }
    coverage
}

/// The rows of the spec's tables; while there are none, the lists from which they are made.
fn requirements(spec: &Path) -> anyhow::Result<Vec<Requirement>> {
    let read = |folder: &Path, extension: &str| -> anyhow::Result<Vec<Requirement>> {
        let mut found = Vec::new();
        for path in files(folder, extension)? {
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            found.extend(text.lines().filter_map(row));
        }
        Ok(found)
    };
    let mut found = read(spec, "md")?;
    if found.is_empty() {
        found = read(&spec.join("ids"), "txt")?;
    }
    anyhow::ensure!(!found.is_empty(), "{} states no requirement", spec.display());
    Ok(found)
}

fn files(folder: &Path, extension: &str) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == extension));
    files.sort();
    Ok(files)
}

/// `| ID | MUST | sentence |`, with or without the outer bars.
fn row(line: &str) -> Option<Requirement> {
    let mut cells = line.trim().trim_start_matches('|').split('|').map(str::trim);
    let id = cells.next()?.trim_matches(['`', '[', ']']);
    let force = cells.next()?;
    let is_force = ["MUST", "SHOULD", "MAY"].contains(&force);
    (is_id(id) && is_force).then(|| Requirement { id: id.to_owned(), force: force.to_owned() })
}

/// `AREA-TOPIC-NN`.
fn is_id(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [area, topic, number] = parts[..] else { return false };
    let upper = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_uppercase());
    upper(area) && upper(topic) && number.len() == 2 && number.bytes().all(|b| b.is_ascii_digit())
}

fn reasons(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut reasons = BTreeMap::new();
    for (number, line) in
        text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#'))
    {
        let at = || format!("{}:{}: expected `ID | reason`", path.display(), number + 1);
        let (id, reason) = line.split_once('|').with_context(at)?;
        let (id, reason) = (id.trim(), reason.trim());
        anyhow::ensure!(is_id(id) && !reason.is_empty(), at());
        let before = reasons.insert(id.to_owned(), reason.to_owned());
        anyhow::ensure!(before.is_none(), "{}:{}: {id} stands twice", path.display(), number + 1);
    }
    Ok(reasons)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(id: &str, force: &str) -> Requirement {
        Requirement { id: id.into(), force: force.into() }
    }

    #[test]
    fn rows_are_read_from_tables_and_lists_and_prose_is_not() {
        for line in [
            "| NAME-ADDR-01 | MUST | A name. |",
            "NAME-ADDR-01 | MUST | A name.",
            "| `NAME-ADDR-01` | MUST | x |",
        ] {
            assert_eq!(row(line), Some(requirement("NAME-ADDR-01", "MUST")), "{line}");
        }
        for line in
            ["| ID | MUST | what |", "|---|---|---|", "as NAME-ADDR-01 says", "| NAME-ADDR-1 | MUST | x |"]
        {
            assert_eq!(row(line), None, "{line}");
        }
    }

    #[test]
    fn a_must_without_case_or_reason_fails_and_so_does_an_unknown_or_needless_reason() {
        let every = cases::all();
        let quoted = every.iter().flat_map(|case| case.rules.iter());
        let ids: BTreeSet<&str> = quoted.copied().collect();
        let mut stated: Vec<Requirement> = ids.iter().map(|id| requirement(id, "MUST")).collect();
        assert_eq!(judge(&stated, &BTreeMap::new()).wrong, Vec::<String>::new());
        stated.push(requirement("ZZZZ-NEW-01", "MUST"));
        stated.push(requirement("ZZZZ-NEW-02", "SHOULD"));
        let coverage = judge(&stated, &BTreeMap::new());
        assert_eq!((coverage.wrong.len(), coverage.open.len()), (1, 1));
        let excuse = |id: &str| BTreeMap::from([(id.to_owned(), "why".to_owned())]);
        assert!(judge(&stated, &excuse("ZZZZ-NEW-01")).wrong.is_empty());
        assert_eq!(judge(&stated, &excuse("ZZZZ-NEW-09")).wrong.len(), 2);
        let checked = ids.first().expect("there are cases");
        assert_eq!(judge(&stated, &excuse(checked)).wrong.len(), 2);
    }
}
