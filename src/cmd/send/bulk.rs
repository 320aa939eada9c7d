//! A mailing: check the list, open the record, send, sum up.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::PoolBuilder;

use super::check::{self, Checked};
use super::deliver::{Delivered, Delivery, StopReason};
use super::feed::{self, Feed, FeedError, FeedTimes};
use super::progress::{Counts, Progress};
use super::record::{Event, Identity, Record, RecordError, RowState, States};
use super::settings::{Bulk, Settings, Start};
use super::summary::Facts;
use crate::cmd::relay;
use crate::cmd::wire::WireSettings;
use crate::exit::{Exit, OrExit, Outcome, Stop};
use crate::machine;
use crate::out;

/// How much time's worth of a slow `--rate` may be in hand: what is in hand may become unknown.
const RATE_AHEAD_S: f64 = 5.0;
/// Rows that are begun with one sync.
const BATCH_ROWS_MAX: usize = 256;
/// How long saying QUIT may take.
const QUIT_MAX: Duration = Duration::from_secs(5);

/// Sends a mailing, or shows what would be sent.
pub(super) fn run(settings: Settings, bulk: &Bulk) -> Outcome {
    let checked = check::check(bulk)?;
    check::judge(bulk, &checked)?;
    if settings.is_dry_run {
        show(&settings, bulk, &checked);
        return Ok(Exit::Done);
    }
    let builder = settings.pool.expect("--via is required but in a dry run");
    let options = Options {
        wire: settings.wire,
        is_json: settings.is_json,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .or_exit_with(Exit::Temporary, "cannot start the runtime")?;
    runtime.block_on(send(builder, options, bulk, &checked))
}

struct Options {
    wire: WireSettings,
    is_json: bool,
}

fn show(settings: &Settings, bulk: &Bulk, checked: &Checked) {
    if settings.is_json {
        let summary = serde_json::json!({
            "valid": checked.valid,
            "invalid": checked.invalid.count,
            "duplicates": checked.duplicates.count,
        });
        out::line(format_args!("{summary:#}"));
        return;
    }
    if let Some(first) = &checked.first {
        out::line(format_args!(
            "{}",
            String::from_utf8_lossy(first.as_bytes())
        ));
    }
    out::line(format_args!(
        "{}: {} messages, the first as above but for its signature; nothing was sent",
        bulk.list.display(),
        checked.valid
    ));
}

async fn send(builder: PoolBuilder, options: Options, bulk: &Bulk, checked: &Checked) -> Outcome {
    let pool = builder.build().or_exit(Exit::Usage)?;
    let identity = identity(bulk, checked);
    let resumed = take_up(bulk, &identity, checked)?;
    let plan = Plan::new(bulk, checked, resumed.as_ref().map(|(_, states)| states));
    // Before there is a record: a relay that is not there leaves nothing behind.
    relay::check(&pool).await?;
    let (record, states) = match resumed {
        Some((record, states)) => (record, Some(states)),
        None => {
            let record = Record::create(&bulk.record, &identity).map_err(record_stop)?;
            (record, None)
        }
    };
    let feed = Arc::new(Feed {
        record: Arc::new(record),
        counts: Arc::new(Counts::default()),
        times: Arc::new(FeedTimes::default()),
        from: bulk.from.clone(),
        mailing: Arc::clone(&bulk.mailing),
        error: Mutex::new(None),
    });
    let in_flight_max = in_flight_max(options.wire);
    let delivery = Delivery::new(pool.clone(), Arc::clone(&feed), in_flight_max);
    let delivery = Arc::new(delivery);
    let progress = Progress::start(&feed.counts, plan.total, options.is_json);
    let cpu = machine::CpuMeter::start();
    let batch_rows = (2 * in_flight_max).min(BATCH_ROWS_MAX);
    let batches = feed::start(&feed, bulk, states, batch_rows);
    let delivered = delivery.run(batches).await;
    let cpu_share = cpu.share_since().unwrap_or(0.0);
    drop(progress);
    let synced = feed.record.sync();
    let stats = pool.stats();
    let _ = tokio::time::timeout(QUIT_MAX, pool.close()).await;
    let facts = Facts {
        feed: &feed,
        tally: &delivery.tally(),
        delivered: &delivered,
        stats,
        cpu_share,
        wire: options.wire,
        plan,
    };
    if options.is_json {
        out::line(format_args!("{:#}", facts.to_json()));
    } else {
        facts.print();
    }
    synced.or_exit_with(Exit::Temporary, "the record cannot be made durable")?;
    exit_of(&delivered, &feed.counts, plan)
}

/// The record of an earlier run that is to go on; `None` where this one starts afresh.
fn take_up(
    bulk: &Bulk,
    identity: &Identity,
    checked: &Checked,
) -> Result<Option<(Record, States)>, Stop> {
    match bulk.start {
        Start::Afresh if bulk.record.exists() => {
            Err(record_stop(RecordError::Exists(bulk.record.clone())))
        }
        Start::Afresh => Ok(None),
        Start::Resume { .. } => Record::resume(&bulk.record, identity, checked.row_max)
            .map(Some)
            .map_err(record_stop),
    }
}

fn identity(bulk: &Bulk, checked: &Checked) -> Identity {
    Identity {
        list: bulk.list.display().to_string(),
        list_bytes: checked.list_bytes,
        list_sha256: checked.list_sha256.clone(),
        message_sha256: bulk.message_sha256.clone(),
        from: bulk.from.to_string(),
    }
}

/// Which rows there are for this run.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    /// To be done, or to be named.
    pub(super) total: u64,
    /// Failed for now in earlier runs, and not taken up in this one.
    pub(super) left_failed: u64,
    /// The same, as often as they may be.
    pub(super) given_up: u64,
}

