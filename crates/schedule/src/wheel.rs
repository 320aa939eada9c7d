//! The retry wheel: a hierarchical timing wheel over the slab.
//!
//! Time is counted in ticks of 2^20 ns (a little over a millisecond). Six levels of 256 slots cover 2^48 ticks; a node stands on
//! the level of the highest byte in which its tick differs from the present one, in the slot of that byte, and moves down a level when the
//! present reaches its slot. So a node is linked in and out in constant time, and moves at most five times however long it waits. The next
//! slot in use is found in a bitmap.
//!
//! Never early: a time is rounded up to its tick, the present down. Moving and firing can be cut short (`budget`) and gone
//! on with: a million jobs that fall due together are not one long pause.

use crate::slab::{Links, NIL, Slab};

/// Nanoseconds of a tick, as a power of two.
const TICK_BITS: u32 = 20;
const SLOT_BITS: u32 = 8;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 6;
const WORDS: usize = SLOTS / 64;
/// The tick furthest away.
const TICK_MAX: u64 = (1 << (SLOT_BITS as usize * LEVELS)) - 1;

/// Slot of a node that is not in the wheel.
pub(crate) const NOWHERE: u16 = u16::MAX;

#[derive(Debug, Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Wheel {
    /// The present tick: everything before it has fired.
    tick: u64,
    lists: Box<[List]>,
    /// Which slots are in use.
    bits: [[u64; WORDS]; LEVELS],
}

impl Wheel {
    pub(crate) fn new() -> Self {
        let empty = List {
            head: NIL,
            tail: NIL,
        };
        Self {
            tick: 0,
            lists: vec![empty; SLOTS * LEVELS].into(),
            bits: [[0; WORDS]; LEVELS],
        }
    }

    /// Sets the present, in nanoseconds. Only while nothing is in.
    pub(crate) fn restart(&mut self, now: u64) {
        self.tick = self.tick.max(now >> TICK_BITS);
    }

    /// Puts a node in, to fire at `at` (nanoseconds) or at most a tick later, if that is not past already.
    pub(crate) fn insert(&mut self, slab: &mut Slab, index: u32, at: u64) {
        self.link(slab, index, ceil_tick(at));
    }

    /// Takes a node out; does nothing if it is not in.
    pub(crate) fn remove(&mut self, slab: &mut Slab, index: u32) {
        let node = slab.get_mut(index);
        let (slot, links) = (node.slot, node.wheel);
        if slot == NOWHERE {
            return;
        }
        node.slot = NOWHERE;
        let list = &mut self.lists[usize::from(slot)];
        match links.prev {
            NIL => list.head = links.next,
            prev => slab.get_mut(prev).wheel.next = links.next,
        }
        match links.next {
            NIL => list.tail = links.prev,
            next => slab.get_mut(next).wheel.prev = links.prev,
        }
        if list.head == NIL {
            let (level, slot) = split(slot);
            self.bits[level][slot / 64] &= !(1 << (slot % 64));
        }
    }

    /// The next node whose time has come by `now` (nanoseconds), taken out. `None`: there is none, or the budget is spent.
    ///
    /// * `budget`: counts down with each node that fires or moves.
    pub(crate) fn pop(&mut self, slab: &mut Slab, now: u64, budget: &mut u32) -> Option<u32> {
        let target = now >> TICK_BITS;
        while *budget > 0 {
            let Some((level, slot, tick)) = self.next_slot().filter(|next| next.2 <= target) else {
                self.tick = self.tick.max(target);
                return None;
            };
            self.tick = tick;
            let index = self.lists[level * SLOTS + slot].head;
            self.remove(slab, index);
            *budget -= 1;
            let due = wheel_time(slab, index);
            if due <= self.tick {
                return Some(index);
            }
            self.link(slab, index, due);
        }
        None
    }

    /// When to call [`Wheel::pop`] next, in nanoseconds: something fires then, or moves.
    pub(crate) fn next_at(&self) -> Option<u64> {
        self.next_slot()
            .map(|(_, _, tick)| tick.saturating_mul(1 << TICK_BITS))
    }

    fn link(&mut self, slab: &mut Slab, index: u32, tick: u64) {
        let tick = tick.clamp(self.tick, TICK_MAX);
        let level = ((tick ^ self.tick) | 1).ilog2() / SLOT_BITS;
        let slot = (tick >> (level * SLOT_BITS)) as usize % SLOTS;
        let level = (level as usize).min(LEVELS - 1);
        let list = &mut self.lists[level * SLOTS + slot];
        let tail = std::mem::replace(&mut list.tail, index);
        match tail {
            NIL => {
                list.head = index;
                self.bits[level][slot / 64] |= 1 << (slot % 64);
            }
            tail => slab.get_mut(tail).wheel.next = index,
        }
        let node = slab.get_mut(index);
        node.wheel = Links {
            prev: tail,
            next: NIL,
        };
        node.slot = (level * SLOTS + slot) as u16;
    }

