//! A websocket's events and what each is answered.

use bytes::Bytes;
use tokio::time::Instant;

use super::Flight;
use crate::ask::{Ask, Problem};
use crate::http::Stop;
use crate::journal::{End, Outcome, Received};
use crate::realtime::{Session, Step};
use crate::reply::Reply;
use crate::websocket::{self, Messages};

impl Flight<'_, '_> {
    /// Speaks over a websocket until one side has had enough.
    pub(super) async fn realtime(&mut self, model: &str) -> Result<(), Stop> {
        let head = match websocket::accept(self.received) {
            Ok(head) => head,
            Err(problem) => return self.problem(&problem).await,
        };
        if let Some(delay) = self.reply.first_byte_delay {
            self.sender.pause(delay).await?;
        }
        self.closes = true;
        self.sender.raw(head.as_bytes()).await?;
        // What the header asks for holds for each answer that has no script of its own.
        let standing = std::mem::take(&mut self.reply);
        let mut session = Session::new(model);
        self.sender.body(&session.created()).await?;
        let mut messages = Messages::default();
        loop {
            let message = match messages.take(self.sender.received()) {
                Ok(Some(message)) => message,
                Ok(None) => {
                    self.sender.receive().await?;
                    continue;
                }
                Err(websocket::BadFrame) => {
                    let code = 1002_u16.to_be_bytes();
                    self.sender.raw(&websocket::frame(websocket::CLOSE, &code)).await?;
                    return Err(Stop::Close);
                }
            };
            match message {
                (websocket::CLOSE, code) => {
                    return self.sender.raw(&websocket::frame(websocket::CLOSE, &code)).await;
                }
                (websocket::PING, bytes) => {
                    self.sender.raw(&websocket::frame(websocket::PONG, &bytes)).await?;
                }
                (websocket::PONG, _) => {}
                (_, text) => self.realtime_event(&mut session, text, &standing).await?,
            }
        }
    }

    /// Answers one event of a websocket, which the journal has as a request of its own.
    async fn realtime_event(
        &mut self,
        session: &mut Session,
        text: Bytes,
        standing: &Reply,
    ) -> Result<(), Stop> {
        let journal = &self.shared.journal;
        let received = Received {
            id: journal.next_id(),
            connection: self.received.connection,
            at: Instant::now(),
            method: "WEBSOCKET".to_owned(),
            path: self.received.path.clone(),
            headers: Vec::new(),
            body: text,
        };
        journal.record(&received);
        (self.number, self.chunks) = (received.id, 0);
        let answered = match session.take(&received.body) {
            Step::Send(events) => self.sender.body(&events.concat()).await,
            Step::Answer(mut ask) => match self.shared.reply_to(&received, &mut ask.said) {
                Ok(reply) => {
                    self.reply = reply.unwrap_or_else(|| standing.clone());
                    self.realtime_answer(session, &ask).await
                }
                Err(problem) => self.sender.body(&self.dialect.error_event(&problem)).await,
            },
        };
        let end = match answered {
            Ok(()) => End::Complete,
            Err(Stop::ClientLeft) => End::ClientLeft,
            Err(Stop::Close | Stop::Reset) => End::Broken,
        };
        let (id, chunks) = (received.id, self.chunks);
        journal.end(Outcome { id, end, at: Instant::now(), chunks });
        answered
    }

    async fn realtime_answer(&mut self, session: &mut Session, ask: &Ask) -> Result<(), Stop> {
        if let Some(status) = self.reply.status {
            let message = self.reply.message.clone();
            let message = message.unwrap_or_else(|| format!("Simulated error {status}."));
            let (code, kind) = (self.reply.code.clone(), self.reply.kind.clone());
            let problem = Problem { status, message, code, kind, retry_after: None };
            return self.sender.body(&self.dialect.error_event(&problem)).await;
        }
        self.sender.split = self.reply.split;
        self.sender.left = self.reply.cut_at_byte;
        if self.reply.coalesce {
            self.sender.gathered = Some(Vec::new());
        }
        let (answer, mut usage) = self.prepare(ask);
        let halted = self.events(ask, &answer, &mut usage).await;
        session.answered(&answer);
        self.end_stream(halted).await
    }
}
