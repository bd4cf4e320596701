//! Secrets stay where they are.

use super::*;

/// Each `SECRET` of a text stands for this.
const SECRET: &str = "hunter2-hunter2";

const EVERYWHERE: &str = "\
environment_variables: {A: SECRET}
model_list:
- model_name: m
  litellm_params: {model: openai/gpt-4o, api_key: SECRET, extra_headers: {x-key: SECRET}}
- model_name: n
  litellm_params: {model: openai/gpt-4o, api_key: env:OTHER}
general_settings:
  master_key: SECRET-master
  pass_through_endpoints: [{path: /x, target: 'http://x', headers: {authorization: SECRET}}]
litellm_settings: {cache: true, cache_params: {host: h, password: SECRET}}
keys: [{key: SECRET-key}]
filters: [{filter: auth, password: SECRET}, response_cache, rate_limit]
";

fn environment() -> Environment {
    [("OTHER", SECRET), ("OPENAI_API_KEY", SECRET)].into_iter().collect()
}

#[test]
fn secrets_are_in_no_debug_output() {
    let text = EVERYWHERE.replace("SECRET", SECRET);
    let file = FileConfig::read("config.yaml", &text, environment());
    assert!(!format!("{file:?}").contains("hunter2"), "{file:#?}");
    let (config, warnings) =
        Config::resolve(file, FILTERS, "http://x").unwrap_or_else(|m| panic!("{}", lines(&m)));
    assert!(!format!("{config:?}").contains("hunter2"), "{config:#?}");
    assert!(!lines(&warnings).contains("hunter2"));
    assert!(!config.summary().contains("hunter2"));
    assert!(!config.explain("m").unwrap().contains("hunter2"));
}

proptest! {
    /// However a file is damaged, what was a secret in it is in no message.
    #[test]
    fn secrets_are_in_no_mistake(cuts in prop::collection::vec((0..700_usize, "[-:{}\\[\\]'\",#x \n]{0,3}"), 1..3)) {
        let mut text = EVERYWHERE.to_owned();
        for (at, sign) in cuts {
            // A cut within the word would make of it something that is no secret any more.
            let at = at.min(text.len());
            let inside = (1..6).any(|back| text[..].get(at.saturating_sub(back)..).is_some_and(|t| t.starts_with("SECRET")));
            if !inside {
                text.insert_str(at, &sign);
            }
        }
        let text = text.replace("SECRET", SECRET);
        let file = FileConfig::read("config.yaml", &text, environment());
        prop_assert!(!format!("{file:?}").contains("hunter2"), "{:?}", file);
        match Config::resolve(file, FILTERS, "http://x") {
            Ok((config, _)) => prop_assert!(!format!("{config:?}").contains("hunter2"), "{:?}", config),
            Err(mistakes) => prop_assert!(!lines(&mistakes).contains("hunter2"), "{}", lines(&mistakes)),
        }
    }
}
