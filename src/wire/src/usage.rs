//! The tokens of one model call, as the provider counted them.

use std::fmt;

use crate::price::Tier;

/// Defines the struct and what goes through all of its counts.
macro_rules! counts {
    ($(#[$of_usage:meta])* pub struct Usage { $($(#[$of_count:meta])* pub $count:ident: u64,)* }) => {
        $(#[$of_usage])*
        pub struct Usage {
            $($(#[$of_count])* pub $count: u64,)*
            /// How the provider says it served the call.
            pub served: Served,
        }

        impl Usage {
            /// What the counts are called, in the order of [`Usage::counts`].
            pub const NAMES: [&str; COUNTS] = [$(stringify!($count)),*];

            /// All counts.
            pub fn counts(self) -> [u64; COUNTS] {
                [$(self.$count),*]
            }

            /// All counts, to be set.
            pub fn counts_mut(&mut self) -> [&mut u64; COUNTS] {
                [$(&mut self.$count),*]
            }
        }
    };
}

/// How many counts there are.
const COUNTS: usize = 17;

// What is stored goes by the order of the counts: new ones go to the end.
counts! {
    /// Token counts of one call, in OpenAI's inclusive convention: `prompt_tokens` holds every
    /// input token, cached ones included, and `completion_tokens` every output token, reasoning
    /// included. The other fields say how many of those are of a kind that has its own price.
    ///
    /// Providers that count exclusively (Anthropic, Bedrock) are converted when they are decoded,
    /// so that cost, limits and metrics need to know one convention only.
    ///
    /// What is not tokens is counted beside them, where the provider or the request tells how much
    /// of it there was. It is billed beside the tokens; see [`crate::price::cost`].
    #[derive(Clone, Copy, Default, PartialEq, Eq)]
    pub struct Usage {
        /// All input tokens.
        pub prompt_tokens: u64,
        /// All output tokens.
        pub completion_tokens: u64,
        /// Input tokens read from the provider's prompt cache; part of `prompt_tokens`.
        pub cache_read_tokens: u64,
        /// Input tokens written to a prompt cache that lives five minutes (or the provider's only
        /// kind of cache); part of `prompt_tokens`.
        pub cache_write_tokens: u64,
        /// Input tokens written to a prompt cache that lives one hour; part of `prompt_tokens`.
        pub cache_write_1h_tokens: u64,
        /// Input tokens that are audio; part of `prompt_tokens`.
        pub audio_prompt_tokens: u64,
        /// Output tokens that are audio; part of `completion_tokens`.
        pub audio_completion_tokens: u64,
        /// Output tokens spent on thinking; part of `completion_tokens`.
        pub reasoning_tokens: u64,
        /// Web searches the provider ran by itself and bills apiece.
        pub web_searches: u64,
        /// Input tokens that are images; part of `prompt_tokens`.
        pub image_prompt_tokens: u64,
        /// Output tokens that are images; part of `completion_tokens`.
        pub image_completion_tokens: u64,
        /// What a ranking took, in units of a query with up to a hundred documents: Cohere's
        /// measure.
        pub search_units: u64,
        /// Images that were made.
        pub images: u64,
        /// Images that were sent.
        pub input_images: u64,
        /// Pixels of all images that were made.
        pub pixels: u64,
        /// Milliseconds of audio that was listened to or spoken, where the provider bills those and
        /// not tokens.
        pub audio_ms: u64,
        /// Characters that were spoken, where the provider bills those and not tokens.
        pub characters: u64,
    }
}

impl fmt::Debug for Usage {
    /// Counts that most calls do not have are shown only where they are not zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ALWAYS: usize = 9;
        let mut shown = f.debug_struct("Usage");
        for (at, (name, count)) in Usage::NAMES.iter().zip(self.counts()).enumerate() {
            if at < ALWAYS || count > 0 {
                shown.field(name, &count);
            }
        }
        if self.served != Served::default() {
            shown.field("served", &self.served);
        }
        shown.finish()
    }
}

/// How a call is served, as far as that decides about its price: what is asked for, and what an
/// answer says of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Served {
    /// The service tier, where it is told.
    pub tier: Option<Tier>,
    /// Anthropic's fast mode (`speed: fast`).
    pub is_fast: bool,
    /// In the United States alone (`inference_geo: us`).
    pub is_us: bool,
}

impl Served {
    /// This, and where nothing is told what was asked for.
    #[must_use]
    pub fn or(self, asked: Served) -> Served {
        if self == Served::default() { asked } else { self }
    }

    /// What an answer's `service_tier` says; nothing where it says nothing.
    pub fn in_tier(name: Option<&str>) -> Served {
        Served { tier: name.map(Tier::from_service_tier), ..Served::default() }
    }
}

impl Usage {
    /// The same counts, with how the call was served. Nothing is nothing, however it was served.
    #[must_use]
    pub fn served(self, served: Served) -> Usage {
        match self == Usage::default() {
            true => self,
            false => Usage { served, ..self },
        }
    }

    /// Input and output tokens together.
    pub fn total_tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}
