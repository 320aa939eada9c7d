//! One ready connection: a task that takes messages, moves bytes and hands out outcomes.
//!
//! The task owns the session and the stream, so a caller who goes away cannot leave them in the
//! middle of anything. It reads whenever it may write, so a peer that stops reading cannot
//! deadlock it, and an idle connection that dies is noticed at once, without a NOOP.
//!
//! Over 500 lines: all that happens between a take and a settlement touches the same few counts.

use std::collections::VecDeque;
use std::future::Future;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use smtp::client::{BeginError, End, Mode, Session, Settled, TransactionStage};
use tokio::io::ReadBuf;
use tokio::time::Sleep;

use crate::budget;
use crate::config::Timeouts;
use crate::dial::{Dialed, io_cause};
use crate::dispatch::Take;
use crate::endpoint::Ending;
use crate::failure::{Cause, Failure, Kind, Scope, Stage};
use crate::job::{self, Claim, Job, Outcome, Split};
use crate::report::{Report, Timings};
use crate::shared::Shared;
use crate::stream::Stream;

/// Slices in one write.
const SLICES_MAX: usize = 64;
/// Octets in one read; replies are short.
const READ_BYTES: usize = 8 * 1024;
/// A message that lost this many connections on which nothing was done is given up. Connections
/// that got something done do not count: each brings all that wait nearer to their turn.
const RETURNS_MAX: u8 = 3;
/// How long the reply to QUIT is waited for.
pub(crate) const QUIT_MAX: Duration = Duration::from_secs(5);
/// After this long without traffic the peer may be gone, and content is not sent unasked.
const QUIET_MAX: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    slot: usize,
    endpoint: usize,
    session: Session,
    stream: Stream,
    /// On the wire, in the order in which the session will settle them.
    jobs: VecDeque<OnWire>,
    /// To be sent by another connection.
    returned: Vec<Job>,
    /// The same, by those who can give their content once more: how many.
    recalled: usize,
    /// What making this connection took; the first message gets it.
    setup: Option<Box<Timings>>,
    tls_resumed: Option<bool>,
    opened_at: Duration,
    last_traffic: Duration,
    /// When the present step began, or last got on: by a whole reply, or by octets written. Parts
    /// of a reply that never ends do not count.
    step_began: Duration,
    messages: u32,
    messages_max: u32,
    /// Messages that the server has accepted.
    taken: u32,
    /// The number of the first message that was answered by 421.
    refused: Option<u64>,
    is_retiring: bool,
    /// The dispatch knows that it is retiring.
    has_left: bool,
    is_active: bool,
    needs_flush: bool,
    /// The server has answered the content of a message.
    was_useful: bool,
    /// It ended while replies were due, and not by a 421.
    was_cut: bool,
    /// Why what is still open will have no reply.
    lost: Cause,
    /// Fires no later than the deadline in force; see [`Connection::poll_deadline`].
    timer: Pin<Box<Sleep>>,
}

struct OnWire {
    claim: Claim,
    /// What making the connection took, where this message waited for it.
    setup: Option<Box<Timings>>,
}

impl OnWire {
    /// From `send` to the first byte written, less the making of the connection.
    fn queue(&self, begun: Duration) -> Duration {
        let making = self.setup.as_ref().map(|setup| setup.total());
        begun
            .saturating_sub(self.claim.place.queued_at)
            .saturating_sub(making.unwrap_or_default())
    }
}

/// What remains when a connection has ended.
pub(crate) struct Remains {
    pub(crate) returned: Vec<Job>,
    pub(crate) recalled: usize,
    pub(crate) was_active: bool,
    pub(crate) ending: Ending,
}

impl Connection {
    pub(crate) fn new(shared: Arc<Shared>, slot: usize, endpoint: usize, dialed: Dialed) -> Self {
        let now = shared.now();
        let Dialed {
            session,
            stream,
            timings,
        } = dialed;
        let limits = session.extensions().limits;
        let unless_zero = |n: u32| if n == 0 { u32::MAX } else { n };
        let messages_max = unless_zero(shared.config.messages_per_connection)
            .min(limits.transactions_max.unwrap_or(u32::MAX));
        let timer = Box::pin(tokio::time::sleep(shared.config.tick));
        Self {
            shared,
            slot,
            endpoint,
            session,
            stream,
            jobs: VecDeque::new(),
            returned: Vec::new(),
            recalled: 0,
            tls_resumed: timings.tls_resumed,
            setup: Some(Box::new(timings)),
            opened_at: now,
            last_traffic: now,
            step_began: now,
            messages: 0,
            messages_max,
            taken: 0,
            refused: None,
            is_retiring: false,
            has_left: false,
            is_active: false,
            needs_flush: false,
            was_useful: false,
            was_cut: false,
            lost: Cause::Closed,
            timer,
        }
    }

