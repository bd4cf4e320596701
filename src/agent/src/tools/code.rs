//! `code` runs what the model has written, in Python, JavaScript or shell, in the sandbox.
//!
//! A language is there where the config asks for it and the sandbox has proved that it can lock it in.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tollway_filter_api::duration;
use tollway_sandbox::{Ending, File, Guest, Job, Level, Limits, Refused, Sandbox, Stream, Why};

use super::{Services, Settings, SettingsError, arguments};
use crate::keeper::Keeper;
use crate::tool::{Call, Called, Output, Risk, Scope, Tool, ToolError, ToolSpec};
use crate::toolbox::Missing;

/// Images that are given back as they are where nobody keeps files, and their bytes.
const INLINE_MAX: usize = 4;
const INLINE_BYTES_MAX: usize = 1 << 20;
/// A text file of at most so many bytes is shown.
const SHOWN_BYTES_MAX: usize = 8 * 1024;
/// Files that one call may bring.
const FILES_MAX: usize = 32;

/// `tools.code`: which languages there are, and what a program may use.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CodeSettings {
    /// Whether there is `code.python`: the system's `python3`. Default true.
    pub python: bool,
    /// Whether there is `code.javascript`: QuickJS. Default true.
    pub javascript: bool,
    /// Whether there is `code.shell`: `/bin/sh`. Default false.
    pub shell: bool,
    /// How long a program may take. Default `10s`.
    #[serde(deserialize_with = "duration::deserialize")]
    pub timeout: Duration,
    /// Processor time it may use. Default `5s`.
    #[serde(deserialize_with = "duration::deserialize")]
    pub cpu: Duration,
    /// Memory it may use. Default 256 MiB.
    pub memory_bytes: u64,
    /// What it may write into its folder. Default 32 MiB.
    pub disk_bytes: u64,
    /// What it may print. Default 256 KiB.
    pub output_bytes: u64,
    /// How many processes it may have. Default 32.
    pub processes: u64,
}

impl Default for CodeSettings {
    fn default() -> CodeSettings {
        let Limits { wall, cpu, memory, disk, processes, output, .. } = Limits::default();
        CodeSettings {
            python: true,
            javascript: true,
            shell: false,
            timeout: wall,
            cpu,
            memory_bytes: memory,
            disk_bytes: disk,
            output_bytes: output,
            processes,
        }
    }
}

impl CodeSettings {
    fn limits(&self) -> Limits {
        Limits {
            wall: self.timeout,
            cpu: self.cpu,
            memory: self.memory_bytes,
            disk: self.disk_bytes,
            output: self.output_bytes,
            processes: self.processes,
            ..Limits::default()
        }
    }
}

/// A language.
struct Language {
    name: &'static str,
    guest: Guest,
    description: &'static str,
    is_wanted: fn(&CodeSettings) -> bool,
    level: fn(&Sandbox) -> &Level,
}

const LANGUAGES: &[Language] = &[
    Language {
        name: "code.python",
        guest: Guest::Python,
        description: "Runs a Python 3 program (standard library) in a sandbox without network. What it \
                      prints is the result; files it writes into its folder are kept.",
        is_wanted: |settings| settings.python,
        level: |sandbox| &sandbox.status().python,
    },
    Language {
        name: "code.javascript",
        guest: Guest::JavaScript,
        description: "Runs JavaScript (ES2023, no Node and no network) in a sandbox. What `console.log` \
                      prints, and the value of the last expression, is the result. `files.read(name)` \
                      and `files.write(name, text)` reach its folder.",
        is_wanted: |settings| settings.javascript,
        level: |sandbox| &sandbox.status().javascript,
    },
    Language {
        name: "code.shell",
        guest: Guest::Shell,
        description: "Runs a script of /bin/sh in a sandbox without network. What it prints is the \
                      result; files it writes into its folder are kept.",
        is_wanted: |settings| settings.shell,
        level: |sandbox| &sandbox.status().shell,
    },
];

/// What the tool takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// The program, whole.
    code: String,
    /// Ids of files to have in the program's folder, under their names.
    #[serde(default)]
    files: Vec<String>,
}

/// A tool that runs one language.
struct Code {
    spec: ToolSpec,
    guest: Guest,
    limits: Limits,
    sandbox: Sandbox,
    keeper: Option<Arc<dyn Keeper>>,
}

/// Makes those whose language is wanted and locked in.
pub(super) fn build(
    settings: &Settings,
    services: &Services,
) -> Result<Vec<Arc<dyn Tool>>, SettingsError> {
    let (Some(code), Some(sandbox)) = (&settings.code, &services.sandbox) else {
        return Ok(Vec::new());
    };
    let is_there = |language: &&Language| {
        (language.is_wanted)(code) && !matches!((language.level)(sandbox), Level::Refused(_))
    };
    let make = |language: &Language| {
        let tool: Arc<dyn Tool> = Arc::new(Code {
            spec: ToolSpec {
                name: language.name.into(),
                description: language.description.into(),
                parameters: arguments::schema::<Arguments>(),
                risk: Risk::Exec,
                // It has no effect but its files, which are there again.
                is_idempotent: true,
            },
            guest: language.guest,
            limits: code.limits(),
            sandbox: sandbox.clone(),
            keeper: services.keeper.clone(),
        });
        tool
    };
    Ok(LANGUAGES.iter().filter(is_there).map(make).collect())
}

