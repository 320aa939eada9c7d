//! One message.

use client::{Accepted, Failure, Kind, PoolBuilder, Report, Scope};
use serde_json::json;
use smtp::{Content, Envelope};

use super::deliver::details_of;
use super::settings::Settings;
use crate::cmd::relay;
use crate::exit::{Exit, OrExit, Outcome};
use crate::out;

/// Sends it, or shows it.
pub(super) fn run(settings: Settings, envelope: Envelope, content: Content) -> Outcome {
    if settings.is_dry_run {
        show(&envelope, &content);
        return Ok(Exit::Done);
    }
    let builder = settings.pool.expect("--via is required but in a dry run");
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .or_exit_with(Exit::Temporary, "cannot start the runtime")?
        .block_on(send(builder, envelope, content, settings.is_json))
}

fn show(envelope: &Envelope, content: &Content) {
    let from = envelope.reverse_path().address();
    eprintln!("from <{}>", from.map_or("", smtp::Address::as_str));
    for recipient in envelope.recipients() {
        eprintln!("to   <{}>", recipient.address);
    }
    out::line(format_args!(
        "{}",
        String::from_utf8_lossy(content.as_bytes())
    ));
    eprintln!("nothing was sent");
}

async fn send(
    builder: PoolBuilder,
    envelope: Envelope,
    content: Content,
    is_json: bool,
) -> Outcome {
    let pool = builder.build().or_exit(Exit::Usage)?;
    relay::check(&pool).await?;
    let report = pool.send(envelope.clone(), content).await;
    pool.close().await;
    if is_json {
        out::line(format_args!("{:#}", to_json(&envelope, &report)));
    } else {
        for (recipient, result) in envelope.recipients().iter().zip(&report.results) {
            match result {
                Ok(accepted) => out::line(format_args!(
                    "{}: sent: {}",
                    recipient.address, accepted.reply
                )),
                Err(failure) => out::line(format_args!(
                    "{}: {}: {failure}",
                    recipient.address,
                    word(failure)
                )),
            }
        }
    }
    Ok(exit_of(&report))
}

fn word(failure: &Failure) -> &'static str {
    match failure.kind {
        Kind::Transient => "failed for now",
        Kind::Permanent => "rejected",
        Kind::Unknown => "unknown",
    }
}

fn to_json(envelope: &Envelope, report: &Report) -> serde_json::Value {
    let result = |(recipient, result): (&smtp::Recipient, &Result<Accepted, Failure>)| {
        json!({
            "recipient": recipient.address.as_str(),
            "outcome": result.as_ref().err().map_or("sent", word),
            "details": details_of(result),
        })
    };
    let results: Vec<_> = envelope
        .recipients()
        .iter()
        .zip(&report.results)
        .map(result)
        .collect();
    let stages: serde_json::Map<_, _> = report
        .timings
        .stages()
        .into_iter()
        .map(|(name, stage)| (name.to_owned(), (stage.as_secs_f64() * 1e3).into()))
        .collect();
    json!({ "results": results, "attempts": report.attempts, "stages_ms": stages })
}

fn exit_of(report: &Report) -> Exit {
    let exit = |failure: &Failure| match (failure.kind, failure.scope) {
        (Kind::Transient | Kind::Unknown, _) => Exit::Temporary,
        (Kind::Permanent, Scope::Account) => Exit::NoPermission,
        (Kind::Permanent, _) => Exit::Data,
    };
    let failures = report
        .results
        .iter()
        .filter_map(|result| result.as_ref().err());
    // Something left to do outweighs something lost.
    failures
        .map(exit)
        .max_by_key(|exit| (*exit == Exit::Temporary, *exit as u8))
        .unwrap_or(Exit::Done)
}