    /// The number of its endpoint.
    pub(crate) fn endpoint(&self) -> usize {
        self.endpoint
    }

    /// Works until the connection has ended.
    pub(crate) async fn run(mut self: Box<Self>) -> Remains {
        std::future::poll_fn(|cx| {
            let ended = self.poll(cx);
            if ended.is_ready() {
                self.stream.say_goodbye(cx);
            }
            ended
        })
        .await;
        let ending = match self.lost {
            Cause::Protocol(_) => Ending::Odd,
            _ if self.was_cut => Ending::Cut,
            _ => Ending::Well,
        };
        self.settle(self.shared.now());
        Remains {
            returned: std::mem::take(&mut self.returned),
            recalled: self.recalled,
            was_active: self.is_active,
            ending,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.shared.now();
        loop {
            if !self.session.is_over() {
                self.take_jobs(cx, now);
                self.write(cx, now);
            }
            let has_read = !self.session.is_over() && self.read(cx, now);
            self.settle(now);
            if self.session.is_over() {
                return Poll::Ready(());
            }
            if !has_read {
                break;
            }
        }
        if self.poll_deadline(cx, now) {
            self.give_up(Cause::Timeout(self.time_allowed()));
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn take_jobs(&mut self, cx: &mut Context<'_>, now: Duration) {
        let age = now.saturating_sub(self.opened_at);
        self.is_retiring |= self.messages >= self.messages_max
            || age > self.shared.config.age_max
            || age > budget::TURN && self.shared.is_wanted_elsewhere()
            || self.session.is_closing();
        while !self.is_retiring {
            let taken = {
                let session = &self.session;
                // A window opens by what the server has taken on this connection.
                let is_open = match session.mode() {
                    Mode::Windowed { .. } => self.jobs.len() <= self.taken as usize,
                    _ => true,
                };
                let mut dispatch = self.shared.dispatch();
                let may_begin = |len| is_open && session.may_begin(len);
                dispatch.take(self.slot, self.is_active, may_begin, now, cx.waker())
            };
            match taken {
                Take::Nothing if !self.is_active && self.shared.is_wanted_elsewhere() => {
                    self.is_retiring = true;
                }
                Take::Nothing | Take::Full { is_left: false } => return,
                Take::Full { is_left: true } => {
                    let shared = &self.shared;
                    return shared.decide(now, |dispatch| dispatch.kick(now));
                }
                Take::Later => return cx.waker().wake_by_ref(),
                Take::Close => self.is_retiring = true,
                Take::Job(job) => {
                    self.is_active = true;
                    self.begin(job, now);
                    self.shared.hand_on(now);
                    self.is_retiring = self.messages >= self.messages_max;
                }
            }
        }
        if !std::mem::replace(&mut self.has_left, true) {
            self.shared.leave(self.slot, now);
        }
        self.session.quit();
    }

    fn begin(&mut self, job: Job, now: Duration) {
        let is_quiet = self.messages > 0 && now.saturating_sub(self.last_traffic) > QUIET_MAX;
        let (envelope, content) = (&job.claim.envelope, job.content.clone());
        let begun = self.session.begin(envelope, content, is_quiet, now);
        if let Err(error) = begun {
            return self.refuse(job, &error, now);
        }
        self.messages += 1;
        self.last_traffic = now;
        if self.jobs.is_empty() {
            self.step_began = now;
        }
        // Only a message that waited for this connection has to account for its making.
        let claim = job.claim;
        let queued_at = claim.place.queued_at;
        let setup = self.setup.take().filter(|_| queued_at < self.opened_at);
        self.jobs.push_back(OnWire { claim, setup });
    }

    /// The server cannot take this message, by its own announcement; nothing was written.
    fn refuse(&mut self, job: Job, error: &BeginError, now: Duration) {
        if self.jobs.is_empty() {
            self.become_inactive(None, now);
        }
        match error {
            BeginError::NotNow => self.returned.push(job),
            BeginError::TooManyRecipients { recipients_max } => {
                let split = Split {
                    recipients_max: *recipients_max as usize,
                    content: job.content,
                    deadline: job.claim.place.deadline,
                };
                job.claim.finish(Outcome::Split(Box::new(split)));
            }
            error => {
                let failure = Failure {
                    stage: Stage::Mail,
                    scope: Scope::Message,
                    kind: Kind::Permanent,
                    endpoint: Some(self.shared.endpoint_name(self.endpoint)),
                    cause: Cause::Unsupported(error.clone()),
                };
                job.claim.fail(&failure, Timings::default());
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, now: Duration) {
        while self.session.has_output() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = self.session.slices(&mut slices);
            match self.stream.poll_write(cx, &slices[..count]) {
                Poll::Ready(Ok(0)) => return self.give_up(Cause::Closed),
                Poll::Ready(Ok(written)) => {
                    self.session.advance(written, now);
                    self.last_traffic = now;
                    self.step_began = now;
                    self.needs_flush = true;
                }
                Poll::Ready(Err(error)) => return self.lose_writing(cx, error, now),
                Poll::Pending => break,
            }
        }
        if self.needs_flush {
            match self.stream.poll_flush(cx) {
                Poll::Ready(Ok(())) => self.needs_flush = false,
                Poll::Ready(Err(error)) => self.lose_writing(cx, error, now),
                Poll::Pending => {}
            }
        }
    }

    /// The peer is gone, but what it said before it went may be here: a 421, or replies to what
    /// it took.
    fn lose_writing(&mut self, cx: &mut Context<'_>, error: std::io::Error, now: Duration) {
        while !self.session.is_over() && self.read(cx, now) {}
        self.give_up(io_cause(error));
    }

    /// Whether anything came.
    fn read(&mut self, cx: &mut Context<'_>, now: Duration) -> bool {
        let mut space = [MaybeUninit::<u8>::uninit(); READ_BYTES];
        let mut buf = ReadBuf::uninit(&mut space);
        match self.stream.poll_read(cx, &mut buf) {
            Poll::Pending => false,
            Poll::Ready(Err(error)) => {
                self.give_up(io_cause(error));
                false
            }
            Poll::Ready(Ok(())) if buf.filled().is_empty() => {
                self.give_up(Cause::Closed);
                false
            }
            Poll::Ready(Ok(())) => {
                self.last_traffic = now;
                let heard = self.session.replies_heard();
                if let Err(error) = self.session.receive(buf.filled(), now) {
                    self.lost = Cause::Protocol(error.to_string());
                }
                if self.session.replies_heard() > heard {
                    self.step_began = now;
                }
                true
            }
        }
    }

    fn give_up(&mut self, cause: Cause) {
        if !self.session.is_over() {
            self.was_cut = self.session.open_transactions() > 0 && !self.session.is_closing();
            match cause {
                Cause::Timeout(_) => self.session.give_up(),
                _ => self.session.end(),
            }
            self.lost = cause;
        }
    }

    /// Hands out the outcomes there are.
    fn settle(&mut self, now: Duration) {
        let mut latency = None;
        while let Some(settled) = self.session.settled() {
            let Some(on_wire) = self.jobs.pop_front() else {
                break;
            };
            latency = Some(now.saturating_sub(settled.marks.begun()));
            self.finish(on_wire, settled, now);
        }
        if latency.is_some() && self.jobs.is_empty() && self.is_active {
            self.become_inactive(latency, now);
        }
    }

    fn become_inactive(&mut self, latency: Option<Duration>, now: Duration) {
        self.is_active = false;
        self.shared.dispatch().became_inactive(latency);
        self.shared.hand_on(now);
    }

    fn finish(&mut self, on_wire: OnWire, settled: Settled, now: Duration) {
        let queue = on_wire.queue(settled.marks.begun());
        let OnWire { mut claim, setup } = on_wire;
        self.was_useful |= matches!(settled.end, End::Final(_));
        if matches!(&settled.end, End::Final(reply) if reply.code().is_completed()) {
            self.taken = self.taken.saturating_add(1);
        }
        if matches!(&settled.end, End::Refused(_, reply) if reply.code().get() == 421) {
            self.refused.get_or_insert(settled.id);
        }
        let may_return = self.was_useful || claim.place.returns < RETURNS_MAX;
        if may_return && self.is_worth_another_connection(&claim, &settled.end) {
            claim.place.returns += u8::from(!self.was_useful);
            if matches!(settled.end, End::Refused(..)) {
                claim.place.refused_as = self.refused;
            }
            match settled.content {
                Some(content) => self.returned.push(Job { content, claim }),
                None => {
                    self.recalled += 1;
                    let place = claim.place;
                    claim.finish(Outcome::Again(Box::new(place)));
                }
            }
            return;
        }
        let reused = Timings {
            reused: true,
            ..Timings::default()
        };
        let mut timings = setup.map_or(reused, |setup| *setup);
        timings.queue = queue;
        timings.tls_resumed = self.tls_resumed;
        job::add_marks(&mut timings, &settled.marks);
        let latency = now.saturating_sub(settled.marks.begun());
        let endpoint = self.shared.endpoint_name(self.endpoint);
        let recipients = claim.envelope.recipients().len();
        let offers_dsn = self.session.extensions().dsn;
        let results = job::results(settled, recipients, &endpoint, offers_dsn, &self.lost);
        self.shared.sample(latency, &results, now);
        claim.finish(Outcome::Done(Box::new(Report::new(results, timings))));
    }

    /// The connection ended before the message could be taken, and that says nothing about the
    /// message: it died, or the server had enough of this connection. A second 421 in a row, where
    /// the two connections were refused at different numbers of messages, is no limit of messages
    /// per connection but of their rate; it would close them all.
    fn is_worth_another_connection(&self, claim: &Claim, end: &End) -> bool {
        match end {
            End::NotSent => !matches!(self.lost, Cause::Timeout(_) | Cause::Protocol(_)),
            End::Refused(TransactionStage::Rset | TransactionStage::Mail, reply) => {
                let refused_as = claim.place.refused_as;
                let is_again = refused_as.is_some() && refused_as != self.refused;
                reply.code().get() == 421 && self.messages > 1 && !is_again
            }
            _ => false,
        }
    }

    /// How long the present step may take.
    fn time_allowed(&self) -> Duration {
        let config = &self.shared.config;
        match self.session.awaits() {
            None if self.is_retiring => QUIT_MAX,
            None => config.idle_max,
            Some((stage, content_len)) => stage_timeout(self.shared.timeouts(), stage, content_len),
        }
    }

    /// Whether the present step has taken too long. The timer is not moved at each step, which
    /// would cost more than the step: it fires after the shortest timeout there is, and is then
    /// set to the deadline in force.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, now: Duration) -> bool {
        while self.timer.as_mut().poll(cx).is_ready() {
            let deadline = self.step_began + self.time_allowed();
            let now = now.max(self.shared.now());
            if deadline <= now {
                let is_idle = self.session.awaits().is_none() && !self.is_retiring;
                if !is_idle {
                    return true;
                }
                if self.shared.dispatch().may_retire() {
                    self.is_retiring = true;
                    self.session.quit();
                    cx.waker().wake_by_ref();
                }
                self.step_began = now;
            }
            let until = (self.step_began + self.time_allowed()).min(now + self.shared.config.tick);
            let at = self
                .shared
                .instant(until.max(now + Duration::from_millis(1)));
            self.timer.as_mut().reset(at);
        }
        false
    }
}

fn stage_timeout(timeouts: &Timeouts, stage: TransactionStage, content_len: usize) -> Duration {
    match stage {
        TransactionStage::Rset | TransactionStage::Mail => timeouts.mail,
        TransactionStage::Rcpt => timeouts.rcpt,
        TransactionStage::Data => timeouts.data,
        TransactionStage::Content => timeouts.content,
        TransactionStage::Final => {
            let mib = content_len as f64 / f64::from(1u32 << 20);
            timeouts.final_base + timeouts.final_per_mib.mul_f64(mib)
        }
    }
}

/// The mode that a `Wire` asks for.
pub(crate) fn mode(wire: crate::Wire) -> Mode {
    match wire {
        crate::Wire::Lockstep => Mode::Lockstep,
        crate::Wire::Pipelined => Mode::Pipelined,
        crate::Wire::Overlapped => Mode::Overlapped,
        crate::Wire::Windowed(transactions_max) => Mode::Windowed {
            transactions_max,
            bytes_max: Mode::WINDOW_BYTES_MAX,
        },
    }
}