impl Plan {
    fn new(bulk: &Bulk, checked: &Checked, states: Option<&States>) -> Self {
        let rows = checked.valid + checked.invalid.count;
        let (Some(states), Start::Resume { retry_failed, .. }) = (states, bulk.start) else {
            let skipped = match bulk.skip_duplicates {
                true => checked.duplicates.count,
                false => 0,
            };
            return Self {
                total: rows.saturating_sub(skipped).min(bulk.limit),
                left_failed: 0,
                given_up: 0,
            };
        };
        let given_up = states.count_given_up();
        let failed = states.count(RowState::Failed) - given_up;
        let left_failed = if retry_failed { 0 } else { failed };
        let left_out = states.count(RowState::Settled) + left_failed + given_up;
        Self {
            total: rows.saturating_sub(left_out).min(bulk.limit),
            left_failed,
            given_up,
        }
    }
}

fn record_stop(error: RecordError) -> Stop {
    let exit = match &error {
        RecordError::Exists(_) | RecordError::Missing(_) => Exit::Usage,
        RecordError::InUse(_) => Exit::Temporary,
        RecordError::Other { .. } | RecordError::Damaged { .. } | RecordError::Io { .. } => {
            Exit::Data
        }
    };
    Stop::new(exit, error)
}

/// Enough to keep every connection busy; fewer where a slow rate would leave them waiting.
fn in_flight_max(wire: WireSettings) -> usize {
    let ahead = wire
        .rate
        .map_or(f64::MAX, |rate| (rate.per_second() * RATE_AHEAD_S).ceil());
    wire.in_flight_max().min(ahead as usize).max(1)
}

fn exit_of(delivered: &Delivered, counts: &Counts, plan: Plan) -> Outcome {
    match &delivered.stop_reason {
        Some(StopReason::Feed(FeedError::List(error))) => return Err(Stop::new(Exit::Data, error)),
        Some(StopReason::Feed(error)) => return Err(Stop::new(Exit::Temporary, error)),
        Some(StopReason::Interrupted | StopReason::Relay(_)) => return Ok(Exit::Temporary),
        None => {}
    }
    let undone = [
        Event::Failed,
        Event::TimedOut,
        Event::Unknown,
        Event::Returned,
    ];
    if plan.left_failed > 0 || undone.iter().any(|event| counts.get(*event) > 0) {
        Ok(Exit::Temporary)
    } else if plan.given_up + counts.get(Event::Rejected) > 0 {
        Ok(Exit::Data)
    } else {
        Ok(Exit::Done)
    }
}
