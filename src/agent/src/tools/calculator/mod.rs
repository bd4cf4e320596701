//! `calculator` works out arithmetic exactly, converts units and reckons with dates.
//!
//! Arithmetic and units are fend's, on a thread of its own that gives up when it is told to: nobody
//! else waits for `10^10^10`. What fend has beyond a calculator (functions, variables, texts, shifts)
//! is refused: it recurses without end, doubles without end or does not listen. Exchange rates and dice
//! it has none.

mod dates;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tollway_filter_api::Clock;

use self::dates::Date;
use super::{Services, Settings, SettingsError, arguments};
use crate::tool::{Call, Called, Output, Risk, Tool, ToolError, ToolSpec};

/// The longest expression. It bounds how deep one can nest: fend's parser recurses.
const EXPRESSION_BYTES_MAX: usize = 500;

/// The longest result.
const RESULT_BYTES_MAX: usize = 10_000;

/// How long a calculation may take.
const WITHIN: Duration = Duration::from_secs(2);

/// How many run at once. One that does not listen keeps its place: it can never take more than these.
const RUNNING_MAX: usize = 4;

/// The deepest nesting of [`EXPRESSION_BYTES_MAX`] takes less than 16 MiB, unoptimised.
const STACK_BYTES: usize = 64 << 20;

/// When less of the stack is left, a calculation ends.
const STACK_BYTES_LEFT: usize = 24 << 20;

/// What the tool takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// What to work out: `(1/3 + 2^0.5) * 7`, `5 km/h to m/s`, `100 °F to °C`, `20% of 50`,
    /// `17 mod 5`, `50!`, `pi to 5 dp`, `255 to hex`, `2024-01-31 + 2 weeks`,
    /// `2026-12-25 - today`. One expression, without variables.
    expression: String,
}

/// The tool.
pub struct Calculator {
    spec: ToolSpec,
    clock: Clock,
    places: Arc<Semaphore>,
}

/// Makes it: it needs no settings.
pub(super) fn build(
    _settings: &Settings,
    services: &Services,
) -> Result<Vec<Arc<dyn Tool>>, SettingsError> {
    Ok(vec![Arc::new(Calculator::new(services.clock.clone()))])
}

impl Calculator {
    /// A calculator that knows what day it is.
    pub fn new(clock: Clock) -> Calculator {
        let description = "Works out arithmetic exactly, converts units, and reckons with dates \
                           (UTC). A result with `approx.` is rounded; at most its first 15 digits are right.";
        let spec = ToolSpec {
            name: "calculator".into(),
            description: description.into(),
            parameters: arguments::schema::<Arguments>(),
            risk: Risk::Read,
            is_idempotent: true,
        };
        Calculator { spec, clock, places: Arc::new(Semaphore::new(RUNNING_MAX)) }
    }

    async fn evaluate(&self, expression: &str) -> Result<String, ToolError> {
        if expression.len() > EXPRESSION_BYTES_MAX {
            let message = format!("expression: longer than {EXPRESSION_BYTES_MAX} bytes");
            return Err(ToolError::Arguments(message));
        }
        if let Some(done) = dates::evaluate(expression, Date::today(self.clock.unix())) {
            return done.map_err(ToolError::Arguments);
        }
        check(expression)?;
        let told = Told(Arc::default());
        let calculation = async {
            let closed = |_| unavailable("no calculation can be started");
            let place = self.places.clone().acquire_owned().await.map_err(closed)?;
            let result = start(expression.to_owned(), told.0.clone(), place)?;
            result.await.map_err(|_| ToolError::Failed("the calculation broke off".to_owned()))
        };
        let done = tokio::time::timeout(WITHIN, calculation).await;
        let result = done.map_err(|_| ToolError::TimedOut(WITHIN))??;
        let result = result.map_err(ToolError::Failed)?;
        if result.len() > RESULT_BYTES_MAX {
            return Err(ToolError::Failed(format!(
                "the result has {} digits; ask for fewer, with `to 20 sf`",
                result.len()
            )));
        }
        Ok(result)
    }
}

impl Tool for Calculator {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call<'a>(&'a self, call: Call<'a>) -> Called<'a> {
        Box::pin(async move {
            let Arguments { expression } = arguments::read(call.arguments)?;
            self.evaluate(&expression).await.map(Output::text)
        })
    }
}

