//! The table of provider families: what is sent, what the provider answers, and how the gateway's
//! config names it. A line here is all that a family takes.

use tollway_simulator::Shape;

/// What a client speaks to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// OpenAI's chat completions.
    Chat,
    /// OpenAI's responses.
    Responses,
    /// Anthropic's messages.
    Messages,
    /// Gemini's generateContent, whose path names the model.
    Gemini,
}

impl Client {
    /// The shape its answers have.
    pub fn shape(self) -> Shape {
        match self {
            Client::Chat => Shape::Chat,
            Client::Responses => Shape::Responses,
            Client::Messages => Shape::Messages,
            Client::Gemini => Shape::Gemini,
        }
    }

    /// Where it asks the gateway.
    pub fn path(self, model: &str, streams: bool) -> String {
        match (self, streams) {
            (Client::Chat, _) => "/v1/chat/completions".to_owned(),
            (Client::Responses, _) => "/v1/responses".to_owned(),
            (Client::Messages, _) => "/v1/messages".to_owned(),
            (Client::Gemini, false) => format!("/v1beta/models/{model}:generateContent"),
            (Client::Gemini, true) => {
                format!("/v1beta/models/{model}:streamGenerateContent?alt=sse")
            }
        }
    }
}

/// A provider as one kind of client asks it.
#[derive(Debug)]
pub struct Family {
    /// Names its measurement, `family-…`, and its models.
    pub name: &'static str,
    /// Its name in the table.
    pub title: &'static str,
    /// What the client speaks.
    pub client: Client,
    /// What the provider answers. If the client speaks it, the gateway passes it through.
    pub upstream: Shape,
    /// `litellm_params` but for `api_base`, as they stand between braces.
    pub params: &'static str,
    /// The end of the `api_base`.
    pub base: &'static str,
    /// What the gateway adds to that: for an answer in one piece, and for a stream.
    pub paths: [&'static str; 2],
}

/// All of them, in the order of the table.
pub static FAMILIES: [Family; 11] = [
    Family {
        name: "openai",
        title: "OpenAI passthrough",
        client: Client::Chat,
        upstream: Shape::Chat,
        params: "model: openai/gpt-4o-mini, api_key: sk-upstream-1",
        base: "/v1",
        paths: ["/chat/completions"; 2],
    },
    Family {
        name: "anthropic",
        title: "Anthropic translated",
        client: Client::Chat,
        upstream: Shape::Messages,
        params: "model: anthropic/claude-3-5-sonnet-20241022, api_key: sk-upstream-2",
        base: "",
        paths: ["/v1/messages"; 2],
    },
    Family {
        name: "anthropic-client",
        title: "Anthropic client, Anthropic passthrough",
        client: Client::Messages,
        upstream: Shape::Messages,
        params: "model: anthropic/claude-3-5-sonnet-20241022, api_key: sk-upstream-2",
        base: "",
        paths: ["/v1/messages"; 2],
    },
    Family {
        name: "gemini",
        title: "Gemini translated",
        client: Client::Chat,
        upstream: Shape::Gemini,
        params: "model: gemini/gemini-2.5-flash, api_key: sk-upstream-3",
        base: "/v1beta",
        paths: [
            "/models/gemini-2.5-flash:generateContent",
            "/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
        ],
    },
    Family {
        name: "gemini-client",
        title: "Gemini client, Gemini passthrough",
        client: Client::Gemini,
        upstream: Shape::Gemini,
        params: "model: gemini/gemini-2.5-flash, api_key: sk-upstream-3",
        base: "/v1beta",
        paths: [
            "/models/gemini-2.5-flash:generateContent",
            "/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
        ],
    },
    Family {
        name: "bedrock",
        title: "Bedrock Converse translated",
        client: Client::Chat,
        upstream: Shape::Converse,
        // Signed, as most calls of Bedrock are: the signature is a part of what one costs.
        params: "model: bedrock/amazon.nova-lite-v1:0, aws_region_name: us-east-1, \
                 aws_access_key_id: AKIABENCH00000000001, aws_secret_access_key: secret-upstream-4",
        base: "",
        paths: [
            "/model/amazon.nova-lite-v1%3A0/converse",
            "/model/amazon.nova-lite-v1%3A0/converse-stream",
        ],
    },
    Family {
        name: "cohere",
        title: "Cohere translated",
        client: Client::Chat,
        upstream: Shape::Cohere,
        params: "model: cohere/command-a-03-2025, api_key: sk-upstream-5",
        base: "",
        paths: ["/v2/chat"; 2],
    },
    Family {
        name: "mistral",
        title: "Mistral, OpenAI-compatible",
        client: Client::Chat,
        upstream: Shape::Chat,
        params: "model: mistral/mistral-small-latest, api_key: sk-upstream-6",
        base: "/v1",
        paths: ["/chat/completions"; 2],
    },
    Family {
        name: "responses",
        title: "Responses client, chat provider translated",
        client: Client::Responses,
        upstream: Shape::Chat,
        // A provider without the API, or else it would be asked for a response.
        params: "model: groq/llama-3.3-70b-versatile, api_key: sk-upstream-7",
        base: "/v1",
        paths: ["/chat/completions"; 2],
    },
    Family {
        name: "responses-openai",
        title: "Responses client, OpenAI passthrough",
        client: Client::Responses,
        upstream: Shape::Responses,
        params: "model: openai/gpt-4o-mini, api_key: sk-upstream-1",
        base: "/v1",
        paths: ["/responses"; 2],
    },
    Family {
        name: "anthropic-client-openai",
        title: "Anthropic client, OpenAI translated",
        client: Client::Messages,
        upstream: Shape::Chat,
        params: "model: openai/gpt-4o-mini, api_key: sk-upstream-1",
        base: "/v1",
        paths: ["/chat/completions"; 2],
    },
];

/// OpenAI's, which the measurements outside of the families ask as well.
pub static OPENAI: &Family = &FAMILIES[0];
/// Anthropic's, translated: the other one that measurements outside of the families ask.
pub static ANTHROPIC: &Family = &FAMILIES[1];

impl Family {
    /// The one of this name.
    pub fn named(name: &str) -> Option<&'static Family> {
        FAMILIES.iter().find(|family| family.name == name)
    }