/// The languages that are wanted and cannot be locked in, and why.
pub(super) fn missing(settings: &Settings, services: &Services) -> Vec<(&'static str, Missing)> {
    let Some(code) = &settings.code else { return Vec::new() };
    let why = |language: &Language| match &services.sandbox {
        None => Some("the sandbox was not tried".to_owned()),
        Some(sandbox) => match (language.level)(sandbox) {
            Level::Refused(why) => Some(why.clone()),
            Level::Namespaces | Level::Landlock => None,
        },
    };
    LANGUAGES
        .iter()
        .filter(|language| (language.is_wanted)(code))
        .filter_map(|language| {
            let message = why(language)?;
            Some((language.name, Missing { code: UNAVAILABLE, message }))
        })
        .collect()
}

const UNAVAILABLE: &str = "sandbox_unavailable";

impl Tool for Code {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call<'a>(&'a self, call: Call<'a>) -> Called<'a> {
        Box::pin(async move {
            let Arguments { code, files } = arguments::read(call.arguments)?;
            let files = self.bring(call.scope, &files).await?;
            let job = Job { guest: self.guest, input: code.into(), files, limits: self.limits };
            let told = |_: Stream, bytes: &[u8]| (call.progress)(&String::from_utf8_lossy(bytes));
            let outcome = self.sandbox.run(job, told).await.map_err(|refused| match refused {
                Refused::Unavailable(message) => {
                    ToolError::Unavailable { code: UNAVAILABLE, message }
                }
                Refused::Busy => ToolError::RateLimited(Duration::from_secs(1)),
                error @ (Refused::TooLarge | Refused::Name(_)) => {
                    ToolError::Arguments(error.to_string())
                }
            })?;
            let mut content = String::from_utf8_lossy(&outcome.stdout).into_owned();
            let complaints = String::from_utf8_lossy(&outcome.stderr);
            if !complaints.trim().is_empty() {
                content.push_str(&format!("\n[stderr]\n{complaints}"));
            }
            let ended = ending(outcome.ending, &self.limits);
            if let Some(ended) = &ended {
                content.push_str(&format!("\n[{ended}]"));
            }
            let (mut ids, mut images) = (Vec::new(), Vec::new());
            for file in &outcome.files {
                self.leave(call.scope, file, &mut content, &mut ids, &mut images).await;
            }
            if outcome.files_left_out > 0 {
                content.push_str(&format!("\n[{} more files]", outcome.files_left_out));
            }
            let data = json!({
                "exit_code": match outcome.ending {
                    Ending::Exited(code) => Value::from(code),
                    _ => Value::Null,
                },
                "ended": ended,
                "images": images,
            });
            // A program that fails has told why: that is a result like any other.
            Ok(Output { content, data: Some(data), files: ids, ..Output::default() })
        })
    }
}

impl Code {
    /// The caller's files, for the program.
    async fn bring(&self, scope: &Scope, ids: &[String]) -> Result<Vec<File>, ToolError> {
        if ids.len() > FILES_MAX {
            return Err(ToolError::Arguments(format!("files: at most {FILES_MAX}")));
        }
        let mut files = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(keeper) = &self.keeper else {
                let message = "no files are kept here".to_owned();
                return Err(ToolError::Unavailable { code: "not_configured", message });
            };
            let (name, bytes) = keeper.read(&scope.owner, id).await?;
            files.push(File { name, bytes });
        }
        Ok(files)
    }

    /// Keeps a file that the program has left, or shows it where nobody keeps files.
    async fn leave(
        &self,
        scope: &Scope,
        file: &File,
        content: &mut String,
        ids: &mut Vec<Arc<str>>,
        images: &mut Vec<Value>,
    ) {
        let File { name, bytes } = file;
        let size = bytes.len();
        if let Some(kind) = image(bytes)
            && images.len() < INLINE_MAX
            && size <= INLINE_BYTES_MAX
        {
            let url = format!("data:image/{kind};base64,{}", STANDARD.encode(bytes));
            images.push(json!({"name": name, "url": url}));
        }
        let kept = match &self.keeper {
            Some(keeper) => Some(keeper.keep(&scope.owner, name, bytes.clone()).await),
            None => None,
        };
        match kept {
            Some(Ok(id)) => {
                content.push_str(&format!("\n[file {name}: {size} bytes, id {id}]"));
                ids.push(id);
            }
            Some(Err(error)) => {
                content.push_str(&format!("\n[file {name}: {size} bytes, not kept: {error}]"));
            }
            None => match std::str::from_utf8(bytes) {
                Ok(text) if size <= SHOWN_BYTES_MAX => {
                    content.push_str(&format!("\n[file {name}]\n{text}"));
                }
                _ => content.push_str(&format!("\n[file {name}: {size} bytes]")),
            },
        }
    }
}

/// What kind of image it is, by its first bytes.
fn image(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Some("png"),
        [0xff, 0xd8, 0xff, ..] => Some("jpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("webp"),
        _ => None,
    }
}

/// How a program ended that did not end well.
fn ending(ending: Ending, limits: &Limits) -> Option<String> {
    Some(match ending {
        Ending::Exited(0) => return None,
        Ending::Exited(code) => format!("exit code {code}"),
        Ending::Signalled(signal) => format!("ended by signal {signal}"),
        Ending::Killed(why) => match why {
            Why::Wall => format!("stopped after {} s", limits.wall.as_secs_f64()),
            Why::Cpu => format!("stopped after {} s of processor time", limits.cpu.as_secs_f64()),
            Why::Memory => format!("stopped: more than {} bytes of memory", limits.memory),
            Why::Disk => format!("stopped: more than {} bytes of files", limits.disk),
            Why::Processes => format!("stopped: more than {} processes", limits.processes),
            Why::Output => format!("stopped: more than {} bytes of output", limits.output),
        },
    })
}
