//! How well each way of control finds a limit that it is not told, in virtual time.
//!
//! `cargo bench -p mailrail-schedule --bench adaptation -- [SEEDS] [--trace]`

#[path = "../tests/adaptation/model.rs"]
mod model;

use std::time::Duration;

use flow::window::Law;
use model::{Account, Answer, Setting, Step, policy, run, step};

fn main() {
    let seeds = std::env::args().find_map(|arg| arg.parse().ok());
    let seeds: u64 = seeds.unwrap_or(20);
    for answer in [Answer::Temporary, Answer::Close] {
        for latency_ms in [2, 10, 50] {
            let most = 3 * latency_ms;
            println!("100, 300, 60 a second: {answer:?}, latency {latency_ms} to {most} ms");
            for (name, mut setting) in ways() {
                setting.answer = answer;
                setting.latency = Duration::from_millis(latency_ms);
                show(name, &accounts(&setting, seeds));
            }
        }
    }
    println!("other limits, latency 2 to 6 ms");
    for (name, setting) in others() {
        show(&name, &accounts(&setting, seeds));
    }
    if std::env::args().any(|arg| arg == "--trace") {
        trace(&run(&ours()));
    }
}

fn ours() -> Setting {
    Setting::new(policy(Law::PerWindow, 5, true))
}

fn ways() -> Vec<(&'static str, Setting)> {
    let window = |law, open| Setting::new(policy(law, open, false));
    let restarted = Setting {
        restart: Some(Duration::from_secs(15)),
        ..ours()
    };
    vec![
        ("10 connections", window(Law::Fixed, 10)),
        ("±1", window(Law::Steps, 5)),
        ("halving", window(Law::Aimd, 5)),
        ("1/N", window(Law::PerWindow, 5)),
        ("1/N and pace", ours()),
        ("the same, restarted", restarted),
    ]
}

fn others() -> Vec<(String, Setting)> {
    let with = |name: String, steps: &[Step], stubborn| {
        let steps = steps.to_vec();
        let setting = Setting {
            steps,
            stubborn,
            ..ours()
        };
        (name, setting)
    };
    let mut rows = Vec::new();
    for rate in [2.0, 10.0, 30.0, 1000.0, 3000.0] {
        rows.push(with(format!("{rate} a second"), &[step(rate); 3], 0.0));
    }
    for burst in [1.0, 30.0, 300.0] {
        let step = Step {
            burst,
            ..step(100.0)
        };
        rows.push(with(format!("100, burst of {burst}"), &[step; 3], 0.0));
    }
    for (from, to) in [(10.0, 1000.0), (1000.0, 10.0), (300.0, 3.0), (50.0, 60.0)] {
        let steps = [step(from), step(to), step(to)];
        rows.push(with(format!("{from}, then {to}"), &steps, 0.0));
    }
    for seconds in [1, 10, 60] {
        let mut steps = [step(100.0), step(0.0), step(100.0)];
        steps[1].lasts = Duration::from_secs(seconds);
        rows.push(with(format!("100, out for {seconds} s"), &steps, 0.0));
    }
    for share in [0.02, 0.1, 0.3] {
        let name = format!("1000, noise {share}");
        rows.push(with(name, &[step(1000.0); 6], share));
    }
    rows
}

fn accounts(setting: &Setting, seeds: u64) -> Vec<Account> {
    let seeded = |seed| Setting {
        seed,
        ..setting.clone()
    };
    (0..seeds).map(|seed| run(&seeded(seed))).collect()
}

fn show(name: &str, accounts: &[Account]) {
    let count = accounts.len() as f64;
    let mean = |of: &dyn Fn(&Account) -> f64| accounts.iter().map(of).sum::<f64>() / count;
    let refused = mean(&Account::refused_share);
    let refused_max = accounts
        .iter()
        .map(Account::refused_share)
        .fold(0.0, f64::max);
    let used = mean(&|account| account.used);
    let used_min = accounts.iter().map(|a| a.used).fold(f64::MAX, f64::min);
    let converged: Vec<_> = (0..accounts[0].converged.len())
        .map(|step| {
            let times = accounts
                .iter()
                .filter_map(|account| account.converged[step]);
            let times: Vec<_> = times.map(|time| time.as_secs_f64()).collect();
            match times.is_empty() {
                true => "never".to_owned(),
                false => format!("{:.1} s", times.iter().sum::<f64>() / times.len() as f64),
            }
        })
        .collect();
    println!(
        "  {name:20} used {:5.1} % (least {:5.1})  refused {:4.1} % (most {:4.1})  to the wheel {:4.0}  found after {}",
        used * 100.0,
        used_min * 100.0,
        refused * 100.0,
        refused_max * 100.0,
        mean(&|account| account.spent.into()),
        converged.join(", ")
    );
}

fn trace(account: &Account) {
    for (index, (taken, refused, limit)) in account.tenths.iter().enumerate() {
        let (at, limit) = (index as f64 / 10.0, limit / 10.0);
        println!("{at:5.1} s: {taken:4} taken, {refused:4} refused, limit {limit:.0}");
    }
}
