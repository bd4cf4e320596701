//! What is counted of agents and tools.

use std::time::Duration;

use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

use crate::run::Status;
use crate::tool::{Output, ToolError};

/// The instruments.
#[derive(Debug)]
pub struct AgentMetrics {
    began: IntCounter,
    stopped: IntCounterVec,
    /// Runs at work on this node.
    pub running: IntGauge,
    calls: IntCounterVec,
    seconds: HistogramVec,
    spend: prometheus::CounterVec,
    links: IntCounter,
}

impl AgentMetrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// Where a name is taken.
    pub fn new(registry: &Registry) -> prometheus::Result<AgentMetrics> {
        let metrics = AgentMetrics {
            began: IntCounter::new("tollway_agent_runs_total", "Agent runs that were begun.")?,
            stopped: IntCounterVec::new(
                Opts::new("tollway_agent_runs_stopped_total", "How agent runs stopped."),
                &["status"],
            )?,
            running: IntGauge::new("tollway_agent_runs_running", "Agent runs at work here.")?,
            calls: IntCounterVec::new(
                Opts::new("tollway_tool_calls_total", "Calls of tools, by what became of them."),
                &["tool", "outcome"],
            )?,
            seconds: HistogramVec::new(
                HistogramOpts::new("tollway_tool_call_seconds", "How long calls of tools took.")
                    .buckets(vec![0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]),
                &["tool"],
            )?,
            spend: prometheus::CounterVec::new(
                Opts::new("tollway_tool_spend_usd_total", "What calls of tools cost, in dollars."),
                &["tool"],
            )?,
            links: IntCounter::new(
                "tollway_agent_links_changed_total",
                "Links, images and tags in answers of agents that were changed by the policy.",
            )?,
        };
        registry.register(Box::new(metrics.began.clone()))?;
        registry.register(Box::new(metrics.stopped.clone()))?;
        registry.register(Box::new(metrics.running.clone()))?;
        registry.register(Box::new(metrics.calls.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.spend.clone()))?;
        registry.register(Box::new(metrics.links.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn began(&self) {
        self.began.inc();
    }

    pub(crate) fn changed_links(&self, count: u64) {
        self.links.inc_by(count);
    }

    pub(crate) fn stopped(&self, status: Status) {
        self.stopped.with_label_values(&[status.name()]).inc();
    }

    pub(crate) fn called(&self, tool: &str, called: &Result<Output, ToolError>, took: Duration) {
        let outcome = outcome(called);
        self.calls.with_label_values(&[tool, outcome]).inc();
        self.seconds.with_label_values(&[tool]).observe(took.as_secs_f64());
        if let Ok(output) = called
            && output.cost.0 > 0
        {
            self.spend.with_label_values(&[tool]).inc_by(output.cost.as_dollars());
        }
    }
}

/// What became of a call, in a word.
pub(crate) fn outcome(called: &Result<Output, ToolError>) -> &'static str {
    match called {
        Ok(output) if output.is_cached => "cached",
        Ok(_) => "ok",
        Err(ToolError::Arguments(_)) => "invalid_arguments",
        Err(ToolError::Refused(_)) => "refused",
        Err(ToolError::Unavailable { .. }) => "unavailable",
        Err(ToolError::RateLimited(_)) => "rate_limited",
        Err(ToolError::TimedOut(_)) => "timed_out",
        Err(ToolError::Failed(_)) => "failed",
    }
}
