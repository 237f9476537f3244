//! Decides how a run is told: a line per case, a summary, a JUnit file, an exit status.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use crate::refusal::{Skipped, Unsupported};

/// Exit status when a case is not supported by the subject and nothing failed.
pub const NOT_SUPPORTED: u8 = 127;

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As required; what was seen.
    Passed(String),
    /// Not as required; seen and expected.
    Failed(String),
    /// Could not be asked, and why.
    Skipped(String),
    /// The subject does not implement it.
    Unsupported(String),
}

/// One case of a run.
#[derive(Debug, Clone)]
pub struct Line {
    /// The case.
    pub id: &'static str,
    /// What it checks.
    pub rules: &'static [&'static str],
    /// How it ended.
    pub verdict: Verdict,
    /// How long it took.
    pub took: Duration,
}

impl Verdict {
    /// From what a case returned.
    pub fn from_seen(seen: anyhow::Result<String>) -> Self {
        match seen {
            Ok(what) => Self::Passed(what),
            Err(error) if error.downcast_ref::<Skipped>().is_some() => Self::Skipped(format!("{error:#}")),
            Err(error) if error.downcast_ref::<Unsupported>().is_some() => {
                Self::Unsupported(format!("{error:#}"))
            }
            Err(error) => Self::Failed(format!("{error:#}")),
        }
    }

    fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Passed(what) => ("PASS", what),
            Self::Failed(what) => ("FAIL", what),
            Self::Skipped(what) => ("SKIP", what),
            Self::Unsupported(what) => ("SKIP", what),
        }
    }
}

impl Line {
    /// The case on one line.
    pub fn text(&self) -> String {
        let (word, what) = self.verdict.parts();
        format!("{word}  {} [{}] {} ms: {what}", self.id, self.rules.join(" "), self.took.as_millis())
    }
}

/// `N passed, N failed, N skipped`.
pub fn summary(lines: &[Line]) -> String {
    let count = |word: &str| lines.iter().filter(|line| line.verdict.parts().0 == word).count();
    format!("{} passed, {} failed, {} skipped", count("PASS"), count("FAIL"), count("SKIP"))
}

/// 0, 1, or 127.
pub fn status(lines: &[Line]) -> u8 {
    if lines.is_empty() || lines.iter().any(|line| matches!(line.verdict, Verdict::Failed(_))) {
        1
    } else if lines.iter().any(|line| matches!(line.verdict, Verdict::Unsupported(_))) {
        NOT_SUPPORTED
    } else {
        0
    }
}

/// Writes the run in the form that CI systems read.
///
/// # Errors
/// When the file cannot be written.
pub fn write_junit(path: &Path, lines: &[Line]) -> anyhow::Result<()> {
    std::fs::write(path, junit(lines)).with_context(|| format!("cannot write {}", path.display()))
}

fn junit(lines: &[Line]) -> String {
    let count = |word: &str| lines.iter().filter(|line| line.verdict.parts().0 == word).count();
    let time: f64 = lines.iter().map(|line| line.took.as_secs_f64()).sum();
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"ahoy-conform\" tests=\"{}\" \
         failures=\"{}\" skipped=\"{}\" time=\"{time:.3}\">\n",
        lines.len(),
        count("FAIL"),
        count("SKIP"),
    );
    for line in lines {
        let area = line.id.split('-').next().unwrap_or(line.id);
        let (word, what) = line.verdict.parts();
        // Writing to a string does not fail.
        let _ = write!(
            out,
            "  <testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\">",
            escaped(area),
            escaped(line.id),
            line.took.as_secs_f64()
        );
        let rules = escaped(&line.rules.join(" "));
        let what = escaped(what);
        let _ = match word {
            "FAIL" => write!(out, "<failure message=\"{what}\">{rules}</failure>"),
            "SKIP" => write!(out, "<skipped message=\"{what}\"/>"),
            _ => write!(out, "<system-out>{rules}: {what}</system-out>"),
        };
        out.push_str("</testcase>\n");
    }
    out.push_str("</testsuite>\n");
    out
}

fn escaped(text: &str) -> String {
    let legal = text.chars().filter(|c| !c.is_control() || *c == '\n');
    let mut out = String::with_capacity(text.len());
    for c in legal {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(verdict: Verdict) -> Line {
        Line { id: "wire-x", rules: &["WIRE-ERR-01"], verdict, took: Duration::from_millis(3) }
    }

    #[test]
    fn a_failure_outweighs_what_is_not_supported_and_nothing_run_is_a_failure() {
        let [pass, fail, none] = [
            line(Verdict::Passed("a".into())),
            line(Verdict::Failed("b".into())),
            line(Verdict::Unsupported("c".into())),
        ];
        assert_eq!(status(&[]), 1);
        assert_eq!(status(std::slice::from_ref(&pass)), 0);
        assert_eq!(status(&[pass.clone(), none.clone()]), NOT_SUPPORTED);
        assert_eq!(status(&[pass.clone(), none.clone(), fail.clone()]), 1);
        assert_eq!(summary(&[pass, none, fail]), "1 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn what_a_case_returned_decides_its_verdict_through_any_context() {
        let skipped = anyhow::Error::from(Skipped("no invite".into())).context("signing in");
        assert!(matches!(Verdict::from_seen(Err(skipped)), Verdict::Skipped(_)));
        let unsupported = anyhow::Error::from(Unsupported("blobs".into())).context("asked");
        assert!(matches!(Verdict::from_seen(Err(unsupported)), Verdict::Unsupported(_)));
        assert!(matches!(Verdict::from_seen(Err(anyhow::anyhow!("x"))), Verdict::Failed(_)));
    }

    #[test]
    fn junit_is_escaped_and_counts() {
        let text =
            junit(&[line(Verdict::Failed("a < \"b\" & c".into())), line(Verdict::Passed(String::new()))]);
        assert!(text.contains("tests=\"2\" failures=\"1\" skipped=\"0\""), "{text}");
        assert!(text.contains("a &lt; &quot;b&quot; &amp; c"), "{text}");
    }
}
