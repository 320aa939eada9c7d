//! Who goes next, without a server.

use super::*;
use crate::job::{Claim, Place};
use smtp::{Address, Content, Envelope};
use std::sync::Arc;

const NOW: Duration = Duration::from_secs(1);

fn dispatch(cap: usize, window: usize) -> Dispatch {
    Dispatch::new(DispatchConfig {
        cap,
        min_idle: 0,
        window,
        is_adaptive: false,
        rate: None,
    })
}

/// With connections that have each had a message, answered after `latency`, and rest.
fn rested(connections: usize, window: usize, latency: Duration) -> Dispatch {
    let mut dispatch = dispatch(connections, window);
    for _ in 0..connections {
        let Kick::Open(slot) = dispatch.submit(job(), NOW) else {
            panic!("a message opens a connection");
        };
        dispatch.opened(slot, None);
        assert!(matches!(take(&mut dispatch, slot, false), Take::Job(_)));
    }
    for slot in 0..connections {
        dispatch.became_inactive(Some(latency));
        assert!(matches!(take(&mut dispatch, slot, false), Take::Nothing));
    }
    dispatch
}

fn take(dispatch: &mut Dispatch, slot: usize, is_active: bool) -> Take {
    dispatch.take(slot, is_active, |_| true, NOW, Waker::noop())
}

/// How many of so many new messages wake somebody.
fn woken(dispatch: &mut Dispatch, messages: usize) -> usize {
    let kicks = (0..messages).map(|_| dispatch.submit(job(), NOW));
    kicks.filter(|kick| matches!(kick, Kick::Wake(_))).count()
}

const NEAR: Duration = Duration::from_micros(200);
const FAR: Duration = Duration::from_millis(20);
/// The connection that rested last is the one to be woken.
const LAST: usize = 1;

#[test]
fn what_comes_together_for_a_near_server_shares_a_flight_and_the_rest_takes_the_next() {
    let mut dispatch = rested(2, 8, NEAR);
    assert_eq!(woken(&mut dispatch, 8), 1);
    assert_eq!(woken(&mut dispatch, 1), 1);
    assert!(matches!(take(&mut dispatch, LAST, false), Take::Later));
    for is_active in std::iter::once(false).chain([true; 8]) {
        assert!(matches!(take(&mut dispatch, LAST, is_active), Take::Job(_)));
    }
    assert!(matches!(take(&mut dispatch, LAST, true), Take::Nothing));
}

#[test]
fn a_far_server_gets_each_message_at_once_and_so_does_one_without_a_window() {
    for (window, latency) in [(8, FAR), (1, NEAR)] {
        let mut dispatch = rested(2, window, latency);
        assert_eq!(woken(&mut dispatch, 2), 2, "{window} {latency:?}");
        assert!(matches!(take(&mut dispatch, LAST, false), Take::Job(_)));
    }
}

#[test]
fn a_flight_that_has_left_is_not_joined() {
    let mut dispatch = rested(2, 8, NEAR);
    assert_eq!(woken(&mut dispatch, 1), 1);
    assert!(matches!(take(&mut dispatch, LAST, false), Take::Later));
    assert!(matches!(take(&mut dispatch, LAST, false), Take::Job(_)));
    assert!(matches!(take(&mut dispatch, LAST, true), Take::Nothing));
    assert_eq!(woken(&mut dispatch, 1), 1);
}

/// Without that, messages whose connection retires or dies as it is woken wait for ever.
#[test]
fn what_a_flight_cannot_take_is_handed_to_somebody_else() {
    let full = |dispatch: &mut Dispatch| {
        assert!(matches!(take(dispatch, LAST, false), Take::Later));
        let taken = dispatch.take(LAST, false, |_| false, NOW, Waker::noop());
        assert!(matches!(taken, Take::Full { is_left: true }), "{taken:?}");
    };
    let endings: [fn(&mut Dispatch); 2] = [
        |dispatch| dispatch.leave(LAST),
        |dispatch| dispatch.closed(LAST, false),
    ];
    let full: fn(&mut Dispatch) = full;
    for end in endings.into_iter().chain([full]) {
        let mut dispatch = rested(2, 8, NEAR);
        assert_eq!(woken(&mut dispatch, 3), 1);
        end(&mut dispatch);
        assert!(matches!(dispatch.kick(NOW), Kick::Wake(_)));
    }
}

fn job() -> Job {
    let (outcome, caller) = oneshot::channel();
    // Somebody waits for it.
    std::mem::forget(caller);
    let address: Address = "a@b.example".parse().unwrap();
    Job {
        content: Content::from_text(b"A: b\n\n").unwrap(),
        claim: Claim {
            envelope: Arc::new(Envelope::single(address.clone(), address)),
            outcome,
            place: Place {
                queued_at: Duration::ZERO,
                deadline: Duration::from_secs(1_000_000),
                returns: 0,
                refused_as: None,
            },
        },
    }
}

/// Without that, a message whose last living connection ends within the pause waits forever.
#[test]
fn a_dial_that_fails_while_another_connection_lives_calls_the_housekeeper_early() {
    let now = NOW;
    let mut dispatch = dispatch(2, 1);
    assert_eq!(dispatch.house_call(now), HouseCall::First);
    assert!(!dispatch.arm(Duration::from_secs(3600)));
    let Kick::Open(first) = dispatch.submit(job(), now) else {
        panic!("the first message opens a connection");
    };
    dispatch.opened(first, None);
    let Kick::Open(second) = dispatch.submit(job(), now) else {
        panic!("the second message opens another");
    };
    dispatch.dial_failed(second, &deadline(), now);
    assert_eq!(dispatch.house_call(now), HouseCall::Sooner);
    dispatch.closed(first, false);
    assert!(matches!(dispatch.kick(now), Kick::Nothing));
    let due = dispatch.expire(now).unwrap();
    assert!(matches!(dispatch.kick(due), Kick::Open(_)));
}
