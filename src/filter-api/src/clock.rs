//! The time, as a value that tests can set.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// A time in whole milliseconds, the largest number where they are too many.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Tells the time. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    manual: Option<Arc<Mutex<Manual>>>,
}

#[derive(Debug)]
struct Manual {
    now: Instant,
    unix: Duration,
}

impl Clock {
    /// The machine's clocks: monotonic for durations, wall time for dates.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands still until [`Clock::advance`] moves it.
    pub fn manual() -> Self {
        // 2026-01-01T00:00:00Z, so that tests print dates that look like dates.
        let manual = Manual { now: Instant::now(), unix: Duration::from_secs(1_767_225_600) };
        Self { manual: Some(Arc::new(Mutex::new(manual))) }
    }

    /// Monotonic time: what windows, deadlines and latencies are measured in. It is not moved by
    /// somebody setting the machine's date.
    pub fn now(&self) -> Instant {
        match &self.manual {
            Some(manual) => manual.lock().now,
            None => Instant::now(),
        }
    }

    /// Wall time since the Unix epoch: what goes into logs and answers.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the machine")]
    pub fn unix(&self) -> Duration {
        match &self.manual {
            Some(manual) => manual.lock().unix,
            None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }

    /// The same in milliseconds: what databases and documents have.
    pub fn unix_ms(&self) -> u64 {
        millis(self.unix())
    }

    /// Moves a manual clock forward. A system clock is left alone.
    pub fn advance(&self, by: Duration) {
        if let Some(manual) = &self.manual {
            let mut manual = manual.lock();
            manual.now += by;
            manual.unix += by;
        }
    }

    /// Sets a manual clock's wall time, as somebody does who sets the machine's date. A system
    /// clock is left alone.
    pub fn set(&self, unix: Duration) {
        if let Some(manual) = &self.manual {
            manual.lock().unix = unix;
        }
    }
}
