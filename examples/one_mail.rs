//! One mail, composed and sent. `cargo run --example one_mail [smtp://host:port]`

mod support;

use mailrail::client::Pool;
use mailrail::message::{Mailbox, Message};
use mailrail::smtp::Address;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (relay, _sink) = support::relay().await?;
    let message = Message::new("me@example.org".parse::<Address>()?)
        .to(Mailbox::named("Zoë", "zoe@example.net".parse()?))
        .subject("Grüße")
        .text("Hello Zoë,\nthis is all it takes.\n");

    let pool = Pool::builder(relay).build()?;
    let report = pool
        .send(
            message.envelope()?,
            message.compose(jiff::Timestamp::now())?,
        )
        .await;
    match &report.results[0] {
        Ok(accepted) => println!("sent in {:?}: {}", report.timings.total(), accepted.reply),
        Err(failure) => println!("not sent: {failure}"),
    }
    pool.close().await;
    Ok(())
}
