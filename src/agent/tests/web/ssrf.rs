//! Nobody gets the guarded client to where it must not go.

use std::sync::Arc;

use serde_json::json;
use tollway_agent::outgoing::{Client, Outgoing, OutgoingError, Policy, Request};
use url::Url;

use crate::servers::{Canary, Names, Server, ok, redirect};

/// Names that anybody can set up in their own domain.
fn names() -> Names {
    let mapped: &[&[&str]] = &[&["::ffff:127.0.0.1"]];
    Names::default()
        .with("loop.example", &[&["127.0.0.1"]])
        .with("loop.example.", &[&["127.0.0.1"]])
        .with("mapped.example", mapped)
        .with("localhost", &[&["127.0.0.1"]])
        .with("localhost.", &[&["127.0.0.1"]])
        .with("127.0.0.1.nip.example", &[&["127.0.0.1"]])
        .with("any.example", &[&["0.0.0.0"]])
        .with("six.example", &[&["::1"]])
        .with("nat64.example", &[&["64:ff9b::7f00:1"]])
        .with("cloud.example", &[&["169.254.169.254"]])
        .with("cloud6.example", &[&["fd00:ec2::254"]])
        .with("lan.example", &[&["192.168.1.1"]])
        .with("mixed.example", &[&["127.0.0.2", "127.0.0.1"]])
        .with("mixed6.example", &[&["127.0.0.2", "::1"]])
        .with("rebind.example", &[&["127.0.0.2"], &["127.0.0.1"]])
        .with("public.example", &[&["127.0.0.2"]])
}

/// A client that may call 127.0.0.2, which stands for the internet, at some ports.
fn client(names: &Names, ports: &[u16], more: serde_json::Value) -> Client {
    let mut settings = json!({
        "allow_http": true, "ports": ports, "private_networks": ["127.0.0.2"],
    });
    settings
        .as_object_mut()
        .expect("an object")
        .extend(more.as_object().expect("an object").clone());
    let policy: Policy = serde_json::from_value(settings).expect("the settings make sense");
    let outgoing = Outgoing::with_lookup(Arc::new(names.clone())).expect("the settings make sense");
    outgoing.guarded(policy).expect("clients can be made")
}

async fn get(client: &Client, url: &str) -> Result<String, OutgoingError> {
    let answer = client.send(Request::get(Url::parse(url).expect("a URL"))).await?;
    Ok(String::from_utf8(answer.body().await?).expect("UTF-8"))
}

#[track_caller]
fn assert_refused(got: Result<String, OutgoingError>, url: &str) {
    assert!(matches!(got, Err(OutgoingError::Refused(_))), "{url}: {got:?}");
}

/// Ways to write 127.0.0.1 so that a client without a guard would connect to it.
const LOOPBACK: &[&str] = &[
    "127.0.0.1",
    "127.0.0.1.",
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0x7F.0.0.1",
    "0177.0.0.01",
    "127.1",
    "127.0.1",
    "0x7f.1",
    "127%2e0%2e0%2e1",
    "%31%32%37.0.0.1",
    "１２７.０.０.１",
    "127。0。0。1",
    "①②⑦.⓪.⓪.①",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:0001]",
    "0.0.0.0",
    "0",
    "loop.example",
    "loop.example.",
    "LOOP.example",
    "l%6Fop.example",
    "ｌｏｏｐ.example",
    "mapped.example",
    "localhost",
    "LOCALHOST.",
    "127.0.0.1.nip.example",
    "any.example",
];

#[tokio::test]
async fn no_spelling_of_this_machine_is_called() {
    let (canary, names) = (Canary::start().await, names());
    let client = client(&names, &[canary.address.port()], json!({}));
    for host in LOOPBACK {
        let url = format!("http://{host}:{}/", canary.address.port());
        assert_refused(get(&client, &url).await, &url);
        canary.assert_untouched(&url).await;
    }
}

