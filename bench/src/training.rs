//! Work for an instrumented gateway, from which the compiler learns what is called how often.
//!
//! It is what the bench measures, of every provider family, and then TLS and HTTP/2, which real
//! providers speak: what is not asked here is taken for rare, and is put aside in the program.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use tollway_tests::gateway::{Folder, Gateway, Options};

use crate::Failure;
use crate::families::{ANTHROPIC, FAMILIES, Form, OPENAI, Reply};
use crate::load::{Load, Target};
use crate::measure::{Bench, note};
use crate::process::Side;
use crate::upstream::{Pace, Upstream};

const PACE: Pace = Pace { short: 20, long: 200, interval: Duration::from_millis(3) };
const CONNECTIONS: usize = 16;
const KB: usize = 1 << 10;

/// Asks gateways for all kinds of answers and lets them end by themselves: only then do they write
/// their profiles.
///
/// # Errors
/// When any answer is wrong, or a gateway does not end well.
pub async fn train(bench: &Bench) -> Result<(), Failure> {
    let families: Vec<_> = FAMILIES.iter().collect();
    let upstream = Upstream::start(PACE, &families).await?;
    let filters = fs::read_to_string(&bench.launch.config)?;
    let gateway = start(format!("{filters}\n{}", upstream.model_list()), None).await;
    let pupil = Pupil { address: gateway.address, upstream: &upstream };
    for family in families {
        note(&format!("training: {}", family.title));
        pupil.ask(family.reply(Form::Json), KB, true, 200).await?;
        pupil.ask(family.reply(Form::Short), KB, true, 20).await?;
        pupil.ask(family.reply(Form::Long), KB, true, 2).await?;
    }
    note("training: long requests, and the cache");
    pupil.ask(OPENAI.reply(Form::Json), 64 * KB, true, 40).await?;
    pupil.ask(OPENAI.reply(Form::Json), KB * KB, true, 4).await?;
    pupil.ask(OPENAI.reply(Form::Json), KB, false, 200).await?;
    pupil.ask(OPENAI.reply(Form::Short), KB, false, 20).await?;
    end(gateway).await?;
    under_tls(&filters, &upstream).await
}

/// A gateway asks another one, which hands everything on to the upstream.
async fn under_tls(filters: &str, upstream: &Upstream) -> Result<(), Failure> {
    note("training: TLS");
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let folder = Folder::fresh();
    let cert = folder.write("cert.pem", &certificate.cert.pem());
    let key = folder.write("key.pem", &certificate.signing_key.serialize_pem());
    let model_list = upstream.model_list();
    let replies = [OPENAI, ANTHROPIC]
        .into_iter()
        .flat_map(|family| [Form::Json, Form::Short, Form::Long].map(|form| family.reply(form)));
    let replies: Vec<_> = replies.collect();
    let handed_on: String = replies
        .iter()
        .map(|reply| {
            let (path, to) = (reply.path(), upstream.address());
            format!(
                "    - {{ path: '{path}', target: 'http://{to}{path}', methods: [POST], auth: false }}\n"
            )
        })
        .collect();
    let behind = format!(
        "listen: {{ tls: {{ cert: '{}', key: '{}' }} }}\n\
         general_settings:\n  pass_through_endpoints:\n{handed_on}",
        cert.display(),
        key.display(),
    );
    let behind = start(behind, None).await;
    let (plain, tls) = (upstream.address().to_string(), behind.address.port());
    let models =
        model_list.replace(&format!("http://{plain}"), &format!("https://localhost:{tls}"));
    let roots = cert.display().to_string();
    let front = start(format!("{filters}\n{models}"), Some(&roots)).await;
    let pupil = Pupil { address: front.address, upstream };
    for reply in replies {
        let times = if reply.form == Form::Json { 100 } else { 4 };
        pupil.ask(reply, KB, true, times).await?;
    }
    end(front).await?;
    end(behind).await
}

/// Who is asked.
struct Pupil<'a> {
    address: SocketAddr,
    upstream: &'a Upstream,
}

impl Pupil<'_> {
    async fn ask(
        &self,
        reply: Reply,
        body_bytes: usize,
        unique: bool,
        times: u64,
    ) -> Result<(), Failure> {
        let (address, side) = (self.address, Some(Side::Tollway));
        let target = Target { address, side, reply, body_bytes, unique };
        let mut load = Load::open(target, self.upstream, CONNECTIONS).await?;
        load.times(times).await.map(drop)
    }
}

async fn start(config: String, roots: Option<&str>) -> Gateway {
    let mut env = vec![("TOLLWAY_THREADS".to_owned(), "1".to_owned())];
    env.extend(roots.map(|roots| ("SSL_CERT_FILE".to_owned(), roots.to_owned())));
    Gateway::start_with(Options { config: Some(config), env, ..Options::default() }).await
}

async fn end(mut gateway: Gateway) -> Result<(), Failure> {
    gateway.signal("INT");
    let status = gateway.ended().await;
    if status.success() { Ok(()) } else { Err(format!("a gateway ended with {status}").into()) }
}
