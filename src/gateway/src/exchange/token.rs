//! Short-lived bearer tokens: fetched when the first call needs one, shared, and renewed before
//! they end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use tokio::sync::Mutex;
use tollway_filter_api::Clock;
use tollway_providers::{Token, TokenRequest};

use super::attempt::exception_name;
use super::endpoint::Endpoint;
use super::fault::Fault;
use super::fetch::Asked;
use super::pool::Pool;

/// How long a token server may take.
const WAIT: Duration = Duration::from_secs(10);
/// The largest answer of a token server.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long before its end a token is not used any more: a call that begins now must still be let
/// in when it arrives, and clocks differ.
const MARGIN: Duration = Duration::from_secs(60);

/// The token of one endpoint.
#[derive(Default)]
pub(crate) struct TokenCache {
    kept: ArcSwapOption<Kept>,
    /// Held while a token is fetched, so that a crowd of calls asks once.
    fetching: Mutex<()>,
}

struct Kept {
    header: HeaderValue,
    until: Instant,
}

impl TokenCache {
    /// The `authorization` header to use now; `None` where the provider needs no token.
    pub(super) async fn get(
        &self,
        endpoint: &Endpoint,
        pool: &Arc<Pool>,
        clock: &Clock,
    ) -> Result<Option<HeaderValue>, Fault> {
        if let Some(header) = self.kept(clock.now()) {
            return Ok(Some(header));
        }
        let _fetching = self.fetching.lock().await;
        if let Some(header) = self.kept(clock.now()) {
            return Ok(Some(header));
        }
        let name = exception_name(endpoint.provider);
        let request = endpoint.provider.token_request(&endpoint.access.expose(), clock.unix());
        let Some(request) = request.map_err(|error| Fault::credentials(name, &error))? else {
            return Ok(None);
        };
        let token = fetch(&request, pool, clock, name).await?;
        let mut header = HeaderValue::from_str(&format!("Bearer {}", token.bearer))
            .map_err(|_| Fault::connect(name, "the token is not a header value"))?;
        header.set_sensitive(true);
        // Half of a very short life is better than none of it.
        let life = token.lifetime.saturating_sub(MARGIN).max(token.lifetime / 2);
        let until = clock.now() + life;
        self.kept.store(Some(Arc::new(Kept { header: header.clone(), until })));
        Ok(Some(header))
    }

    fn kept(&self, now: Instant) -> Option<HeaderValue> {
        let kept = self.kept.load();
        kept.as_ref().filter(|kept| now < kept.until).map(|kept| kept.header.clone())
    }

    /// The provider does not take it any more.
    pub(super) fn forget(&self) {
        self.kept.store(None);
    }
}

/// Asks a token server.
async fn fetch(
    request: &TokenRequest,
    pool: &Arc<Pool>,
    clock: &Clock,
    name: &'static str,
) -> Result<Token, Fault> {
    let failed = |what: String| Fault::connect(name, format!("token: {what}"));
    let asked = Asked {
        url: &request.url,
        form: Some(request.body.clone().into()),
        wait: WAIT,
        bytes_max: ANSWER_BYTES_MAX,
    };
    let (status, answer) = asked.fetch(pool, clock, name).await?;
    if status != 200 {
        // Not quoted: it may repeat what was sent.
        return Err(failed(format!("the token server answered {status}")));
    }
    Token::of_answer(&answer).map_err(|error| failed(error.to_string()))
}
