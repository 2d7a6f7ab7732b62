//! What network interfaces have carried.
//!
//! Must not know pods: a process stands for its network namespace.

/// One interface's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The interface.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Errors in receiving.
    pub rx_errors: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Errors in sending.
    pub tx_errors: u64,
}

/// The interfaces that a process sees, loopback left out. Blocks.
pub fn of_process(pid: u32) -> Option<Vec<Traffic>> {
    std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok().map(|text| parse(&text))
}

/// The machine's interfaces, loopback left out. Blocks.
pub fn of_machine() -> Vec<Traffic> {
    std::fs::read_to_string("/proc/net/dev").map(|text| parse(&text)).unwrap_or_default()
}

fn parse(text: &str) -> Vec<Traffic> {
    let line = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let numbers: Vec<u64> =
            counters.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let at = |index: usize| numbers.get(index).copied().unwrap_or(0);
        let name = name.trim().to_owned();
        // Bytes, packets, errors, … received; from the ninth on the same sent.
        let traffic = Traffic { name, rx_bytes: at(0), rx_errors: at(2), tx_bytes: at(8), tx_errors: at(10) };
        (traffic.name != "lo").then_some(traffic)
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters() {
        let text = "Inter-|   Receive |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes\n\
            lo: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n  eth0: 10 2 3 0 0 0 0 0 20 4 5 0 0 0 0 0\n";
        let expect = Traffic { name: "eth0".into(), rx_bytes: 10, rx_errors: 3, tx_bytes: 20, tx_errors: 5 };
        assert_eq!(parse(text), [expect]);
    }
}
