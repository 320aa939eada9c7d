//! The part of a notice that people read: what happened to whom, what the other side said, and what
//! can be done.

use super::{Action, Entry, Notice, date, remote, said_by_server, status};

/// The Subject of a notice.
pub(super) fn subject(entries: &[Entry<'_>]) -> &'static str {
    match worst(entries) {
        Action::Failed | Action::Expired => "Your message could not be delivered",
        Action::Delayed => "Your message is delayed",
        Action::Relayed => "Your message was passed on",
    }
}

fn worst(entries: &[Entry<'_>]) -> Action {
    let actions = entries.iter().map(|entry| entry.action);
    actions.min().unwrap_or(Action::Relayed)
}

pub(super) fn text(notice: &Notice<'_>, entries: &[Entry<'_>]) -> String {
    let mut text = format!("This is the mail server {}.\n", notice.host);
    for action in [
        Action::Failed,
        Action::Expired,
        Action::Delayed,
        Action::Relayed,
    ] {
        let of_action = entries.iter().filter(|entry| entry.action == action);
        let of_action: Vec<_> = of_action.collect();
        if !of_action.is_empty() {
            text.push_str(&opening(action, of_action.len()));
            of_action
                .iter()
                .for_each(|entry| push_entry(entry, &mut text));
        }
    }
    if worst(entries) == Action::Delayed {
        let until = date(notice.message.expires_at);
        text.push_str(&format!(
            "\nYou need not do anything: it is tried until {until}.\n"
        ));
    }
    text.push_str("\nThe message:\n");
    if !notice.message.subject.is_empty() {
        text.push_str(&format!(
            "    Subject:  {}\n",
            printable(&notice.message.subject)
        ));
    }
    text.push_str(&format!(
        "    Accepted: {}\n",
        date(notice.message.accepted_at)
    ));
    text.push_str(&format!("    Our id:   {}\n", notice.message.id));
    text
}

fn opening(action: Action, count: usize) -> String {
    let whom = match count {
        1 => "this recipient".to_owned(),
        count => format!("these {count} recipients"),
    };
    match action {
        Action::Failed => format!("\nYour message could not be delivered to {whom}:\n"),
        Action::Expired => {
            format!("\nYour message was tried again and again, and given up, for {whom}:\n")
        }
        Action::Delayed => format!("\nYour message has not yet been delivered to {whom}:\n"),
        Action::Relayed => format!(
            "\nYour message was passed on for {whom}, to a server that sends no notices of its own:\n"
        ),
    }
}

fn push_entry(entry: &Entry<'_>, text: &mut String) {
    text.push_str(&format!("\n<{}>\n", entry.recipient.address));
    if let Some(original) = &entry.recipient.original
        && *original != entry.recipient.address
    {
        text.push_str(&format!("    (you wrote to <{original}>)\n"));
    }
    let happened = match said_by_server(entry.outcome) {
        Some(reply) => {
            let who = remote(entry.outcome).unwrap_or_else(|| "The mail server".into());
            format!("{who} said: {}", printable(&reply))
        }
        None => format!("What happened: {}", printable(&entry.outcome.said.text)),
    };
    text.push_str(&format!("    {happened}\n"));
    if let Some(advice) = advice(entry) {
        text.push_str(&format!("    What you can do: {advice}\n"));
    }
}

/// One line, whatever it was.
fn printable(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(printable).collect()
}

fn advice(entry: &Entry<'_>) -> Option<&'static str> {
    if entry.action >= Action::Delayed {
        return None;
    }
    let said = entry.outcome.said.enhanced.unwrap_or(status(entry));
    Some(match (said.subject(), said.detail()) {
        (1, 2 | 10) => "look for a mistake in what stands after the @; no mail is taken there.",
        (1, 7 | 8) => "have your own address checked; it is not accepted as a sender there.",
        (1, _) => "look for a mistake in the address; it is not known there.",
        (2, 2) => "tell the recipient in another way that the mailbox is full.",
        (2, _) => "reach the recipient in another way; the mailbox takes no mail.",
        (3, 4) => "send less at once, or a link; the message is too large.",
        (6, _) => "send it in another form; the server there cannot take this one.",
        (7, _) => {
            "show what the server said to its operator, or to yours; it is a matter of rules."
        }
        (3 | 4, _) => "send it again later; the server there could not be reached or was not able.",
        _ => "show what the server said to its operator, or to yours.",
    })
}
