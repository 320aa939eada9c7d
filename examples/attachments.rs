//! Text, HTML with a picture in it, and a file. `cargo run --example attachments [smtp://host:port]`

mod support;

use mailrail::client::Pool;
use mailrail::message::{Attachment, Message};
use mailrail::smtp::Address;

/// A red dot.
const DOT: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle cx="4" cy="4" r="4" fill="#c00"/></svg>"##;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (relay, _sink) = support::relay().await?;
    let message = Message::new("me@example.org".parse::<Address>()?)
        .to("you@example.net".parse::<Address>()?)
        .subject("Your receipt")
        .text("The receipt is attached.\n")
        .html("<p>The receipt <img src=\"cid:dot\"> is attached.</p>")
        .attach(Attachment::inline("dot", "dot.svg", DOT.as_bytes())?)
        .attach(Attachment::new(
            "Quittung für Zoë.csv",
            b"item,price\r\ntea,3.20\r\n",
        )?);

    let pool = Pool::builder(relay).build()?;
    let content = message.compose(jiff::Timestamp::now())?;
    println!("{} octets", content.len());
    let report = pool.send(message.envelope()?, content).await;
    println!("{:?}", report.results);
    pool.close().await;
    Ok(())
}
