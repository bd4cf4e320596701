//! Histograms of whole numbers.

use prometheus::proto;

/// How many buckets a histogram may have.
pub(super) const BUCKETS_MAX: usize = 18;

/// Where a histogram's buckets end, and how many of the counted unit go into one of the shown.
#[derive(Debug)]
pub(super) struct Buckets {
    bounds: &'static [f64],
    unit: f64,
}

/// LiteLLM's buckets for all latencies.
pub(super) static LATENCY: Buckets = Buckets {
    bounds: &[
        0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
        420.0, 600.0,
    ],
    unit: 1e9,
};

// The rest are those of OpenTelemetry's semantic conventions for generative AI.

pub(super) static GENAI_TOKENS: Buckets = Buckets {
    bounds: &[
        1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0,
        4194304.0, 16777216.0, 67108864.0,
    ],
    unit: 1.0,
};

pub(super) static GENAI_DURATION: Buckets = Buckets {
    bounds: &[
        0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
    ],
    unit: 1e9,
};

pub(super) static GENAI_FIRST_TOKEN: Buckets = Buckets {
    bounds: &[
        0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    ],
    unit: 1e9,
};

pub(super) static GENAI_PER_TOKEN: Buckets = Buckets {
    bounds: &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5],
    unit: 1e9,
};

/// How often a value fell into which bucket. Buckets are counted apart and added up when read, so
/// that the count always is their sum.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    counts: [u64; BUCKETS_MAX],
    sum: u64,
}

impl Histogram {
    /// Counts one value, in the unit that is counted: nanoseconds or tokens.
    pub(super) fn observe(&mut self, buckets: &Buckets, value: u64) {
        let shown = value as f64 / buckets.unit;
        let bucket = buckets.bounds.partition_point(|bound| *bound < shown);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
            self.sum = self.sum.saturating_add(value);
        }
    }

    pub(super) fn sum(&self) -> u64 {
        self.sum
    }

    /// How many values fell into each bucket.
    pub(super) fn counts(&self) -> [u64; BUCKETS_MAX] {
        self.counts
    }
}

impl Buckets {
    /// What fell into each bucket, and the sum of it all, as Prometheus reads it.
    pub(super) fn show(&self, counts: [u64; BUCKETS_MAX], sum: u128) -> proto::Histogram {
        let mut below = 0;
        let buckets = self.bounds.iter().zip(counts).map(|(bound, count)| {
            below += count;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(below);
            bucket
        });
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(counts.iter().sum());
        histogram.set_sample_sum(sum as f64 / self.unit);
        histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_values_fall_into_the_bucket_they_do_not_exceed() {
        let check = |nanos: u64, expect: usize| {
            let mut histogram = Histogram::default();
            histogram.observe(&LATENCY, nanos);
            let hit = histogram.counts.iter().position(|count| *count == 1);
            assert_eq!(hit, Some(expect), "{nanos}");
        };
        check(0, 0);
        check(5_000_000, 0);
        check(5_000_001, 1);
        check(600_000_000_000, 16);
        check(600_000_000_001, 17);
        check(u64::MAX, 17);
    }

    #[test]
    fn buckets_fit() {
        for buckets in
            [&LATENCY, &GENAI_TOKENS, &GENAI_DURATION, &GENAI_FIRST_TOKEN, &GENAI_PER_TOKEN]
        {
            assert!(buckets.bounds.len() < BUCKETS_MAX);
            assert!(buckets.bounds.is_sorted());
        }
    }
}
