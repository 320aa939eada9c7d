//! Ends of content that only some servers see (CVE-2023-51764 and its kin). Ours sees one, CRLF dot
//! CRLF, and refuses content in which anything else could pass for a line end; our client cannot say
//! any of them.

use std::io::{Read, Write};
use std::net::TcpStream;

use mailrail::sink::{Sink, TlsMode};
use mailrail::smtp::Content;

const FALSE_ENDS: [&str; 14] = [
    "\n.\n",
    "\n.\r\n",
    "\n.\r",
    "\r.\r",
    "\r.\n",
    "\r.\r\n",
    "\r\n.\r",
    "\r\n.\n",
    "\r\n\0.\r\n",
    "\r\n.\0\r\n",
    "\r\n.\r\0\n",
    "\r\r\n.\r\r\n",
    "\r\n.\r\r\n",
    "\n\n.\n\n",
];

const SMUGGLED: &str =
    "MAIL FROM:<evil@src.example>\r\nRCPT TO:<victim@dest.example>\r\nDATA\r\nSmuggled\r\n";

#[test]
fn the_client_cannot_say_a_false_end_of_content() {
    for end in FALSE_ENDS {
        let text = format!("Subject: x\r\n\r\nBody{end}{SMUGGLED}");
        let error = Content::new(text).expect_err(end).to_string();
        assert!(!error.contains(['\r', '\n', '\0']), "{end:?}: {error:?}");
    }
}

/// Says all of it in one go, and gives all that is answered until the sink closes.
async fn dialogue(sink: &Sink, says: String) -> String {
    let addr = sink.addr();
    let talk = move || {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.write_all(says.as_bytes()).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    tokio::task::spawn_blocking(talk).await.unwrap()
}

const START: &str = "EHLO x.example\r\nMAIL FROM:<a@src.example>\r\nRCPT TO:<b@dest.example>\r\n";

fn has_refusal(answer: &str) -> bool {
    answer.lines().any(|line| line.starts_with('5'))
}

#[tokio::test]
async fn a_false_end_of_content_in_data_is_refused_and_never_two_messages() {
    for end in FALSE_ENDS {
        let sink = Sink::builder().keep_content().start().await.unwrap();
        let says = format!("{START}DATA\r\nSubject: x\r\n\r\nBody{end}{SMUGGLED}.\r\nQUIT\r\n");
        let answer = dialogue(&sink, says).await;
        assert!(has_refusal(&answer), "{end:?}: {answer}");
        assert_eq!(sink.records(), [], "{end:?}: {answer}");
    }
}

#[tokio::test]
async fn a_false_end_of_content_in_bdat_is_refused_and_never_two_messages() {
    for end in FALSE_ENDS {
        let sink = Sink::builder().keep_content().start().await.unwrap();
        let content = format!("Subject: x\r\n\r\nBody{end}{SMUGGLED}.\r\n");
        // Whole, and in two chunks that meet within the false end.
        let cut = content.find(end).unwrap() + 1;
        let (first, last) = content.split_at(cut);
        for says in [
            format!("{START}BDAT {} LAST\r\n{content}QUIT\r\n", content.len()),
            format!(
                "{START}BDAT {}\r\n{first}BDAT {} LAST\r\n{last}QUIT\r\n",
                first.len(),
                last.len()
            ),
        ] {
            let answer = dialogue(&sink, says).await;
            assert!(has_refusal(&answer), "{end:?}: {answer}");
            assert_eq!(sink.records(), [], "{end:?}: {answer}");
        }
    }
}

#[tokio::test]
async fn refused_bdat_is_swallowed_and_not_read_as_commands() {
    let sink = Sink::builder().keep_content().start().await.unwrap();
    let says = format!(
        "EHLO x.example\r\nBDAT {} LAST\r\n{SMUGGLED}{START}BDAT 4 LAST\r\nOk\r\nQUIT\r\n",
        SMUGGLED.len()
    );
    let answer = dialogue(&sink, says).await;
    let froms: Vec<_> = sink
        .records()
        .into_iter()
        .map(|record| record.from)
        .collect();
    assert_eq!(froms, ["a@src.example"], "{answer}");
}

#[tokio::test]
async fn commands_sent_before_tls_are_forgotten() {
    let sink = Sink::builder()
        .tls(TlsMode::StartTls)
        .keep_content()
        .start()
        .await
        .unwrap();
    let says = format!("EHLO x.example\r\nSTARTTLS\r\n{START}DATA\r\nInjected\r\n.\r\nQUIT\r\n");
    let answer = dialogue(&sink, says).await;
    assert_eq!(sink.records(), []);
    assert!(!answer.contains("354"), "{answer}");
}