    /// Level, slot and tick of what comes next. A slot that the present stands in is one that was left half done.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        let mut next: Option<(usize, usize, u64)> = None;
        for level in 0..LEVELS {
            let shift = level as u32 * SLOT_BITS;
            let present = (self.tick >> shift) as usize % SLOTS;
            let Some(slot) = first_from(&self.bits[level], present) else {
                continue;
            };
            let above = self.tick >> (shift + SLOT_BITS) << (shift + SLOT_BITS);
            let tick = (above | (slot as u64) << shift).max(self.tick);
            // Of two at one tick, the higher level moves down before the lower one fires.
            if next.is_none_or(|best| tick <= best.2) {
                next = Some((level, slot, tick));
            }
        }
        next
    }
}

fn ceil_tick(at: u64) -> u64 {
    (at >> TICK_BITS) + u64::from(at & ((1 << TICK_BITS) - 1) != 0)
}

/// The tick at which a node fires: a waiting job when it is due or expires, a ready one when it expires, a timer
/// when it is due.
fn wheel_time(slab: &Slab, index: u32) -> u64 {
    ceil_tick(slab.get(index).fires_at()).min(TICK_MAX)
}

fn split(slot: u16) -> (usize, usize) {
    (usize::from(slot) / SLOTS, usize::from(slot) % SLOTS)
}

fn first_from(bits: &[u64; WORDS], from: usize) -> Option<usize> {
    let mut word = from / 64;
    let mut rest = bits[word] & (u64::MAX << (from % 64));
    while rest == 0 {
        word += 1;
        rest = *bits.get(word)?;
    }
    Some(word * 64 + rest.trailing_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::slab::{Kind, Node};

    const TICK: u64 = 1 << TICK_BITS;

    fn timer(wheel: &mut Wheel, slab: &mut Slab, at: u64) -> u32 {
        let index = slab.insert(Node::of_timer(Kind::SiteTimer, 0));
        slab.get_mut(index).due = at;
        wheel.insert(slab, index, at);
        index
    }

    fn pop_all(wheel: &mut Wheel, slab: &mut Slab, now: u64) -> Vec<u64> {
        let mut fired = Vec::new();
        while let Some(index) = wheel.pop(slab, now, &mut u32::MAX.clone()) {
            fired.push(slab.get(index).due);
            slab.remove(index);
        }
        fired
    }

    #[test]
    fn a_timer_of_years_fires_when_it_is_due() {
        let (mut wheel, mut slab) = (Wheel::new(), Slab::default());
        let year = 365 * 86_400 * 1_000_000_000;
        for years in [1, 30, 500] {
            timer(&mut wheel, &mut slab, years * year);
        }
        assert_eq!(pop_all(&mut wheel, &mut slab, year - TICK), []);
        assert_eq!(pop_all(&mut wheel, &mut slab, year + TICK), [year]);
        assert_eq!(pop_all(&mut wheel, &mut slab, 31 * year), [30 * year]);
        assert_eq!(pop_all(&mut wheel, &mut slab, u64::MAX), [500 * year]);
    }

    #[test]
    fn work_that_was_cut_short_is_gone_on_with() {
        let (mut wheel, mut slab) = (Wheel::new(), Slab::default());
        for _ in 0..1000 {
            timer(&mut wheel, &mut slab, 70_000 * TICK);
        }
        let (mut fired, mut pops) = (0, 0);
        while fired < 1000 {
            let mut budget = 10;
            pops += 1;
            while wheel.pop(&mut slab, 80_000 * TICK, &mut budget).is_some() {
                fired += 1;
            }
            assert!(wheel.next_at().is_none_or(|at| at <= 80_000 * TICK));
        }
        // Each moved twice and fired once.
        assert_eq!(pops, 300);
    }

    proptest! {
        /// Against a list: nothing early, nothing more than a tick late, nothing lost, nothing twice.
        #[test]
        fn everything_fires_once_and_on_time(
            steps in proptest::collection::vec((0..3_u8, 0..50_u32, 0..u64::MAX), 1..400),
        ) {
            let (mut wheel, mut slab) = (Wheel::new(), Slab::default());
            let mut now = 1_000_000_000_000_000_000;
            wheel.restart(now);
            let mut waiting: Vec<(u64, u32)> = Vec::new();
            for (what, magnitude, bits) in steps {
                let span = bits >> (63 - magnitude);
                match what {
                    0 => {
                        let index = timer(&mut wheel, &mut slab, now + span);
                        waiting.push((now + span, index));
                    }
                    1 if !waiting.is_empty() => {
                        let (_, index) = waiting.swap_remove(bits as usize % waiting.len());
                        wheel.remove(&mut slab, index);
                        slab.remove(index);
                    }
                    _ => {
                        // No further than told: what is told must be early enough.
                        let told = wheel.next_at();
                        let first = waiting.iter().map(|(at, _)| *at).min();
                        prop_assert!(told.unwrap_or(u64::MAX) <= first.map_or(u64::MAX, |at| at.saturating_add(TICK)));
                        now += span / 16;
                        let mut fired = pop_all(&mut wheel, &mut slab, now);
                        fired.sort_unstable();
                        let is_due = |at: &u64| ceil_tick(*at) <= now >> TICK_BITS;
                        let mut due: Vec<_> = waiting.iter().map(|(at, _)| *at).filter(is_due).collect();
                        due.sort_unstable();
                        prop_assert!(fired.iter().all(|at| *at <= now));
                        prop_assert_eq!(fired, due);
                        waiting.retain(|(at, _)| !is_due(at));
                    }
                }
            }
        }
    }
}
