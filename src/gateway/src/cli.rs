//! The command line.

mod import;
mod release;
mod spend;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::start;

/// One OpenAI-compatible endpoint in front of every model provider: keys, limits, cost and caching
/// in one process.
///
/// Without a config file it serves every provider whose usual key is in the environment
/// (OPENAI_API_KEY: `openai/*`, ANTHROPIC_API_KEY: `anthropic/*` ...) and the built-in simulated
/// provider as `demo/chat`, `demo/echo`, `demo/slow`, `demo/tools` and `demo/think`, which needs no
/// key at all. With one, it serves what the file says; LiteLLM's config.yaml is accepted as it is.
#[derive(Debug, Parser)]
#[command(
    name = "tollway",
    version,
    after_help = "\
Examples:
  tollway                                   serve on 127.0.0.1:4000 with nothing to configure
  tollway serve -c config.yaml              serve what a LiteLLM config says
  tollway check -c config.yaml              report every mistake in it, with its line
  tollway check -c config.yaml --model gpt-4o   explain where calls to gpt-4o go and what they cost
  tollway spend --by team --since 30d       what each team has spent (--format csv, json)
  tollway import litellm --database-url ... --dry-run   what would come over from a LiteLLM
  tollway release -c config.yaml            what gateways hold of shared budgets, also dead ones

Environment:
  TOLLWAY_MASTER_KEY, LITELLM_MASTER_KEY    the key that may do everything (else one is made)
  TOLLWAY_LOG                               level of the gateway's own messages: error ... trace
  SSL_CERT_FILE                             certificates to trust instead of the system's
A file `.env` in the working folder is read; the real environment wins over it.
SIGHUP, or a change of the file, reloads the config; SIGTERM lets requests end and stops."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve (the default)
    Serve(ServeArgs),
    /// Check a config file as the start would, and report every mistake
    Check(CheckArgs),
    /// Show what was spent, by team, key, user, model and so on
    Spend(spend::SpendArgs),
    /// Take over keys, users, teams and what they have spent from another gateway
    #[command(subcommand)]
    Import(import::From),
    /// Let go of what a gateway that is gone for good has claimed of shared budgets
    Release(release::ReleaseArgs),
}

/// How to serve.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The config file (LiteLLM's config.yaml, with Tollway's own sections beside it)
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The address to listen on, instead of the config's; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// The data folder (master key, database, journal), instead of the config's `data` or
    /// ./tollway-data; made with mode 0700
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

/// What to check.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The config file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Explain the route, deployments, price and limits of this model
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
}

/// Runs the command that was given.
pub(crate) fn run() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        None => start::serve(&cli.serve),
        Some(Command::Serve(args)) => start::serve(&args),
        Some(Command::Check(args)) => start::check(&args),
        Some(Command::Spend(args)) => spend::run(&args),
        Some(Command::Import(from)) => import::run(&from),
        Some(Command::Release(args)) => release::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say_error(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Runs what a command waits for.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, start::StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| start::StartError::new(format!("cannot start threads: {error}")))?;
    Ok(runtime.block_on(work))
}

/// Prints for whoever sits at the terminal.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody is left to tell when stdout is closed.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

fn say_error(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "tollway: {text}");
}
