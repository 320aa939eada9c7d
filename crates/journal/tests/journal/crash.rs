//! Power cuts: at every call, many in a row, and while recovering from one. For cuts at every byte
//! see `lives`.

use journal::files::{Cut, Fault};

use super::harness::Run;

/// Lives on until the power fails, or for so many steps.
fn live(run: &mut Run, steps: usize) {
    for _ in 0..steps {
        if run.journal.is_none() {
            return;
        }
        run.step();
    }
}

fn cuts(seed: u64) -> [Cut; 4] {
    [
        Cut::Nothing,
        Cut::Everything,
        Cut::Any(seed),
        Cut::Any(!seed),
    ]
}

#[test]
fn a_power_cut_at_any_call_keeps_what_was_acknowledged() {
    for seed in 0..4 {
        for call in 0.. {
            let mut was_cut = false;
            for cut in cuts(seed + call) {
                let mut run = Run::new(seed);
                run.files.fail(call, Fault::PowerCut);
                if run.open().is_ok() {
                    live(&mut run, 80);
                }
                was_cut = run.files.is_off();
                run.crash(cut);
            }
            if !was_cut {
                break;
            }
        }
    }
}

#[test]
fn life_after_life_nothing_acknowledged_is_lost_and_nothing_dead_comes_back() {
    for seed in 0..500 {
        let mut run = Run::new(seed);
        run.open().unwrap();
        for life in 0..6 {
            if run.dice.below(2) == 0 {
                let bytes = run.dice.below(30_000);
                run.files.cut_after(bytes);
            } else {
                let call = run.files.calls() + run.dice.below(200);
                run.files.fail(call, Fault::PowerCut);
            }
            live(&mut run, 100);
            let cut = cuts(seed * 7 + life)[run.dice.below(4) as usize];
            run.crash(cut);
        }
    }
}

#[test]
fn a_power_cut_while_recovering_from_one_changes_nothing() {
    for seed in 0..300 {
        let mut run = Run::new(seed);
        run.open().unwrap();
        let bytes = run.dice.below(30_000);
        run.files.cut_after(bytes);
        live(&mut run, 100);
        run.learn();
        run.journal = None;
        run.learn();
        run.files.restart(Cut::Any(seed));
        for again in 0..6 {
            let call = run.files.calls() + run.dice.below(40);
            run.files.fail(call, Fault::PowerCut);
            if run.open().is_ok() {
                run.journal = None;
            }
            run.files.restart(Cut::Any(seed ^ again << 32));
        }
        run.crash(Cut::Everything);
    }
}

#[test]
fn what_a_cut_tore_never_comes_back_behind_what_followed() {
    let mut with_holes = 0;
    for seed in 0..2000 {
        let mut run = Run::new(seed);
        run.open().unwrap();
        for _ in 0..5 {
            run.append(700, true).unwrap();
        }
        // Written, and not synced.
        run.files.fail(run.files.calls() + 1, Fault::PowerCut);
        assert!(!run.journal().turn());
        run.crash(Cut::Any(seed));
        with_holes += u32::from((1..4).contains(&run.entries.len()));
        run.append(700, true).unwrap();
        assert!(run.journal().turn());
        run.crash(Cut::Everything);
    }
    assert!(with_holes > 50, "{with_holes} of the cuts left a part");
}
