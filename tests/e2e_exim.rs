//! The pool against Exim.

mod real;

use real::exim::exim;
use real::suite::{self, Quirks};

const QUIRKS: Quirks = Quirks {
    resumes_tls: true,
    takes_smtputf8: false,
};

#[tokio::test]
async fn every_mode_delivers_each_message_once_with_its_envelope_and_octets() {
    suite::every_mode_delivers(&exim("").await, &QUIRKS, 15).await;
}

#[tokio::test]
async fn a_refused_recipient_harms_neither_the_others_nor_the_connection() {
    suite::refused_recipients_fail_alone(&exim("").await).await;
}

#[tokio::test]
async fn after_a_message_that_all_refuse_the_next_leaves_under_its_own_reverse_path() {
    suite::all_refused_leaves_no_trace(&exim("").await).await;
}

#[tokio::test]
async fn a_421_fails_its_own_message_and_the_others_leave_on_another_connection() {
    suite::a_421_hits_one_message(&exim("").await).await;
}

#[tokio::test]
async fn after_too_many_messages_the_421_costs_no_message() {
    suite::a_server_that_has_enough_of_a_connection(
        &exim("smtp_accept_max_per_connection = 3").await,
    )
    .await;
}

#[tokio::test]
async fn tls_is_verified_and_resumed() {
    suite::tls_is_verified(&exim("").await, &QUIRKS).await;
}

#[tokio::test]
async fn a_message_over_the_size_is_refused_before_its_content_is_sent() {
    suite::too_large(&exim("message_size_limit = 100000").await).await;
}

#[tokio::test]
async fn the_program_sends_a_mailing_of_which_one_recipient_is_refused() {
    suite::the_program_sends_a_mailing(&exim("").await).await;
}
