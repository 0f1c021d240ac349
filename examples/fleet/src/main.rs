//! Simulates 100,000 proxies over a day and reports the rate of exchanges with Entra. The README describes the simulation.

mod broker;
mod chart;
mod simple;

use std::error::Error;
use std::ops::Range;
use std::path::Path;
use std::thread;

/// The length of the day in seconds.
const DAY: u64 = 24 * 3600;
/// The outage of Entra, in seconds of the day.
const OUTAGE: Range<u64> = 12 * 3600..12 * 3600 + 600;
/// The lifetime of a token in seconds.
const LIFETIME: u64 = 3599;
/// The end of the restart in seconds. The restart is the same for all policies and excluded from the peaks.
const RESTART_END: usize = 60;

/// The results of a day.
struct Day {
    /// The number of exchanges in each second.
    exchanges: Vec<u32>,
    /// The seconds without a token, summed over all proxies.
    without_token: u64,
}

impl Day {
    fn new() -> Self {
        Self { exchanges: vec![0; usize::try_from(DAY).unwrap_or_default()], without_token: 0 }
    }

    /// Records an exchange that starts in this second.
    fn record_exchange(&mut self, second: u64) {
        if let Some(count) = usize::try_from(second).ok().and_then(|second| self.exchanges.get_mut(second)) {
            *count += 1;
        }
    }

    fn add(&mut self, other: &Self) {
        for (sum, more) in self.exchanges.iter_mut().zip(&other.exchanges) {
            *sum += more;
        }
        self.without_token += other.without_token;
    }
}

/// A refresh policy: simulates the day of the proxy with this index.
type Policy = fn(u64, &mut Day);

fn main() -> Result<(), Box<dyn Error>> {
    let proxies: u64 = std::env::args().nth(1).map_or(Ok(100_000), |count| count.parse())?;
    let policies: [(&str, Policy); 3] = [
        ("entra-exchange", broker::day),
        ("half-life without jitter", |_, day| simple::day(LIFETIME / 2, day)),
        ("five minutes before expiry", |_, day| simple::day(LIFETIME - 300, day)),
    ];
    println!(
        "{proxies} proxies, all restarted at 00:00; Entra down from 12:00 to 12:10; a token's lifetime is {LIFETIME} s\n"
    );
    println!("exchanges per second         mean    peak after 00:01    seconds without a token, per proxy");
    let mut days = Vec::new();
    for (name, policy) in policies {
        let day = simulate(proxies, policy);
        let total: u64 = day.exchanges.iter().map(|count| u64::from(*count)).sum();
        let peak = day.exchanges.iter().enumerate().skip(RESTART_END).max_by_key(|(_, count)| **count);
        let (second, peak) = peak.map_or((0, 0), |(second, count)| (second, *count));
        let at = format!("{peak} at {:02}:{:02}", second / 3600, second / 60 % 60);
        let (mean, without) = (per(total, DAY), per(day.without_token, proxies));
        println!("{name:<27} {mean:>6.1} {at:>19} {without:>38.2}");
        days.push((name, day));
    }
    let path = Path::new("target/fleet.svg");
    chart::draw(path, &days)?;
    println!("\nThe chart is in {}.", path.display());
    Ok(())
}

#[allow(clippy::cast_precision_loss)]
fn per(total: u64, parts: u64) -> f64 {
    total as f64 / parts as f64
}

/// Simulates all proxies. They are independent, so each thread simulates a part of them.
fn simulate(proxies: u64, policy: Policy) -> Day {
    let threads = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let mut sum = Day::new();
    thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|part| {
                scope.spawn(move || {
                    let mut day = Day::new();
                    for proxy in (part..proxies).step_by(usize::try_from(threads).unwrap_or(1)) {
                        policy(proxy, &mut day);
                    }
                    day
                })
            })
            .collect();
        for part in parts {
            match part.join() {
                Ok(day) => sum.add(&day),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    sum
}
