//! A day of 100,000 proxies: how many exchanges a second reach Entra. The README tells what is simulated.

mod broker;
mod chart;
mod simple;

use std::error::Error;
use std::ops::Range;
use std::path::Path;
use std::thread;

/// The seconds of the day.
const DAY: u64 = 24 * 3600;
/// When Entra is down.
const OUTAGE: Range<u64> = 12 * 3600..12 * 3600 + 600;
/// How long a token lives.
const LIFE: u64 = 3599;
/// The first minute is the restart, the same for all.
const SETTLED: usize = 60;

/// What happened in a day.
struct Day {
    /// Exchanges in each second.
    exchanges: Vec<u32>,
    /// Seconds without a token, of all proxies together.
    without_token: u64,
}

impl Day {
    fn new() -> Self {
        Self { exchanges: vec![0; usize::try_from(DAY).unwrap_or_default()], without_token: 0 }
    }

    /// An exchange is begun at this second.
    fn exchange(&mut self, second: u64) {
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

/// A way of refreshing: the day of the proxy with this number.
type Policy = fn(u64, &mut Day);

fn main() -> Result<(), Box<dyn Error>> {
    let proxies: u64 = std::env::args().nth(1).map_or(Ok(100_000), |count| count.parse())?;
    let policies: [(&str, Policy); 3] = [
        ("entra-exchange", broker::day),
        ("half-life without jitter", |_, day| simple::day(LIFE / 2, day)),
        ("five minutes before expiry", |_, day| simple::day(LIFE - 300, day)),
    ];
    println!("{proxies} proxies, all restarted at 00:00; Entra down from 12:00 to 12:10; a token lives {LIFE} s\n");
    println!("exchanges a second           mean    peak after 00:01    seconds without a token, per proxy");
    let mut days = Vec::new();
    for (name, policy) in policies {
        let day = simulate(proxies, policy);
        let total: u64 = day.exchanges.iter().map(|count| u64::from(*count)).sum();
        let peak = day.exchanges.iter().enumerate().skip(SETTLED).max_by_key(|(_, count)| **count);
        let (second, peak) = peak.map_or((0, 0), |(second, count)| (second, *count));
        let at = format!("{peak} at {:02}:{:02}", second / 3600, second / 60 % 60);
        let (mean, without) = (per(total, DAY), per(day.without_token, proxies));
        println!("{name:<27} {mean:>6.1} {at:>19} {without:>38.2}");
        days.push((name, day));
    }
    let path = Path::new("target/fleet.svg");
    chart::draw(path, &days)?;
    println!("\nDrawn in {}.", path.display());
    Ok(())
}

#[allow(clippy::cast_precision_loss)]
fn per(total: u64, parts: u64) -> f64 {
    total as f64 / parts as f64
}

/// The proxies know nothing of each other: each thread takes some.
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
