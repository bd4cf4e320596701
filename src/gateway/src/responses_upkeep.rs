//! What goes on beside kept responses: those in the background are held for this process and given up
//! where another node was asked to, those that nobody makes any more are ended, and those whose time
//! is over are removed.

use std::sync::Arc;
use std::time::Duration;

use tollway_filter_api::ledger::StoreError;
use tollway_filter_api::responses::Abandoned;
use tollway_store::responses::Responses;
use tollway_wire::openai::response::ErrorObject;
use tollway_wire::responses::stored;

use crate::state::Gateway;

/// How often it is looked what other nodes were asked, while something is being made.
const LOOK: Duration = Duration::from_secs(1);
/// How often the rest is done, counted in looks: less than half of the time something is held.
const REST_EVERY: u32 = 15;
/// How long is waited between two steps of removing.
const STEP_PAUSE: Duration = Duration::from_millis(50);

/// Does all of that. Never returns.
pub(crate) async fn watch(gateway: Arc<Gateway>) {
    let mut looks = 0;
    let mut was_away = false;
    loop {
        let mut done = give_up(&gateway).await;
        if done.is_ok() && looks % REST_EVERY == 0 {
            done = rest(&gateway.responses).await;
        }
        // What could not be done is tried again with the next look, and said once.
        match &done {
            Ok(()) => looks += 1,
            Err(error) if !was_away => {
                tracing::warn!(%error, "kept responses cannot be looked after")
            }
            Err(_) => {}
        }
        was_away = done.is_err();
        tokio::time::sleep(LOOK).await;
    }
}

async fn give_up(gateway: &Gateway) -> Result<(), StoreError> {
    for id in gateway.responses.given_up().await? {
        gateway.background.cancel(&id).await;
    }
    Ok(())
}

async fn rest(responses: &Responses) -> Result<(), StoreError> {
    responses.hold().await?;
    let ended = responses.end_abandoned(interrupted).await?;
    if ended > 0 {
        tracing::warn!(ended, "responses in the background were interrupted: they have failed");
    }
    while responses.forget().await? {
        tokio::time::sleep(STEP_PAUSE).await;
    }
    Ok(())
}

/// The response of a process that is gone. The provider is not asked again: it would be paid twice.
fn interrupted(abandoned: &Abandoned) -> Vec<u8> {
    if stored::has_ended(&abandoned.response) {
        return abandoned.response.to_vec();
    }
    let message = "The gateway was restarted or ended while it made this response.";
    let error = ErrorObject { message: message.into(), ..ErrorObject::default() };
    stored::failed(&abandoned.response, 500, &error)
}
