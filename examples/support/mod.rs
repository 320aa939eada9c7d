//! The relay that an example sends to: the URL given, or a server of its own that keeps nothing.

use mailrail::client::Relay;
use mailrail::sink::Sink;

/// Reads the first argument as a relay URL, such as `smtp://127.0.0.1:2525?tls=none`; without one,
/// starts a server that lives as long as the second value.
pub(crate) async fn relay() -> Result<(Relay, Option<Sink>), Box<dyn std::error::Error>> {
    if let Some(url) = std::env::args().nth(1) {
        return Ok((url.parse()?, None));
    }
    let sink = Sink::builder().keep_records().start().await?;
    println!(
        "no relay given; sending to a server of our own at {}",
        sink.addr()
    );
    Ok((Relay::plaintext(sink.addr()), Some(sink)))
}