/// Each of the spellings does lead there if it is not refused: the test above proves something.
#[tokio::test]
async fn each_spelling_would_have_led_to_this_machine() {
    let (canary, names) = (Canary::start().await, names());
    let everything = json!({"private_networks": ["0.0.0.0/0", "::/0"]});
    let client = client(&names, &[canary.address.port()], everything);
    for host in LOOPBACK {
        let url = format!("http://{host}:{}/", canary.address.port());
        let calling = tokio::spawn({
            let (client, url) = (client.clone(), url.clone());
            async move { get(&client, &url).await }
        });
        canary.listens_until_touched(&url).await;
        calling.abort();
    }
}

#[tokio::test]
async fn no_address_that_is_not_public_is_called() {
    let (canary, names) = (Canary::start().await, names());
    let port = canary.address.port();
    let client = client(&names, &[port], json!({}));
    for host in [
        "[::1]",
        "[::]",
        "[0:0:0:0:0:0:0:1]",
        "[::127.0.0.1]",
        "[::ffff:0:127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b:1::7f00:1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
        "[2001:db8::1]",
        "[3fff::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[fec0::1]",
        "[ff02::1]",
        "169.254.169.254",
        "169.254.170.2",
        "2852039166",
        "0xa9fea9fe",
        "[::ffff:169.254.169.254]",
        "168.63.129.16",
        "100.100.100.200",
        "100.64.0.1",
        "192.0.0.192",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.7",
        "203.0.113.7",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "127.0.0.3",
        "six.example",
        "nat64.example",
        "cloud.example",
        "cloud6.example",
        "lan.example",
        "mixed.example",
        "mixed6.example",
    ] {
        let url = format!("http://{host}:{port}/");
        assert_refused(get(&client, &url).await, &url);
    }
    canary.assert_untouched("any of these").await;
}

#[tokio::test]
async fn what_a_url_seems_to_say_does_not_matter() {
    let (canary, names) = (Canary::start().await, names());
    let port = canary.address.port();
    let client = client(&names, &[port], json!({}));
    for url in [
        format!("http://public.example@127.0.0.1:{port}/"),
        format!("http://127.0.0.1:{port}@public.example:{port}/"),
        format!("http://public.example:{port}@127.0.0.1:{port}/"),
        format!("http://127.0.0.1:{port}\\@public.example:{port}/"),
        format!("http:\\\\127.0.0.1:{port}/"),
        format!("http:127.0.0.1:{port}/"),
        format!("http:///127.0.0.1:{port}/"),
        format!("http://127.0.0.1:{port}#@public.example/"),
        format!("http://127.0.0.1:{port}?@public.example/"),
        format!("\u{1} http://127.0.0.1:{port}/"),
        format!("ht\ttp://127.0.0.1:{port}/"),
        format!("http://12\t7.0.0\n.1:{port}/"),
        format!("ftp://public.example:{port}/"),
        format!("gopher://public.example:{port}/_GET"),
        format!("ws://public.example:{port}/"),
        "file:///etc/passwd".to_owned(),
        "data:text/plain,hello".to_owned(),
        "unix:/run/docker.sock".to_owned(),
    ] {
        assert_refused(get(&client, &url).await, &url);
    }
    canary.assert_untouched("any of these").await;
    for url in [
        "http://127.0.0.1 .example/",
        "http://[::1%25lo]/",
        "http://[::1/",
        "http://256.0.0.1/",
        "http://1.2.3.4.5/",
        "http://0x7f000001ff/",
        "http://127.0.0.1%00.example/",
        "http://a%2Fb/",
    ] {
        assert!(Url::parse(url).is_err(), "{url} is no URL");
    }
}

