//! JavaScript: QuickJS, with `console`, `files` and nothing else of the outside world.
//!
//! Its own limits make an exception of what would otherwise be a signal. Time is the supervisor's:
//! QuickJS does not look at the clock within one operation on large numbers.

use std::fs;
use std::io::{Write, stderr, stdout};
use std::path::Path;

use rquickjs::context::EvalOptions;
use rquickjs::function::Func;
use rquickjs::promise::MaybePromise;
use rquickjs::{
    CatchResultExt, CaughtError, Context, Ctx, Exception, Function, Object, Promise, Runtime,
    TypedArray, Value,
};

/// Well below the stack that the process has.
const STACK: usize = 1 << 20;

/// What programs see of us, made of the four functions that it is called with.
const PRELUDE: &str = include_str!("prelude.js");

/// Runs a program and returns its exit code.
pub(super) fn run(program: &[u8], memory: u64) -> i32 {
    match evaluate(program, memory) {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(stderr(), "{}", error.trim_end());
            1
        }
    }
}

fn evaluate(program: &[u8], memory: u64) -> Result<(), String> {
    let program = str::from_utf8(program).map_err(|_| "the program is not UTF-8")?;
    let runtime = Runtime::new().map_err(|error| error.to_string())?;
    runtime.set_memory_limit(usize::try_from(memory).unwrap_or(usize::MAX));
    runtime.set_max_stack_size(STACK);
    let context = Context::full(&runtime).map_err(|error| error.to_string())?;
    context.with(|ctx| evaluate_in(&ctx, program).catch(&ctx).map_err(|error| error.to_string())?)
}

/// Evaluates a program and shows its value. What it throws is shown in its own words, if it can be.
fn evaluate_in(ctx: &Ctx<'_>, program: &str) -> rquickjs::Result<Result<(), String>> {
    let options = |name: &str| {
        let mut options = EvalOptions::default();
        options.filename = Some(name.to_owned());
        options
    };
    let prelude: Function = ctx.eval_with_options(PRELUDE, options("prelude.js"))?;
    let host = Object::new(ctx.clone())?;
    host.set("write", Func::from(write))?;
    host.set("readText", Func::from(read_text))?;
    host.set("readBytes", Func::from(read_bytes))?;
    host.set("list", Func::from(list))?;
    host.set("writeText", Func::from(write_text))?;
    host.set("append", Func::from(append))?;
    let shows: Object = prelude.call((host,))?;
    let (value, error): (Function, Function) = (shows.get("value")?, shows.get("error")?);

    match last_value(ctx, program, options("program.js")).catch(ctx) {
        Ok(last) => value.call((last,)).map(Ok),
        Err(CaughtError::Exception(thrown)) => error.call((thrown.into_value(),)).map(Err),
        Err(CaughtError::Value(thrown)) => error.call((thrown,)).map(Err),
        Err(CaughtError::Error(error)) => Err(error),
    }
}

/// Runs a program, and all it leaves to be done later, and gives its last value.
fn last_value<'js>(
    ctx: &Ctx<'js>,
    program: &str,
    mut options: EvalOptions,
) -> rquickjs::Result<Value<'js>> {
    options.strict = false;
    options.promise = true;
    let done: Promise = ctx.eval_with_options(program, options)?;
    let value: MaybePromise = finish(ctx, done.finish::<Object>())?.get("value")?;
    let value = finish(ctx, value.finish())?;
    while ctx.execute_pending_job() {}
    Ok(value)
}

/// Says in the program's words that nothing is left to be done.
fn finish<T>(ctx: &Ctx<'_>, finished: rquickjs::Result<T>) -> rquickjs::Result<T> {
    match finished {
        Err(rquickjs::Error::WouldBlock) => {
            Err(Exception::throw_message(ctx, "the program waits for what never happens"))
        }
        finished => finished,
    }
}

fn write(to_stderr: bool, text: String) {
    // A closed pipe is the supervisor's way to end us, not the program's concern.
    let _ = if to_stderr {
        stderr().lock().write_all(text.as_bytes())
    } else {
        stdout().lock().write_all(text.as_bytes())
    };
}

/// Only the working folder itself. Landlock would refuse the rest in any case.
fn path<'a>(ctx: &Ctx<'_>, name: &'a str) -> rquickjs::Result<&'a Path> {
    if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
        return Err(Exception::throw_message(ctx, &format!("{name:?} is not the name of a file")));
    }
    Ok(Path::new(name))
}

fn failed(ctx: &Ctx<'_>, name: &str, error: &std::io::Error) -> rquickjs::Error {
    Exception::throw_message(ctx, &format!("{name}: {error}"))
}

fn read_text(ctx: Ctx<'_>, name: String) -> rquickjs::Result<String> {
    fs::read_to_string(path(&ctx, &name)?).map_err(|error| failed(&ctx, &name, &error))
}

fn read_bytes(ctx: Ctx<'_>, name: String) -> rquickjs::Result<TypedArray<'_, u8>> {
    let bytes = fs::read(path(&ctx, &name)?).map_err(|error| failed(&ctx, &name, &error))?;
    TypedArray::new(ctx, bytes)
}

fn write_text(ctx: Ctx<'_>, name: String, text: String) -> rquickjs::Result<()> {
    fs::write(path(&ctx, &name)?, text).map_err(|error| failed(&ctx, &name, &error))
}

/// Adds bytes to a file. The script gives a large array in pieces.
fn append(ctx: Ctx<'_>, name: String, bytes: Vec<u8>) -> rquickjs::Result<()> {
    let file = fs::OpenOptions::new().append(true).open(path(&ctx, &name)?);
    file.and_then(|mut file| file.write_all(&bytes)).map_err(|error| failed(&ctx, &name, &error))
}

fn list(ctx: Ctx<'_>) -> rquickjs::Result<Vec<String>> {
    let folder = fs::read_dir(".").map_err(|error| failed(&ctx, "the working folder", &error))?;
    let mut names: Vec<String> =
        folder.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}
