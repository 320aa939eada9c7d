//! What a record says of each row: 3 bytes a row.

use super::Event;

/// How often a row that failed for now is taken up again, over all runs.
pub(crate) const TAKE_UPS_MAX: u8 = 3;

/// What is known of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum RowState {
    /// Never offered to a relay.
    #[default]
    Fresh,
    /// Offered, or about to be, and no outcome is known.
    Unknown,
    /// Refused for now.
    Failed,
    /// Sent, rejected or skipped: nothing is left to do.
    Settled,
}

#[derive(Clone, Copy, Default)]
struct Row {
    state: RowState,
    /// Times that it was begun again after it had failed for now.
    take_ups: u8,
    /// An attempt before the present one is unknown.
    is_doubtful: bool,
}

/// The states of all rows, by number.
pub(crate) struct States(Vec<Row>);

impl States {
    /// All fresh.
    pub(super) fn new(row_max: u64) -> Self {
        let len = usize::try_from(row_max).expect("rows are counted in memory") + 1;
        Self(vec![Row::default(); len])
    }

    /// What is known of a row, and how often it was taken up again.
    pub(crate) fn get(&self, row: u64) -> (RowState, u8) {
        let row = usize::try_from(row).ok().and_then(|row| self.0.get(row));
        row.map_or_else(Default::default, |row| (row.state, row.take_ups))
    }

    /// How many rows are in a state.
    pub(crate) fn count(&self, state: RowState) -> u64 {
        self.0.iter().filter(|row| row.state == state).count() as u64
    }

    /// How many rows failed for now as often as they may be taken up.
    pub(crate) fn count_given_up(&self) -> u64 {
        let is_given_up =
            |row: &&Row| row.state == RowState::Failed && row.take_ups >= TAKE_UPS_MAX;
        self.0.iter().filter(is_given_up).count() as u64
    }

    /// These rows may be on the wire. `false` where the list has no such rows.
    #[must_use]
    pub(super) fn begin(&mut self, from: u64, to: u64) -> bool {
        let range = usize::try_from(from).ok().zip(usize::try_from(to).ok());
        let range = range.filter(|(from, to)| from <= to);
        let rows = range.and_then(|(from, to)| self.0.get_mut(from..=to));
        let Some(rows) = rows else {
            return false;
        };
        for row in rows {
            row.take_ups += u8::from(row.state == RowState::Failed && row.take_ups < TAKE_UPS_MAX);
            row.is_doubtful |= row.state == RowState::Unknown;
            row.state = RowState::Unknown;
        }
        true
    }

    /// An outcome is known. `false` where the list has no such row.
    #[must_use]
    pub(super) fn settle(&mut self, row: u64, event: Event) -> bool {
        let row = usize::try_from(row).ok();
        let Some(row) = row.and_then(|row| self.0.get_mut(row)) else {
            return false;
        };
        *row = row.after(event);
        true
    }
}

impl Row {
    fn after(self, event: Event) -> Self {
        let state = match event {
            Event::Sent | Event::Rejected | Event::Skipped => RowState::Settled,
            Event::Failed | Event::TimedOut => RowState::Failed,
            Event::Unknown => RowState::Unknown,
            // As it was before it was begun.
            Event::Returned if self.is_doubtful => RowState::Unknown,
            Event::Returned if self.take_ups > 0 => RowState::Failed,
            Event::Returned => RowState::Fresh,
        };
        let taken_back = u8::from(event == Event::Returned && state == RowState::Failed);
        Self {
            state,
            take_ups: self.take_ups - taken_back,
            is_doubtful: state == RowState::Unknown && self.is_doubtful,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies events to row 1; `None` begins it.
    fn state_after(events: &[Option<Event>]) -> (RowState, u8) {
        let mut states = States::new(2);
        for event in events {
            assert!(match event {
                None => states.begin(1, 1),
                Some(event) => states.settle(1, *event),
            });
        }
        states.get(1)
    }

    #[test]
    fn a_row_is_what_its_last_lines_say() {
        use Event::{Failed, Rejected, Returned, Sent, TimedOut, Unknown};
        for (events, want) in [
            (&[][..], (RowState::Fresh, 0)),
            (&[None], (RowState::Unknown, 0)),
            (&[None, Some(Sent)], (RowState::Settled, 0)),
            (&[Some(Rejected)], (RowState::Settled, 0)),
            (&[None, Some(Failed)], (RowState::Failed, 0)),
            (&[None, Some(TimedOut), None], (RowState::Unknown, 1)),
            (
                &[None, Some(Failed), None, Some(Failed)],
                (RowState::Failed, 1),
            ),
            (&[None, Some(Returned)], (RowState::Fresh, 0)),
            (
                &[None, Some(Failed), None, Some(Returned)],
                (RowState::Failed, 0),
            ),
        ] {
            assert_eq!(state_after(events), want, "{events:?}");
        }
        // What was perhaps sent once stays so, even if the second try never left.
        for events in [
            &[None, None, Some(Returned)][..],
            &[None, Some(Unknown), None, Some(Returned)],
        ] {
            assert_eq!(state_after(events).0, RowState::Unknown, "{events:?}");
        }
    }

    #[test]
    fn rows_that_the_list_does_not_have_are_refused() {
        let mut states = States::new(3);
        assert!(states.begin(2, 3));
        assert!(!states.begin(3, 4));
        assert!(!states.begin(3, u64::MAX));
        assert!(!states.begin(3, 2));
        assert!(!states.settle(u64::MAX, Event::Sent));
    }
}
