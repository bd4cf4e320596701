//! Money is exact, under everything that can go wrong. The same at full size: `bench/money.sh`.

use tollway_tests::proof::{kill, mixed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ledger_is_the_providers_own_sum_to_the_pico_dollar() {
    let report = mixed::prove(16, 1_600).await;
    assert!(report.wrong.is_empty(), "{report:#?}");
    assert_eq!(report.refused, 0, "nobody was refused whose budget sufficed");
    assert!(report.billed > 1_000 && report.cut > 100, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_gateway_has_charged_every_token_that_a_client_read_and_none_twice() {
    let report = kill::prove(3, 12).await;
    println!("ready {:?} after a start, at most", report.ready);
    assert!(report.wrong.is_empty(), "{report:#?}");
    assert!(report.open > 12 && report.delivered > 1_000, "{report:?}");
}