fn unavailable(message: &str) -> ToolError {
    ToolError::Unavailable { code: "calculator_unavailable", message: message.to_owned() }
}

/// Refuses what is more than a calculation. `==` and `!=` are calculations.
fn check(expression: &str) -> Result<(), ToolError> {
    let without = expression.replace("==", "").replace("!=", "");
    match without.chars().find(|c| "\\λ:;='\"<>@#\n".contains(*c)) {
        Some(c) => Err(ToolError::Arguments(format!(
            "expression: {c:?} is not supported: no variables, functions, texts, shifts"
        ))),
        None => Ok(()),
    }
}

/// Tells a calculation to end when it is dropped.
struct Told(Arc<AtomicBool>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asked by fend again and again whether to end.
struct Interrupt {
    told: Arc<AtomicBool>,
    /// Where the stack begins.
    base: usize,
}

impl Interrupt {
    /// Roughly where the stack ends just now.
    fn here() -> usize {
        let local = 0_u8;
        std::ptr::from_ref(&local).addr()
    }
}

impl fend_core::Interrupt for Interrupt {
    fn should_interrupt(&self) -> bool {
        let used = self.base.abs_diff(Interrupt::here());
        self.told.load(Ordering::Relaxed) || used > STACK_BYTES - STACK_BYTES_LEFT
    }
}

/// Starts a calculation on a thread of its own.
fn start(
    expression: String,
    told: Arc<AtomicBool>,
    place: OwnedSemaphorePermit,
) -> Result<oneshot::Receiver<Result<String, String>>, ToolError> {
    let (sender, receiver) = oneshot::channel();
    let work = move || {
        let interrupt = Interrupt { told, base: Interrupt::here() };
        let mut context = fend_core::Context::new();
        let result = fend_core::evaluate_with_interrupt(&expression, &mut context, &interrupt);
        let result = result.map(|result| result.get_main_result().to_owned());
        drop(place);
        // Nobody may be waiting any more.
        let _ = sender.send(result);
    };
    let builder = thread::Builder::new().name("calculator".to_owned()).stack_size(STACK_BYTES);
    match builder.spawn(work) {
        Ok(_) => Ok(receiver),
        Err(_) => Err(unavailable("no thread can be started")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn evaluate(expression: &str) -> Result<String, ToolError> {
        Calculator::new(Clock::manual()).evaluate(expression).await
    }

    async fn check(expression: &str, expect: &str) {
        assert_eq!(evaluate(expression).await.as_deref(), Ok(expect), "{expression}");
    }

    #[tokio::test]
    async fn arithmetic_is_exact() {
        check("0.1 + 0.2", "0.3").await;
        check("0.1 + 0.2 == 0.3", "true").await;
        check("2^200", "1606938044258990275541962092341162602522202993782792835301376").await;
        check("1/3 + 1/6 to fraction", "1/2").await;
        check("1234567890123456789 * 987654321", "1219326311248285321112635269").await;
        check("25!", "15511210043330985984000000").await;
        check("17 mod 5", "2").await;
        check("20% of 50", "10").await;
        check("10 choose 3", "120").await;
        check("-2^2", "-4").await;
        check("(2 + 3) * 4 - 6 / 3", "18").await;
        check("2^0.5", "approx. 1.4142135624").await;
        check("sin(pi/2)", "1").await;
        check("255 to hex", "ff").await;
        check("1.005 * 1000 to 2 dp", "1005").await;
    }

    #[tokio::test]
    async fn units_are_converted() {
        check("1 day in seconds", "86400 seconds").await;
        check("5 km/h to m/s", "approx. 1.3888888889 m / s").await;
        check("1 GiB to MB", "1073.741824 MB").await;
        check("212 °F to °C", "100 °C").await;
        check("3 feet + 4 inches to cm", "101.6 cm").await;
        assert!(evaluate("5 kg to m").await.is_err(), "not a length");
        assert!(evaluate("5 USD to EUR").await.is_err(), "nobody is asked for rates");
    }

    #[tokio::test]
    async fn dates_are_reckoned_with() {
        check("2024-02-28 + 2 days", "2024-03-01 (Friday)").await;
        check("2026-12-25 - today", "358 days").await;
        let error = evaluate("2023-02-29 + 1 day").await.unwrap_err();
        assert_eq!(error, ToolError::Arguments("there is no date 2023-02-29".to_owned()));
    }

    #[tokio::test]
    async fn there_is_no_chance_in_it() {
        for expression in ["roll d6", "sample d20"] {
            assert!(evaluate(expression).await.is_err(), "{expression}");
        }
    }

    #[tokio::test]
    async fn mistakes_are_told() {
        assert_eq!(evaluate("1/0").await, Err(ToolError::Failed("division by zero".to_owned())));
        assert!(matches!(evaluate("2 +").await, Err(ToolError::Failed(_))));
        let long = "1+".repeat(300);
        assert!(matches!(evaluate(&long).await, Err(ToolError::Arguments(_))));
        let digits = evaluate("pi to 20000 dp").await.unwrap_err().to_string();
        assert!(digits.contains("ask for fewer"), "{digits}");
    }

    #[tokio::test]
    async fn what_does_not_end_is_ended() {
        let calculator = Calculator::new(Clock::manual());
        let check = async |expression: &str| {
            let error = calculator.evaluate(expression).await.unwrap_err();
            assert_eq!(error, ToolError::TimedOut(WITHIN), "{expression}");
        };
        // All at once: none of them holds up the others.
        tokio::join!(
            check("10^10^10"),
            check("9^9^9^9"),
            check("1000000000!"),
            check("pi to 1000000000 dp")
        );
        // Each has given its place back.
        let all = u32::try_from(RUNNING_MAX).unwrap();
        let free = calculator.places.clone().acquire_many_owned(all);
        drop(tokio::time::timeout(Duration::from_secs(60), free).await.unwrap().unwrap());
    }

    #[tokio::test]
    async fn a_call_that_is_dropped_ends_what_it_has_begun() {
        let calculator = Calculator::new(Clock::manual());
        {
            let mut calling = Box::pin(calculator.evaluate("10^10^10"));
            let waited = tokio::time::timeout(Duration::from_millis(50), &mut calling).await;
            assert!(waited.is_err(), "it takes longer");
        }
        let all = u32::try_from(RUNNING_MAX).unwrap();
        let free = calculator.places.clone().acquire_many_owned(all);
        drop(tokio::time::timeout(Duration::from_secs(60), free).await.unwrap().unwrap());
    }

    #[tokio::test]
    async fn what_is_more_than_a_calculation_is_refused() {
        for expression in [
            "f = \\x. f x; f 1",
            "f = x: f x",
            "(λx. x x) (λx. x x)",
            "x => x",
            "a = 'aaaa'; a = a + a",
            "\"a\"",
            "1 << 1000000000000",
            "1 >> 5",
            "@noapprox 1",
        ] {
            let error = evaluate(expression).await.unwrap_err();
            assert!(matches!(&error, ToolError::Arguments(_)), "{expression}: {error}");
        }
    }

    #[tokio::test]
    async fn no_nesting_breaks_the_stack() {
        let n = EXPRESSION_BYTES_MAX;
        for expression in [
            "(".repeat(n / 2 - 1) + "1" + &")".repeat(n / 2 - 1),
            "(".repeat(n),
            "-".repeat(n - 1) + "1",
            "+".repeat(n - 1) + "1",
            "/".repeat(n - 1) + "1",
            "1".to_owned() + &"!".repeat(n - 1),
            "2^".repeat(n / 2 - 1) + "1",
            "2^-".repeat(n / 3 - 1) + "1",
            "-(".repeat(n / 2),
            "sin(".repeat(n / 4),
            "sqrt ".repeat(n / 5 - 1) + "2",
            "1%".repeat(n / 2),
            "f ".repeat(n / 2),
            "2".to_owned() + &" to m".repeat(n / 5 - 1),
        ] {
            assert!(expression.len() <= n);
            // Whatever comes of it.
            let _ = evaluate(&expression).await;
        }
    }

    /// fend itself, with what [`check`] would have refused: the guard of the stack holds.
    #[test]
    fn recursion_without_end_is_ended() {
        let (places, told) = (Arc::new(Semaphore::new(1)), Arc::default());
        let place = places.try_acquire_owned().unwrap();
        let result = start("f = \\x. f x + 1; f 1".to_owned(), told, place).unwrap();
        let error = result.blocking_recv().expect("the thread has ended").unwrap_err();
        assert!(error.contains("interrupted") || error.contains("recursion"), "{error}");
    }
}
