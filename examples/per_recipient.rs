//! One message, three recipients, a result for each. `cargo run --example per_recipient`

use mailrail::client::{Kind, Pool, Relay};
use mailrail::sink::{Action, Rule, Sink, Stage};
use mailrail::smtp::{Address, Content, Envelope, Recipient, Reply};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let unknown = Reply::fixed(550, Some((5, 1, 1)), "no such user");
    let full = Reply::fixed(452, Some((4, 2, 2)), "mailbox full");
    let nobody: Address = "nobody@example.net".parse()?;
    let hoarder: Address = "hoarder@example.net".parse()?;
    let sink = Sink::builder()
        .rule(Rule::new(Stage::Rcpt, Action::Reply(unknown)).address(nobody.clone()))
        .rule(Rule::new(Stage::Rcpt, Action::Reply(full)).address(hoarder.clone()))
        .start()
        .await?;

    let pool = Pool::builder(Relay::plaintext(sink.addr())).build()?;
    let recipients: Vec<Recipient> = vec![
        "zoe@example.net".parse::<Address>()?.into(),
        nobody.into(),
        hoarder.into(),
    ];
    let envelope = Envelope::new("me@example.org".parse::<Address>()?, recipients.clone())?;
    let report = pool
        .send(envelope, Content::from_text(b"Subject: hi\n\nHi.\n")?)
        .await;
    for (recipient, result) in recipients.iter().zip(&report.results) {
        match result {
            Ok(accepted) => println!("{}: sent, {}", recipient.address, accepted.reply),
            Err(failure) if failure.kind == Kind::Permanent => {
                println!("{}: will never work, {failure}", recipient.address);
            }
            Err(failure) => println!("{}: try later, {failure}", recipient.address),
        }
    }
    pool.close().await;
    sink.shutdown().await;
    Ok(())
}
