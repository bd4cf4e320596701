//! A Redis cluster of a test's own: three servers, each with a third of the keys.

use tokio::process::Command;

use crate::gateway::{Folder, PATIENCE};
use crate::servers::{Server, free_port, redis_server, start};
use crate::setup::within;

/// Three servers on free ports of 127.0.0.1.
pub struct RedisCluster {
    _servers: Vec<Server>,
    _folders: Vec<Folder>,
    /// Their ports.
    pub ports: Vec<u16>,
}

impl RedisCluster {
    /// Starts three of Debian's `redis-server` and makes them one.
    ///
    /// # Panics
    /// When it is not installed.
    pub async fn start() -> RedisCluster {
        let (mut servers, mut folders, mut ports) = (Vec::new(), Vec::new(), Vec::new());
        let mut buses = Vec::new();
        for _ in 0..3 {
            let (folder, port, bus) = (Folder::fresh(), free_port(), free_port());
            let mut command = Command::new(redis_server());
            command
                .args(["--port", &port.to_string(), "--cluster-port", &bus.to_string()])
                .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
                .args(["--cluster-enabled", "yes", "--dir"])
                .arg(&folder.0);
            servers.push(start(command, |line| line.contains("eady to accept connections")).await);
            folders.push(folder);
            ports.push(port);
            buses.push(bus);
        }
        for (at, slots) in ["0 5460", "5461 10922", "10923 16383"].into_iter().enumerate() {
            let done = ask(ports[at], &format!("CLUSTER ADDSLOTSRANGE {slots}")).await;
            assert_eq!(done, "OK");
            assert_eq!(ask(ports[at], &format!("CLUSTER SET-CONFIG-EPOCH {}", at + 1)).await, "OK");
        }
        for (port, bus) in ports.iter().zip(&buses).skip(1) {
            let meet = format!("CLUSTER MEET 127.0.0.1 {port} {bus}");
            assert_eq!(ask(ports[0], &meet).await, "OK");
        }
        let whole = async {
            for port in &ports {
                loop {
                    let state = ask(*port, "CLUSTER INFO").await;
                    let is_whole = ["cluster_state:ok", "cluster_known_nodes:3", "cluster_size:3"];
                    if is_whole.iter().all(|line| state.contains(line)) {
                        break;
                    }
                }
            }
        };
        within(PATIENCE, "the servers find each other", whole).await;
        RedisCluster { _servers: servers, _folders: folders, ports }
    }

    /// What each of them says to a command.
    pub async fn each(&self, command: &str) -> Vec<String> {
        let mut answers = Vec::new();
        for port in &self.ports {
            answers.push(ask(*port, command).await);
        }
        answers
    }
}

/// What a server says to a command.
async fn ask(port: u16, command: &str) -> String {
    let asked = Command::new("redis-cli")
        .args(["-p", &port.to_string()])
        .args(command.split(' '))
        .output()
        .await
        .expect("redis-cli comes with redis-server");
    String::from_utf8_lossy(&asked.stdout).trim().to_owned()
}