#[tokio::test]
async fn only_listed_ports_are_called() {
    let names = names();
    let server = Server::start("127.0.0.2", |_| ok("text/plain", "hello")).await;
    let url = format!("http://public.example:{}/", server.address.port());
    assert_eq!(
        get(&client(&names, &[server.address.port()], json!({})), &url).await.unwrap(),
        "hello"
    );
    let usual = client(&names, &[80, 443], json!({}));
    for port in [server.address.port(), 21, 22, 25, 110, 143, 2375, 3306, 5432, 6379, 9200, 11211] {
        let url = format!("http://public.example:{port}/");
        assert_refused(get(&usual, &url).await, &url);
    }
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_name_that_changes_its_mind_changes_nothing() {
    let (canary, names) = (Canary::start().await, names());
    // The same port at both addresses, so that only the address decides.
    let port = canary.address.port();
    let server = Server::start_at(("127.0.0.2", port), |_| ok("text/plain", "public")).await;
    let url = format!("http://rebind.example:{port}/");
    let first = client(&names, &[port], json!({}));
    assert_eq!(get(&first, &url).await.unwrap(), "public");
    assert_eq!(
        names.asked("rebind.example"),
        1,
        "nobody asks between the check and the connection"
    );
    // Now the name says otherwise.
    assert_refused(get(&first, &url).await, &url);
    assert_eq!(names.asked("rebind.example"), 2);
    assert_eq!(server.seen().len(), 1);
    canary.assert_untouched(&url).await;
}

#[tokio::test]
async fn no_redirect_leads_where_no_request_may_go() {
    let (canary, names) = (Canary::start().await, names());
    let inside = canary.address.port();
    let server = Server::start("127.0.0.2", |request| {
        let to = request.line().trim_start_matches("GET /?to=");
        redirect(302, to)
    })
    .await;
    let client = client(&names, &[server.address.port(), inside], json!({}));
    let own = server.address.port();
    for to in [
        format!("http://127.0.0.1:{inside}/"),
        format!("//127.1:{inside}/"),
        format!("http://2130706433:{inside}/"),
        format!("http://[::ffff:127.0.0.1]:{inside}/"),
        format!("http://loop.example:{inside}/"),
        format!("http://mixed.example:{inside}/"),
        format!("http://public.example@127.0.0.1:{inside}/"),
        format!("http://u:p@public.example:{own}/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://public.example:6379/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "gopher://public.example/".to_owned(),
    ] {
        let url = format!("http://public.example:{own}/?to={to}");
        assert_refused(get(&client, &url).await, &url);
        canary.assert_untouched(&url).await;
    }
    // A name that is public for the first request and private for the redirect back to it.
    let names = names.with("turn.example", &[&["127.0.0.2"], &["127.0.0.1"]]);
    let url = format!("http://turn.example:{own}/?to=http://turn.example:{inside}/");
    assert_refused(get(&client, &url).await, &url);
    assert_eq!(names.asked("turn.example"), 2);
    canary.assert_untouched(&url).await;
}

#[tokio::test]
async fn what_is_refused_says_nothing_of_the_network() {
    let names = names();
    let client = client(&names, &[80], json!({}));
    let error = get(&client, "http://lan.example/?key=hidden").await.unwrap_err().to_string();
    assert_eq!(error, "the host lan.example is not on the public internet");
}

#[tokio::test]
async fn a_configured_endpoint_is_called_wherever_it_is() {
    let names = names();
    let server = Server::start("127.0.0.1", |_| ok("text/plain", "inside")).await;
    let other = Canary::start().await;
    let outgoing = Outgoing::with_lookup(Arc::new(names)).unwrap();
    let port = server.address.port();
    for host in ["127.0.0.1", "loop.example"] {
        let base = Url::parse(&format!("http://{host}:{port}/api")).unwrap();
        let client = outgoing.trusted(&base).unwrap();
        assert_eq!(get(&client, &format!("http://{host}:{port}/x")).await.unwrap(), "inside");
        // There, and nowhere else.
        for elsewhere in [
            format!("http://{host}:{}/", other.address.port()),
            format!("https://{host}:{port}/"),
            format!("http://localhost:{port}/"),
            "http://public.example/".to_owned(),
        ] {
            assert_refused(get(&client, &elsewhere).await, &elsewhere);
        }
    }
    other.assert_untouched("a client of another endpoint").await;
}

#[tokio::test]
async fn a_configured_endpoint_cannot_send_elsewhere() {
    let other = Canary::start().await;
    let to = format!("http://{}/", other.address);
    let server = Server::start("127.0.0.1", move |_| redirect(302, &to)).await;
    let base = Url::parse(&server.url("/")).unwrap();
    let client = Outgoing::new().unwrap().trusted(&base).unwrap();
    let answer = client.send(Request::get(base)).await.unwrap();
    assert_eq!(answer.status(), 302);
    assert_eq!(server.seen().len(), 1);
    other.assert_untouched("a redirect").await;
}
