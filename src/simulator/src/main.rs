//! Runs the simulated provider by itself: `tollway-simulator [--listen ADDR] [--rate TPS] [--key K]`.
//!
//! Prints `READY http://ADDR` once it accepts connections, and ends on ctrl-c.

use std::io::{self, Write};

use tokio::net::TcpListener;
use tollway_simulator::{Options, Simulator};

const USAGE: &str = "usage: tollway-simulator [--listen ADDR] [--rate TOKENS_PER_SECOND] [--key K]";

fn wrong(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{message}\n{USAGE}"))
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let mut options = Options { journal: 0, ..Options::default() };
    let mut listen = "127.0.0.1:0".to_owned();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value =
            args.next().ok_or_else(|| wrong(&format!("{arg} is unknown or has no value")))?;
        match arg.as_str() {
            "--listen" => listen = value,
            "--rate" => match value.parse::<f64>() {
                Ok(rate) if rate.is_finite() && rate > 0.0 => {
                    options.tokens_per_second = Some(rate);
                }
                _ => return Err(wrong("--rate must be a number above 0")),
            },
            "--key" => options.required_key = Some(value),
            _ => return Err(wrong(&format!("{arg} is unknown"))),
        }
    }
    let simulator = Simulator::serve(TcpListener::bind(listen).await?, options)?;
    writeln!(io::stdout().lock(), "READY {}", simulator.base_url())?;
    tokio::signal::ctrl_c().await?;
    simulator.stop().await;
    Ok(())
}
