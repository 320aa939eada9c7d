//! A limit that nobody told us is found, used and hardly ever exceeded.

mod model;

use std::time::Duration;

use flow::window::Law;
use model::{Account, Answer, Setting, policy, run, step};

fn ours() -> Setting {
    Setting::new(policy(Law::PerWindow, 5, true))
}

fn runs(setting: &Setting) -> Vec<Account> {
    let seeded = |seed| Setting {
        seed,
        ..setting.clone()
    };
    (0..6).map(|seed| run(&seeded(seed))).collect()
}

fn mean_used(accounts: &[Account]) -> f64 {
    accounts.iter().map(|account| account.used).sum::<f64>() / accounts.len() as f64
}

fn check(setting: &Setting) {
    let accounts = runs(setting);
    assert!(mean_used(&accounts) >= 0.95, "{:.3}", mean_used(&accounts));
    for account in accounts {
        assert!(account.used >= 0.93, "{:.3}", account.used);
        assert!(
            account.refused_share() < 0.05,
            "{:.3}",
            account.refused_share()
        );
        assert_eq!(account.spent, 0);
        let settled = |time: &Option<Duration>| time.is_some_and(|t| t < Duration::from_secs(2));
        assert!(
            account.converged.iter().all(settled),
            "{:?}",
            account.converged
        );
    }
}

#[test]
fn a_limit_that_steps_is_used_to_95_percent_with_under_5_percent_refused() {
    for answer in [Answer::Temporary, Answer::Close] {
        for latency_ms in [2, 10] {
            let latency = Duration::from_millis(latency_ms);
            check(&Setting {
                answer,
                latency,
                ..ours()
            });
        }
    }
}

#[test]
fn a_restart_in_the_middle_keeps_what_was_learned() {
    for after in [5, 15, 25] {
        let restart = Some(Duration::from_secs(after));
        check(&Setting { restart, ..ours() });
    }
}

#[test]
fn without_a_pace_each_law_of_the_window_is_refused_or_wastes() {
    for law in [Law::Fixed, Law::Steps, Law::Aimd, Law::PerWindow] {
        for account in runs(&Setting::new(policy(law, 5, false))) {
            let is_good = account.used >= 0.95 && account.refused_share() < 0.05;
            assert!(!is_good, "{law:?}: {account:?}");
        }
    }
}

#[test]
fn a_site_that_is_out_for_a_while_is_taken_up_again_within_seconds() {
    let mut setting = ours();
    setting.steps = vec![step(100.0), step(0.0), step(100.0)];
    for account in runs(&setting) {
        assert!(account.used > 0.8, "{:.3}", account.used);
        let back = account.converged[2].unwrap();
        assert!(back < Duration::from_secs(5), "{back:?}");
    }
}

#[test]
fn refusals_that_are_not_about_rate_do_not_throttle_a_site_to_nothing() {
    let mut setting = ours();
    setting.stubborn = 0.02;
    assert!(mean_used(&runs(&setting)) > 0.6);
    setting.stubborn = 0.1;
    assert!(mean_used(&runs(&setting)) > 0.25);
}
