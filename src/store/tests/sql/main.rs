//! Accounts, the ledger, documents and responses over a real SQLite and a real Postgres, which the test starts in a folder
//! of its own.
//!
//! Every store has to pass the same cases; what only one of them can have go wrong is in `faults`.
//!
//! Needs the Debian and Ubuntu package `postgresql`.

mod accounts;
mod bills;
mod documents;
mod faults;
mod ledger;
mod place;
mod responses;

use place::{Case, Place};
use tollway_tests::postgres::Postgres;

/// One test per case for SQLite, and all cases for Postgres in one, because a server takes a while
/// to start. Each has a database of its own.
macro_rules! cases {
    ($($module:ident :: $case:ident),* $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::$module::$case(crate::place::Place::sqlite()).await;
                }
            )*
        }

        const CASES: &[(&str, Case)] =
            &[$((stringify!($case), |place| Box::pin($module::$case(place)))),*];
    };
}

cases! {
    accounts::what_was_created_is_found,
    accounts::an_alias_belongs_to_one_object_of_its_kind,
    accounts::a_change_is_made_whole_or_not_at_all,
    accounts::only_the_latest_version_can_be_replaced_or_deleted,
    accounts::changes_are_told_in_their_order,
    accounts::changes_at_once_are_made_one_after_the_other,
    accounts::a_change_is_heard_of_by_every_node,
    accounts::the_audit_log_is_told_latest_first,
    accounts::any_text_is_kept_or_refused_with_a_reason,
    accounts::nodes_may_start_at_once,
    ledger::a_record_comes_back_as_it_was,
    ledger::records_are_found_by_all_that_is_asked,
    ledger::what_is_sent_again_counts_once,
    ledger::nodes_that_write_at_once_lose_nothing,
    ledger::sums_are_those_of_the_records,
    ledger::sums_stay_when_records_are_forgotten,
    ledger::no_record_can_stop_those_behind_it,
    ledger::a_record_that_the_database_refuses_is_stored_without_its_texts,
    ledger::sums_can_be_more_than_a_record_can_say,
    bills::of_many_who_bill_the_same_one_does,
    bills::bill_is_made_whole_or_not_at_all,
    documents::a_document_comes_back_as_it_was,
    documents::only_the_latest_version_of_a_document_is_replaced,
    documents::a_log_has_no_gaps_and_nothing_twice,
    documents::a_batch_is_made_whole_or_not_at_all,
    documents::batches_at_once_are_each_made_whole_or_not_at_all,
    documents::of_two_nodes_at_once_one_has_its_way,
    documents::a_thousand_runs_write_their_steps_at_once,
    documents::a_batch_that_the_database_refuses_stops_no_other,
    documents::a_document_goes_with_its_log,
    documents::documents_are_listed_by_all_that_is_asked,
    documents::what_nobody_holds_is_taken_over_by_one,
    documents::totals_are_those_of_the_owner,
    documents::a_log_is_read_by_so_many_bytes,
    documents::large_bodies_are_kept_and_larger_ones_refused,
    documents::any_text_of_a_document_is_kept_or_refused,
    responses::a_response_comes_back_as_it_was,
    responses::what_was_removed_is_not_written_again,
    responses::a_response_that_is_refused_stops_no_other,
    responses::what_nobody_makes_any_more_is_ended_once,
    responses::whoever_makes_a_response_hears_what_others_were_asked,
    responses::responses_whose_time_is_over_are_removed_step_by_step,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_passes_all_cases() {
    let server = Postgres::start().await;
    let mut failed = Vec::new();
    for (name, case) in CASES {
        let place = Place::postgres(&server).await;
        if tokio::spawn(case(place)).await.is_err() {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
}
