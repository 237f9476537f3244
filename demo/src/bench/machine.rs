//! Reads what the operating system knows of the machine and of a process: load, processor time, memory (proc(5)).

use anyhow::Context;

/// Ticks per second of the times in `/proc`: fixed for programs on every architecture that Linux has today.
const TICKS: f64 = 100.0;

/// Processors, and the load of the last minute, for judging every other figure.
///
/// # Errors
/// When `/proc` is not there.
pub fn describe() -> anyhow::Result<String> {
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let processors = std::thread::available_parallelism()?;
    let model = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = model.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("processor", |(_, name)| name.trim());
    let profile = if cfg!(debug_assertions) { "debug build" } else { "release build" };
    Ok(format!("{processors} x {model}, load {}, {profile}", load.split(' ').next().unwrap_or("?")))
}

/// Processor time that a process has used, in seconds, in user and kernel mode together.
///
/// # Errors
/// When there is no such process.
pub fn cpu_seconds(process: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    parse_cpu(&stat).with_context(|| format!("/proc/{process}/stat is not as proc(5) says"))
}

/// utime and stime: the 12th and 13th word after the program's name, which may itself hold spaces and brackets.
fn parse_cpu(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut words = rest.split_ascii_whitespace().skip(11);
    let ticks = words.next()?.parse::<u64>().ok()? + words.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / TICKS)
}

/// Resident memory of a process, in KiB.
///
/// # Errors
/// When there is no such process.
pub fn resident_kib(process: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kib.with_context(|| format!("/proc/{process}/status has no VmRSS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_program_name() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 1 0 99";
        assert_eq!(parse_cpu(stat), Some(2.0));
        assert_eq!(parse_cpu("42 (short) S 1"), None);
    }

    #[test]
    fn this_very_process_uses_memory() {
        assert!(resident_kib(std::process::id()).expect("it runs") > 100);
        assert!(cpu_seconds(std::process::id()).is_ok());
    }
}
