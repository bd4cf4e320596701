//! Asking a provider for a batch and its output, with the endpoint's own credentials.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Method;
use pingora_core::protocols::http::v1::client::HttpSession as Http1Session;
use tokio::time::timeout;

use crate::exchange::{Endpoint, Exchange, Line, final_head};

/// What a provider answers.
pub(super) struct Answer {
    pub(super) status: u16,
    session: Http1Session,
    idle: Duration,
}

/// Asks for something stored. Why it cannot be had has no secret in it.
pub(super) async fn get(
    exchange: &Exchange,
    endpoint: &Arc<Endpoint>,
    path: &str,
) -> Result<Answer, String> {
    let path = endpoint.stored_path(path).ok_or("nothing is stored there in OpenAI's way")?;
    let line = exchange.line(endpoint, Method::GET, &path).await;
    let Line { mut session, head } = line.map_err(|reject| reject.message.to_string())?;
    let wait = endpoint.deadlines.first_byte;
    let asked = async {
        session.write_request_header(Box::new(head)).await?;
        final_head(&mut session).await
    };
    match timeout(wait, asked).await {
        Ok(asked) => asked.map_err(|error| error.to_string())?,
        Err(_) => return Err(format!("no answer within {wait:?}")),
    }
    let status = session.resp_header().map_or(0, |head| head.status.as_u16());
    Ok(Answer { status, session, idle: endpoint.deadlines.idle })
}

impl Answer {
    /// The next piece of the body.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, String> {
        match timeout(self.idle, self.session.read_body_bytes()).await {
            Ok(read) => read.map_err(|error| error.to_string()),
            Err(_) => Err(format!("the answer has stopped for {:?}", self.idle)),
        }
    }

    /// The whole body, if it has no more than so many bytes.
    pub(super) async fn whole(mut self, bytes_max: usize) -> Result<Bytes, String> {
        let mut body = BytesMut::new();
        while let Some(piece) = self.piece().await? {
            body.extend_from_slice(&piece);
            if body.len() > bytes_max {
                return Err(format!("the answer has more than {bytes_max} bytes"));
            }
        }
        Ok(body.freeze())
    }
}
