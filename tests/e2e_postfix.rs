//! The pool against Postfix.

mod real;

use real::postfix::postfix;
use real::suite::{self, Quirks};

const QUIRKS: Quirks = Quirks {
    resumes_tls: true,
    takes_smtputf8: true,
};

#[tokio::test]
async fn every_mode_delivers_each_message_once_with_its_envelope_and_octets() {
    suite::every_mode_delivers(&postfix("").await, &QUIRKS, 60).await;
}

#[tokio::test]
async fn a_refused_recipient_harms_neither_the_others_nor_the_connection() {
    suite::refused_recipients_fail_alone(&postfix("").await).await;
}

#[tokio::test]
async fn after_a_message_that_all_refuse_the_next_leaves_under_its_own_reverse_path() {
    suite::all_refused_leaves_no_trace(&postfix("").await).await;
}

#[tokio::test]
async fn a_421_fails_its_own_message_and_the_others_leave_on_another_connection() {
    suite::a_421_hits_one_message(&postfix("").await).await;
}

#[tokio::test]
async fn after_too_many_errors_the_421_costs_no_other_message() {
    suite::a_server_that_has_enough_of_errors(&postfix("smtpd_hard_error_limit = 4").await).await;
}

#[tokio::test]
async fn tls_is_verified_and_resumed() {
    suite::tls_is_verified(&postfix("").await, &QUIRKS).await;
}

#[tokio::test]
async fn a_message_over_the_size_is_refused_before_its_content_is_sent() {
    suite::too_large(&postfix("message_size_limit = 100000").await).await;
}

#[tokio::test]
async fn the_program_sends_a_mailing_of_which_one_recipient_is_refused() {
    suite::the_program_sends_a_mailing(&postfix("").await).await;
}
