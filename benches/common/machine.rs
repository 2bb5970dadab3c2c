//! What the figures were measured on.

use std::fs;
use std::time::Duration;

use super::disk;

/// Processor, cores, memory, kernel and file system in one line.
pub fn line() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory_kib = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let memory = memory_kib.trim_end_matches(" kB").parse::<u64>().unwrap_or(0).div_ceil(1024 * 1024);
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let file_system = disk::file_system(&disk::root());
    format!("{cpu}, {cores} cores, {memory} GiB, Linux {}, {file_system}; load before: {load}", kernel.trim())
}

/// The value behind `name:` in a file of `/proc`.
pub fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident now.
    pub resident: u64,
    /// The most that was ever resident.
    pub peak: u64,
}

/// Memory of process `pid`.
pub fn memory(pid: u32) -> Memory {
    let path = format!("/proc/{pid}/status");
    let bytes = |name| {
        let text = field(&path, name).unwrap_or_default();
        text.trim_end_matches(" kB").trim().parse::<u64>().unwrap_or(0) * 1024
    };
    Memory { resident: bytes("VmRSS"), peak: bytes("VmHWM") }
}

/// Processor time that this process has used, in kernel and out of it.
pub fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // Fields 14 and 15 of proc(5), in hundredths of a second on every Linux there is.
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}
