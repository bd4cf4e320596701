//! `listen` and `server` as written.

use std::path::PathBuf;
use std::time::Duration;

use super::super::listen::Address;
use super::super::reader::Fields;
use super::super::yaml::Value;

/// `listen`: an address alone, or a mapping.
#[derive(Debug, Default)]
pub(crate) struct FileListen {
    /// `address`: `127.0.0.1:4000` by default. `0.0.0.0:4000` is every address of the machine.
    pub(crate) address: Option<Address>,
    /// `tls`: `cert` and `key`, the paths of PEM files. Without it, plain HTTP.
    pub(crate) tls: Option<FileTls>,
}

/// `listen.tls`
#[derive(Debug, Default)]
pub(crate) struct FileTls {
    /// `cert`: the certificate and its chain.
    pub(crate) cert: Option<PathBuf>,
    /// `key`: its private key.
    pub(crate) key: Option<PathBuf>,
}

/// `server`: what a request may be, and how long anything may take.
#[derive(Debug, Default)]
pub(crate) struct FileServer {
    /// `request_body_bytes_max`: how large the body of a model call may be. Default 50 MiB.
    pub(crate) request_body_bytes_max: Option<u64>,
    /// `request_header_bytes_max`: how large a request's head may be. Default 64 KiB.
    pub(crate) request_header_bytes_max: Option<u64>,
    /// `body_memory_bytes_max`: how much all bodies that are being served may take together.
    /// Default 1 GiB.
    pub(crate) body_memory_bytes_max: Option<u64>,
    /// `body_timeout`: how long a request's body may take to arrive. Default 30 s.
    pub(crate) body_timeout: Option<Duration>,
    /// `connect_timeout`: how long connecting to a provider may take, TLS included. Default 10 s.
    pub(crate) connect_timeout: Option<Duration>,
    /// `first_byte_timeout`: how long a streamed answer may take to begin, where no
    /// `stream_timeout` says otherwise. Default 5 minutes.
    pub(crate) first_byte_timeout: Option<Duration>,
    /// `idle_timeout`: how long a stream may be silent. Default 2 minutes.
    pub(crate) idle_timeout: Option<Duration>,
    /// `total_timeout`: how long an answer may take as a whole, where no `timeout` says otherwise.
    /// Default 10 minutes.
    pub(crate) total_timeout: Option<Duration>,
    /// `drain_timeout`: how long requests may go on after SIGTERM. Default 30 s.
    pub(crate) drain_timeout: Option<Duration>,
}

pub(super) fn read_listen(fields: &mut Fields<'_>) -> FileListen {
    let Some(node) = fields.take("listen") else { return FileListen::default() };
    let path = fields.path("listen");
    if let Value::Scalar { .. } = node.value {
        let address = fields.reader.parsed(node, &path, Address::WANTED, |text| text.parse().ok());
        return FileListen { address, tls: None };
    }
    let read = |fields: &mut Fields<'_>| FileListen {
        address: fields.parsed("address", Address::WANTED, |text| text.parse().ok()),
        tls: fields.section("tls", &[], |fields| FileTls {
            cert: fields.text("cert").map(PathBuf::from),
            key: fields.text("key").map(PathBuf::from),
        }),
    };
    fields.reader.fields(node, &path, &[], read).unwrap_or_default()
}

pub(super) fn read_server(fields: &mut Fields<'_>) -> FileServer {
    FileServer {
        request_body_bytes_max: fields.bytes("request_body_bytes_max"),
        request_header_bytes_max: fields.bytes("request_header_bytes_max"),
        body_memory_bytes_max: fields.bytes("body_memory_bytes_max"),
        body_timeout: fields.timeout("body_timeout"),
        connect_timeout: fields.timeout("connect_timeout"),
        first_byte_timeout: fields.timeout("first_byte_timeout"),
        idle_timeout: fields.timeout("idle_timeout"),
        total_timeout: fields.timeout("total_timeout"),
        drain_timeout: fields.timeout("drain_timeout"),
    }
}