    /// Its answer of this form.
    pub const fn reply(&'static self, form: Form) -> Reply {
        Reply { family: self, form }
    }
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JSON of 1.4 KB or so.
    Json,
    /// A stream of [`crate::upstream::Pace::short`] chunks.
    Short,
    /// A stream of [`crate::upstream::Pace::long`] chunks.
    Long,
}

impl Form {
    /// All of them.
    pub const ALL: [Form; 3] = [Form::Json, Form::Short, Form::Long];
}

/// What the upstream can answer. Each is a model of the gateway and a path of the upstream.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    /// Whose answer it is.
    pub family: &'static Family,
    /// Which of them.
    pub form: Form,
}

impl Reply {
    /// The model's name.
    pub fn name(self) -> String {
        let form = match self.form {
            Form::Json => "json",
            Form::Short => "short",
            Form::Long => "long",
        };
        format!("{}-{form}", self.family.name)
    }

    /// Whether it is a stream.
    pub fn streams(self) -> bool {
        self.form != Form::Json
    }

    /// The path of the model's `api_base`, which keeps the answers apart.
    fn base_path(self) -> String {
        format!("/{}{}", self.name(), self.family.base)
    }

    /// Where the upstream answers this.
    pub fn path(self) -> String {
        self.base_path() + self.family.paths[usize::from(self.streams())]
    }

    /// Where the gateway is asked for it.
    pub fn client_path(self) -> String {
        self.family.client.path(&self.name(), self.streams())
    }

    /// Its entry in the gateway's `model_list`, with the upstream at this address.
    pub fn entry(self, address: std::net::SocketAddr) -> String {
        let (name, params, base) = (self.name(), self.family.params, self.base_path());
        format!(
            "  - model_name: {name}\n    litellm_params: \
             {{ {params}, api_base: \"http://{address}{base}\" }}\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_a_name_of_its_own() {
        for (at, family) in FAMILIES.iter().enumerate() {
            let first = FAMILIES.iter().position(|other| other.name == family.name);
            assert_eq!(first, Some(at), "{}", family.name);
        }
        assert_eq!([OPENAI.name, ANTHROPIC.name], ["openai", "anthropic"]);
        assert!(Family::named("abacus").is_none());
    }

    #[test]
    fn paths_are_those_of_the_provider_behind_the_model() {
        let check = |name, form, expect: [&str; 2]| {
            let reply = Family::named(name).unwrap().reply(form);
            assert_eq!([reply.client_path(), reply.path()], expect);
        };
        check("openai", Form::Json, ["/v1/chat/completions", "/openai-json/v1/chat/completions"]);
        check("cohere", Form::Long, ["/v1/chat/completions", "/cohere-long/v2/chat"]);
        check(
            "gemini-client",
            Form::Short,
            [
                "/v1beta/models/gemini-client-short:streamGenerateContent?alt=sse",
                "/gemini-client-short/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
            ],
        );
        let entry = OPENAI.reply(Form::Json).entry(([127, 0, 0, 1], 80).into());
        assert_eq!(
            entry,
            "  - model_name: openai-json\n    litellm_params: { model: openai/gpt-4o-mini, \
             api_key: sk-upstream-1, api_base: \"http://127.0.0.1:80/openai-json/v1\" }\n"
        );
    }
}
