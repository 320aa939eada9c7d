//! Flags of `mailrail send`, as they are given.

use std::path::PathBuf;

use crate::cmd::relay::RelayArgs;
use crate::cmd::wire::WireArgs;

const EXAMPLES: &str = "\
Examples:
  One message:
    mailrail send --via smtp://me@relay.example:587 --from me@example.org --to you@example.net \\
        --subject 'Hello' --text 'Hello there.' --attach report.pdf
  A message that is ready, its recipients in its headers:
    mailrail send --via smtp://localhost --eml message.eml -t
  A mailing; subject and files are templates ({{ name }}), the list has a column `email`:
    mailrail send --via smtp://me@relay.example:587 --from 'News <news@example.org>' \\
        --recipients people.csv --subject 'Hello {{ name }}' --text-file hello.txt \\
        --html-file hello.html --rate 1000/min --dry-run
  … and without --dry-run it goes out. Stopped anyhow? Go on where it stopped:
    mailrail send …the same flags… --resume

Passwords: MAILRAIL_PASSWORD, --password-file, or a prompt; never the command line.
Row numbers are those an editor shows: the first recipient of a CSV is row 2.
Outcomes are written at once to LIST.run.jsonl: sent, rejected, failed (for now), timed_out,
unknown (perhaps sent), skipped, returned (never offered to the relay).";

/// Flags of `mailrail send`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[arg(
        long,
        value_name = "URL",
        required_unless_present = "dry_run",
        help = "The relay: smtp[s]://[user@]host[:port]; several times: relays of equal standing"
    )]
    pub(super) via: Vec<String>,

    /// Make and check everything, show the first message, send nothing
    #[arg(long)]
    pub(super) dry_run: bool,

    /// Print one JSON object at the end and nothing else
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    pub(super) message: MessageArgs,

    #[command(flatten)]
    pub(super) bulk: BulkArgs,

    #[command(flatten)]
    pub(super) wire: WireArgs,

    /// Further tries, within seconds, of what failed for now
    #[arg(long, value_name = "N", default_value = "2", help_heading = "Speed")]
    pub(super) retries: String,

    #[command(flatten)]
    pub(super) relay: RelayArgs,
}

/// The message.
#[derive(clap::Args, Default)]
#[command(next_help_heading = "Message")]
pub(crate) struct MessageArgs {
    #[arg(
        long,
        value_name = "MAILBOX",
        help = "Who it is from: an address, or 'Name <address>'"
    )]
    pub(super) from: Option<String>,

    /// Recipient; may be given several times. So may --cc, --bcc, --reply-to and --attach
    #[arg(long, value_name = "MAILBOX")]
    pub(super) to: Vec<String>,

    /// Recipient of a copy
    #[arg(long, value_name = "MAILBOX")]
    pub(super) cc: Vec<String>,

    /// Recipient whom nobody sees
    #[arg(long, value_name = "MAILBOX")]
    pub(super) bcc: Vec<String>,

    /// Where answers go
    #[arg(long, value_name = "MAILBOX")]
    pub(super) reply_to: Vec<String>,

    /// Subject; a template with --recipients
    #[arg(long, value_name = "TEXT")]
    pub(super) subject: Option<String>,

    /// Plain text; a template with --recipients
    #[arg(long, value_name = "TEXT", conflicts_with = "text_file")]
    pub(super) text: Option<String>,

    /// Plain text from a file
    #[arg(long, value_name = "FILE")]
    pub(super) text_file: Option<PathBuf>,

    /// HTML; a template with --recipients
    #[arg(long, value_name = "HTML", conflicts_with = "html_file")]
    pub(super) html: Option<String>,

    /// HTML from a file
    #[arg(long, value_name = "FILE")]
    pub(super) html_file: Option<PathBuf>,

    /// File to attach
    #[arg(long, value_name = "FILE")]
    pub(super) attach: Vec<PathBuf>,

    /// Header of your own: 'X-Name: value'
    #[arg(long, value_name = "HEADER")]
    pub(super) header: Vec<String>,

    /// Send this message as it is; - reads it from standard input
    #[arg(long, value_name = "FILE|-")]
    pub(super) eml: Option<PathBuf>,

    /// With --eml: take the envelope from its headers
    #[arg(short = 't', long = "read-envelope", requires = "eml")]
    pub(super) read_envelope: bool,

    /// How to leave the list: https or mailto URI (a template); offers one-click (RFC 8058)
    #[arg(long, value_name = "URI")]
    pub(super) list_unsubscribe: Vec<String>,

    /// Sign with this private key (PEM; `mailrail dkim keygen` makes one)
    #[arg(long, value_name = "FILE", requires = "dkim_selector")]
    pub(super) dkim_key: Option<PathBuf>,

    /// Selector under which the key is published
    #[arg(long, value_name = "NAME", requires = "dkim_key")]
    pub(super) dkim_selector: Option<String>,

    /// Domain that signs [default: that of --from]
    #[arg(long, value_name = "DOMAIN", requires = "dkim_key")]
    pub(super) dkim_domain: Option<String>,
}

/// The list, and what became of it so far.
#[derive(clap::Args, Default)]
#[command(next_help_heading = "Mailing")]
pub(crate) struct BulkArgs {
    /// List with a column `email`; all columns are template variables
    #[arg(long, value_name = "FILE.csv|.jsonl")]
    pub(super) recipients: Option<PathBuf>,

    /// Send at most so many messages in this run
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<String>,

    /// Where outcomes are written [default: beside the list, LIST.run.jsonl]
    #[arg(long, value_name = "FILE")]
    pub(super) record: Option<PathBuf>,

    /// Go on with a run that was stopped
    #[arg(long)]
    pub(super) resume: bool,

    /// Resume, and take up what failed for now; each row at most three times
    #[arg(long)]
    pub(super) retry_failed: bool,

    /// Resume, and send again what was perhaps sent: may deliver twice
    #[arg(long)]
    pub(super) resend_unknown: bool,

    /// Send to the valid rows although others are not; those are recorded as rejected
    #[arg(long)]
    pub(super) skip_invalid: bool,

    /// Send to each address once, however often the list has it (its first 900,000)
    #[arg(long)]
    pub(super) skip_duplicates: bool,
}
