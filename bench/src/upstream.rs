//! The upstream of both proxies: simulated, with answers made in advance.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tollway_simulator::{Fixed, Options, Simulator};

use crate::Failure;
use crate::answer::Said;
use crate::families::{Family, Form, Reply};

/// The text of the JSON answer, which makes the whole of it 1.4 KB.
const JSON_TEXT_BYTES: usize = 1080;

/// How streams go: how many chunks of text they have, and how far apart they come.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The chunks of a short stream.
    pub short: u32,
    /// The chunks of a long stream.
    pub long: u32,
    /// The time between two chunks.
    pub interval: Duration,
}

/// A running upstream. Stops when dropped.
pub struct Upstream {
    simulator: Simulator,
    pace: Pace,
    replies: Vec<Reply>,
    _stop: Option<oneshot::Sender<()>>,
}

impl Upstream {
    /// Starts one on a free port, with the answers of these families, on the load runner's own thread:
    /// where CPU is measured, two threads on one core would wait for each other.
    ///
    /// # Errors
    /// When there is no port to be had.
    pub async fn start(pace: Pace, families: &[&'static Family]) -> Result<Upstream, Failure> {
        let (options, replies) = answers(pace, families);
        Ok(Upstream { simulator: Simulator::start(options).await?, pace, replies, _stop: None })
    }

    /// The same on a thread of its own, as real ones are programs of their own: where waiting is
    /// measured.
    ///
    /// # Errors
    /// When there is no thread or port to be had.
    pub fn start_apart(pace: Pace, families: &[&'static Family]) -> Result<Upstream, Failure> {
        let (options, replies) = answers(pace, families);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (started, start) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::Builder::new().name("upstream".into()).spawn(move || {
            runtime.block_on(async {
                let simulator = Simulator::start(options).await;
                if started.send(simulator).is_ok() {
                    // Fails as soon as the other side is dropped, which is what it waits for.
                    let _ = stopped.await;
                }
            });
        })?;
        Ok(Upstream { simulator: start.recv()??, pace, replies, _stop: Some(stop) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.simulator.addr()
    }

    /// How its streams go.
    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// How many requests it has answered so far.
    pub fn requests(&self) -> u64 {
        self.simulator.billed().requests
    }

    /// What a whole answer says, whatever its shape. Tokens may be left out of it.
    pub fn said(&self, form: Form) -> Said {
        let (text, pieces, tokens) = match form {
            Form::Json => ("sim ".repeat(JSON_TEXT_BYTES / 4), 1, JSON_TEXT_BYTES as u32 / 4),
            Form::Short => {
                (" sim".repeat(self.pace.short as usize), self.pace.short, self.pace.short)
            }
            Form::Long => (" sim".repeat(self.pace.long as usize), self.pace.long, self.pace.long),
        };
        Said { text, pieces: pieces as usize, tokens: Some(tokens.into()) }
    }

    /// The gateway's `model_list`: a model for each answer.
    pub fn model_list(&self) -> String {
        let entries = self.replies.iter().map(|reply| reply.entry(self.address()));
        format!("model_list:\n{}", entries.collect::<String>())
    }
}

/// All answers it has.
fn answers(pace: Pace, families: &[&'static Family]) -> (Options, Vec<Reply>) {
    let replies: Vec<Reply> = families
        .iter()
        .flat_map(|family| Form::ALL.into_iter().map(|form| family.reply(form)))
        .collect();
    let fixed = replies.iter().map(|reply| {
        let (path, shape) = (reply.path(), reply.family.upstream);
        match reply.form {
            Form::Json => Fixed::answer(path, shape, JSON_TEXT_BYTES),
            Form::Short => Fixed::stream(path, shape, pace.short, pace.interval),
            Form::Long => Fixed::stream(path, shape, pace.long, pace.interval),
        }
    });
    // Strict, so that what is sent to a wrong path gets a 404 and not some other answer.
    let options = Options { strict_models: true, ..Options::bench(fixed) };
    (options, replies)
}

#[cfg(test)]
mod tests {
    use crate::answer;
    use crate::client::Connection;
    use crate::families::FAMILIES;
    use crate::request::Request;

    use super::*;

    #[tokio::test]
    async fn every_answer_says_what_it_should() {
        let pace = Pace { short: 2, long: 5, interval: Duration::from_millis(1) };
        let families: Vec<_> = FAMILIES.iter().collect();
        let upstream = Upstream::start(pace, &families).await.unwrap();
        let mut connection = Connection::open(upstream.address()).await.unwrap();
        for reply in families.iter().flat_map(|family| Form::ALL.map(|form| family.reply(form))) {
            let request = Request::new(&reply.path(), reply, 1 << 10, true);
            let answer = connection.ask(request.bytes()).await.unwrap();
            assert_eq!(answer.status, 200, "{reply:?}");
            let shape = reply.family.upstream;
            let said = answer::read(shape, reply.streams(), answer.body).unwrap();
            assert_eq!(said, upstream.said(reply.form), "{reply:?}");
            if reply.form == Form::Json {
                let bytes = answer.body.len();
                assert!((1200..2200).contains(&bytes), "{reply:?}: {bytes}");
                continue;
            }
            // Cut anywhere, it is no longer complete.
            let (body, mut cut) = (answer.body, 1);
            while cut < body.len() {
                let result = answer::read(shape, true, &body[..body.len() - cut - 2]);
                assert!(result.is_err(), "{reply:?} without its last {cut} bytes");
                cut *= 2;
            }
        }
        assert_eq!(upstream.requests(), 3 * FAMILIES.len() as u64);
    }
}
