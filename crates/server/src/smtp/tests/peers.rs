//! Our own client in front of our own edge: whatever it puts in flight, each message arrives once.

use client::{Concurrency, Pool, Relay, Wire};
use smtp::{Content, Envelope};

use super::*;

#[tokio::test]
async fn windows_of_messages_share_syncs_and_arrive_once_each() {
    for wire in [
        Wire::Lockstep,
        Wire::Pipelined,
        Wire::Overlapped,
        Wire::Windowed(8),
    ] {
        let (edge, fake) = open();
        fake.lock().holds = true;
        let disk = tokio::spawn(sync(fake.clone()));
        let pool = Pool::builder(Relay::plaintext(edge.addresses()[0]))
            .wire(wire)
            .concurrency(Concurrency::Fixed(3))
            .build()
            .unwrap();
        let mut sending = tokio::task::JoinSet::new();
        for number in 0..200 {
            let pool = pool.clone();
            sending.spawn(async move {
                let to: Address = format!("b{number}@b.example").parse().unwrap();
                let from: Address = "a@a.example".parse().unwrap();
                let text = format!("Subject: {number}\n\n.{}\n", "x".repeat(number));
                let content = Content::from_text(text.as_bytes()).unwrap();
                pool.send(Envelope::single(from, to), content)
                    .await
                    .is_accepted()
            });
        }
        let results = sending.join_all().await;
        assert!(results.iter().all(|accepted| *accepted), "{wire:?}");
        disk.abort();
        let mut numbers: Vec<usize> = fake
            .lock()
            .begun
            .iter()
            .map(|(submission, _)| {
                let number = submission.options.subject.parse().unwrap();
                let to = submission.envelope.recipients()[0].address.local_part();
                assert_eq!(to, format!("b{number}"), "{wire:?}");
                let body = format!("\r\n\r\n.{}\r\n", "x".repeat(number));
                assert!(submission.content.as_bytes().ends_with(body.as_bytes()));
                number
            })
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..200).collect::<Vec<_>>(), "{wire:?}");
        pool.close().await;
    }
}

/// Settles, again and again, all that has begun so far.
async fn sync(fake: Fake) {
    loop {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let group = std::mem::take(&mut fake.lock().waiting);
        for (number, waiting) in group.into_iter().enumerate() {
            // Who has hung up does not care.
            let _ = waiting.send(Ok(MessageId::from_bits(number as u128)));
        }
    }
}
