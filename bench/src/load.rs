//! Connections that send requests and check every answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep_until};

use crate::Failure;
use crate::answer::{self, Said};
use crate::client::{Answer, Connection};
use crate::families::Reply;
use crate::process::Side;
use crate::request::Request;
use crate::upstream::Upstream;

/// The next number for a request; never given twice, so that no cache can answer.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// What to ask for, and of whom.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Where to connect.
    pub address: SocketAddr,
    /// Who listens there; `None` is the upstream itself.
    pub side: Option<Side>,
    /// What should come back.
    pub reply: Reply,
    /// How large the request's body is.
    pub body_bytes: usize,
    /// Whether every request is unlike all others, so that no cache can answer it.
    pub unique: bool,
}

impl Target {
    fn name(self) -> String {
        format!("{}, {}", self.side.map_or("the upstream", Side::name), self.reply.name())
    }

    fn failed(self, error: &Failure) -> Failure {
        format!("no answer from {}: {error}", self.name()).into()
    }

    fn wrong(self, answer: &Answer<'_>, why: &str) -> Failure {
        let start = String::from_utf8_lossy(&answer.body[..answer.body.len().min(500)]);
        let why: String = why.chars().take(200).collect();
        let (name, status, bytes) = (self.name(), answer.status, answer.body.len());
        format!("wrong answer from {name}: status {status}, {bytes} bytes ({why}): {start}").into()
    }
}

/// Keeps the load runner from ever sleeping, until it is dropped.
///
/// A proxy pays for waking whoever waits for what it writes, and more than for writing it. How often
/// the load runner waits depends on which of the two is faster: without this a slower proxy is charged
/// for its own slowness once more, and for something that clients on other machines do not cost.
pub struct Awake {
    _tasks: JoinSet<()>,
}

impl Awake {
    /// From now on.
    pub fn begin() -> Awake {
        let mut tasks = JoinSet::new();
        tasks.spawn(async {
            loop {
                yield_now().await;
            }
        });
        Awake { _tasks: tasks }
    }
}

/// Open connections to one target.
pub struct Load {
    workers: Vec<Worker>,
}

/// One connection and its request.
struct Worker {
    connection: Connection,
    request: Request,
    target: Target,
    /// How long every answer must be.
    answer_bytes: usize,
}

impl Load {
    /// Opens connections, asks once on each, and reads what those answers say.
    ///
    /// # Errors
    /// When one of them is not what the upstream sends.
    pub async fn open(
        target: Target,
        upstream: &Upstream,
        connections: usize,
    ) -> Result<Load, Failure> {
        let expected = Arc::new(upstream.said(target.reply.form));
        let mut opening = JoinSet::new();
        // At once, because a long stream takes its time.
        for index in 0..connections {
            let expected = Arc::clone(&expected);
            opening.spawn(async move { Worker::open(target, &expected, index % 2 == 0).await });
        }
        let mut workers = Vec::with_capacity(connections);
        while let Some(opened) = opening.join_next().await {
            workers.push(opened??);
        }
        Ok(Load { workers })
    }

    /// Asks on every connection, one request after the other, for this long. Returns the number of
    /// requests.
    ///
    /// # Errors
    /// When an answer is wrong.
    pub async fn for_time(&mut self, time: Duration) -> Result<u64, Failure> {
        let end = Instant::now() + time;
        let asked = self.each(move |_, mut worker| async move {
            let mut asked = 0;
            while Instant::now() < end {
                worker.ask().await?;
                asked += 1;
            }
            Ok((worker, asked))
        });
        Ok(asked.await?.into_iter().sum())
    }

    /// Asks this often on every connection. Returns the number of requests.
    ///
    /// # Errors
    /// When an answer is wrong.
    pub async fn times(&mut self, times: u64) -> Result<u64, Failure> {
        let asked = self.each(move |_, mut worker| async move {
            for _ in 0..times {
                worker.ask().await?;
            }
            Ok((worker, times))
        });
        Ok(asked.await?.into_iter().sum())
    }

    /// Asks at even intervals, whether or not earlier answers have come, and returns how long each
    /// answer took.
    ///
    /// A request that had to wait for a free connection is counted from when it was due: a proxy
    /// that stalls must not gain from the requests it kept from being sent.
    ///
    /// # Errors
    /// When an answer is wrong.
    pub async fn at_rate(
        &mut self,
        per_second: u32,
        time: Duration,
    ) -> Result<Vec<Duration>, Failure> {
        let workers = self.workers.len() as u32;
        let gap = Duration::from_secs(1) / per_second;
        let requests = (time.as_secs_f64() * f64::from(per_second)) as u32;
        let start = Instant::now() + gap;
        let took = self.each(move |index, mut worker| async move {
            let mut took = Vec::new();
            for request in (index as u32..requests).step_by(workers as usize) {
                let due = start + gap * request;
                let mut from = due;
                if Instant::now() < due {
                    sleep_until(due).await;
                    // Tokio's timer is up to 1 ms late, which is not the proxy's doing.
                    from = Instant::now();
                }
                worker.ask().await?;
                took.push(from.elapsed());
            }
            Ok((worker, took))
        });
        Ok(took.await?.into_iter().flatten().collect())
    }

    /// Runs something on every connection at once; the first error ends them all.
    async fn each<T, F, R>(&mut self, run: F) -> Result<Vec<T>, Failure>
    where
        T: Send + 'static,
        F: Fn(usize, Worker) -> R,
        R: Future<Output = Result<(Worker, T), Failure>> + Send + 'static,
    {
        let mut running = JoinSet::new();
        for (index, worker) in self.workers.drain(..).enumerate() {
            running.spawn(run(index, worker));
        }
        let mut results = Vec::with_capacity(running.len());
        while let Some(ended) = running.join_next().await {
            let (worker, result) = ended??;
            self.workers.push(worker);
            results.push(result);
        }
        Ok(results)
    }
}

/// Opens one connection after the other, asks once on each, and returns how many answers were cut
/// or wrong, with the first reason.
///
/// # Errors
/// When already the answer that the others are compared with is wrong.
pub async fn streams_at_once(
    target: Target,
    upstream: &Upstream,
    streams: u32,
    per_second: u32,
) -> Result<(u32, Option<Failure>), Failure> {
    let expected = Arc::new(upstream.said(target.reply.form));
    let gap = Duration::from_secs(1) / per_second;
    let start = Instant::now() + gap;
    let mut running = JoinSet::new();
    for stream in 0..streams {
        let expected = Arc::clone(&expected);
        running.spawn(async move {
            sleep_until(start + gap * stream).await;
            Worker::open(target, &expected, stream % 2 == 0).await.map(drop)
        });
    }
    let (mut cut, mut reason) = (0, None);
    while let Some(ended) = running.join_next().await {
        if let Err(error) = ended? {
            cut += 1;
            reason.get_or_insert(error);
        }
    }
    Ok((cut, reason))
}

impl Worker {
    /// Connects, asks once, and reads what the answer says.
    async fn open(target: Target, expected: &Said, model_first: bool) -> Result<Worker, Failure> {
        let family = target.reply.family;
        let (path, shape) = match target.side {
            Some(Side::Tollway) => (target.reply.client_path(), family.client.shape()),
            Some(Side::Bare) | None => (target.reply.path(), family.upstream),
        };
        let mut request = Request::new(&path, target.reply, target.body_bytes, model_first);
        if target.unique {
            request.set_number(NUMBER.fetch_add(1, Ordering::Relaxed));
        }
        let mut connection = Connection::open(target.address).await?;
        let answer = connection.ask(request.bytes()).await;
        let answer = answer.map_err(|error| target.failed(&error))?;
        let answer_bytes = answer.body.len();
        let said = answer::read(shape, target.reply.streams(), answer.body);
        if answer.status != 200 || !said.as_ref().is_ok_and(|said| said.is(expected)) {
            return Err(target.wrong(&answer, &format!("{said:?}")));
        }
        Ok(Worker { connection, request, target, answer_bytes })
    }

    async fn ask(&mut self) -> Result<(), Failure> {
        if self.target.unique {
            self.request.set_number(NUMBER.fetch_add(1, Ordering::Relaxed));
        }
        let answer = self.connection.ask(self.request.bytes()).await;
        let answer = answer.map_err(|error| self.target.failed(&error))?;
        if answer.status != 200 || answer.body.len() != self.answer_bytes {
            let expected = format!("status 200 and {} bytes expected", self.answer_bytes);
            return Err(self.target.wrong(&answer, &expected));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::families::{Form, OPENAI};
    use crate::upstream::Pace;

    use super::*;

    async fn upstream() -> Upstream {
        let pace = Pace { short: 2, long: 5, interval: Duration::from_millis(1) };
        Upstream::start(pace, &[OPENAI]).await.unwrap()
    }

    fn target(upstream: &Upstream, reply: Reply) -> Target {
        let address = upstream.address();
        Target { address, side: None, reply, body_bytes: 1 << 10, unique: true }
    }

    #[tokio::test]
    async fn every_request_is_counted() {
        let upstream = upstream().await;
        let mut load =
            Load::open(target(&upstream, OPENAI.reply(Form::Json)), &upstream, 4).await.unwrap();
        assert_eq!(upstream.requests(), 4);
        assert_eq!(load.times(3).await.unwrap(), 12);
        let took = load.at_rate(1000, Duration::from_millis(50)).await.unwrap();
        assert_eq!(took.len(), 50);
        let more = load.for_time(Duration::from_millis(20)).await.unwrap();
        assert_eq!(upstream.requests(), 4 + 12 + 50 + more);
    }

    #[tokio::test]
    async fn a_wrong_answer_ends_the_run() {
        let upstream = upstream().await;
        let target =
            Target { side: Some(Side::Tollway), ..target(&upstream, OPENAI.reply(Form::Json)) };
        let error = Load::open(target, &upstream, 1).await.err().unwrap().to_string();
        assert!(error.starts_with("wrong answer from tollway, openai-json: status 404"), "{error}");
    }

    #[tokio::test]
    async fn streams_that_are_cut_are_counted() {
        let upstream = upstream().await;
        let whole = target(&upstream, OPENAI.reply(Form::Long));
        let (cut, _) = streams_at_once(whole, &upstream, 5, 1000).await.unwrap();
        assert_eq!(cut, 0);
        let unknown = Target { side: Some(Side::Tollway), ..whole };
        let (cut, reason) = streams_at_once(unknown, &upstream, 5, 1000).await.unwrap();
        assert_eq!(cut, 5);
        assert!(reason.unwrap().to_string().contains("status 404"));
    }
}
