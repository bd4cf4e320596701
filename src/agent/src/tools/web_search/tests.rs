//! Each provider's requests and answers, as they are written in `tests/goldens/search`.

use http::Method;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use super::config::ProviderName;
use super::provider::{Key, provider};
use super::*;

#[derive(Deserialize)]
struct Golden {
    /// What it shows.
    case: String,
    query: Query,
    /// What is sent for it.
    request: Value,
    /// What comes back.
    #[serde(default)]
    answer: Value,
    /// What is made of it; null if it makes no sense.
    #[serde(default)]
    results: Option<Vec<SearchResult>>,
}

fn check(name: ProviderName, goldens: &str) {
    let goldens: Vec<Golden> = serde_json::from_str(goldens).unwrap();
    let provider = provider(name);
    for golden in goldens {
        let case = &golden.case;
        let query = golden.query.checked().unwrap();
        let base = Url::parse(provider.base()).unwrap();
        let request = provider.request(&base, Key("key-1"), &query).unwrap();
        let mut sent = json!({
            "method": request.method.as_str(),
            "url": request.url.as_str(),
            "headers": {},
        });
        for (name, value) in &request.headers {
            sent["headers"][name.as_str()] = value.to_str().unwrap().into();
        }
        if request.method == Method::POST {
            sent["body"] = serde_json::from_slice(&request.body).unwrap();
        }
        assert_eq!(sent, golden.request, "{case}");
        if golden.answer.is_null() {
            continue;
        }
        let got = provider.results(query.kind, golden.answer.to_string().as_bytes());
        let got = got.ok().map(|results| query.select(results));
        assert_eq!(got, golden.results, "{case}");
    }
}

#[test]
fn tavily_is_as_written() {
    check(ProviderName::Tavily, include_str!("../../../tests/goldens/search/tavily.json"));
}

#[test]
fn brave_is_as_written() {
    check(ProviderName::Brave, include_str!("../../../tests/goldens/search/brave.json"));
}

#[test]
fn serpapi_is_as_written() {
    check(ProviderName::Serpapi, include_str!("../../../tests/goldens/search/serpapi.json"));
}

#[test]
fn queries_are_checked() {
    let wrong = |query: Value| {
        let query: Query = serde_json::from_value(query).unwrap();
        query.checked().unwrap_err().to_string()
    };
    assert!(wrong(json!({"query": " \n"})).contains("1 to 400 characters"));
    assert!(wrong(json!({"query": "ü".repeat(401)})).contains("1 to 400 characters"));
    assert!(wrong(json!({"query": "x", "num_results": 0})).contains("from 1 to 20"));
    assert!(wrong(json!({"query": "x", "max_results": 21})).contains("from 1 to 20"));
    assert!(wrong(json!({"query": "x", "include_domains": ["a/b"]})).contains("`a/b`"));
    assert!(wrong(json!({"query": "x", "exclude_domains": ["10.0.0.1"]})).contains("10.0.0.1"));
    assert!(wrong(json!({"query": "x", "include_domains": vec!["a.com"; 21]})).contains("20"));
    assert!(wrong(json!({"query": "x", "country": "Germany"})).contains("two letters"));
    assert!(serde_json::from_value::<Query>(json!({"query": "x", "recency": "hour"})).is_err());
    assert!(serde_json::from_value::<Query>(json!({"query": "x", "num": 1})).is_err());
}

#[test]
fn what_providers_cannot_restrict_is_filtered() {
    let query: Query = serde_json::from_value(json!({
        "query": "x", "num_results": 3,
        "include_domains": ["Example.com", "*.bücher.example"], "exclude_domains": ["evil.example.com"],
    }))
    .unwrap();
    let query = query.checked().unwrap();
    let found = |url: &str| SearchResult { url: url.to_owned(), ..SearchResult::default() };
    let selected = query.select(
        [
            "https://example.com/1",
            "https://example.com/1",
            "https://notexample.com/",
            "https://evil.example.com/",
            "https://x.evil.example.com/",
            "javascript:alert(1)",
            "ftp://example.com/",
            "/relative",
            "https://a.xn--bcher-kva.example/2",
            "https://WWW.example.com/3",
            "https://example.com/4",
        ]
        .map(found)
        .into(),
    );
    let urls: Vec<&str> = selected.iter().map(|result| result.url.as_str()).collect();
    let expect =
        ["https://example.com/1", "https://a.xn--bcher-kva.example/2", "https://WWW.example.com/3"];
    assert_eq!(urls, expect);
}

#[test]
fn results_are_bounded() {
    let query = Query { query: "x".to_owned(), ..Query::default() }.checked().unwrap();
    let large = SearchResult {
        title: "ü ".repeat(100_000),
        url: "https://example.com/".to_owned(),
        snippet: "ü\n".repeat(100_000),
        date: Some("x".repeat(100_000)),
    };
    let long =
        SearchResult { url: format!("https://example.com/{}", "x".repeat(3_000)), ..large.clone() };
    let selected = query.select(vec![long, large]);
    assert_eq!(selected.len(), 1);
    assert_eq!(selected[0].title.chars().count(), 301);
    assert_eq!(selected[0].snippet.chars().count(), 2_001);
    assert_eq!(selected[0].date.as_ref().unwrap().chars().count(), 65);
}

#[test]
fn settings_are_litellms() {
    let tool: SearchTool = serde_json::from_value(json!({
        "search_tool_name": "my-search",
        "litellm_params": {
            "search_provider": "tavily", "api_key": "tvly-hidden", "api_base": "http://10.0.0.1:8080/t",
            "timeout": 5, "cost_per_query": 0.008, "rpm": 100, "max_retries": 2,
        },
        "search_tool_info": {"description": "x"},
    }))
    .unwrap();
    assert_eq!(tool.litellm_params.cost_per_query, PicoDollars(8_000_000_000));
    assert!(!format!("{tool:?}").contains("hidden"));
    let outgoing = Outgoing::new().unwrap();
    let make = |tools: &[SearchTool]| {
        WebSearch::new(tools, &WebSearchSettings::default(), &outgoing, Clock::manual())
    };
    assert!(make(&[]).unwrap().is_none());
    assert!(make(std::slice::from_ref(&tool)).unwrap().is_some());
    let twice = make(&[tool.clone(), tool.clone()]).err().unwrap().to_string();
    assert_eq!(twice, "search_tools[1].search_tool_name: `my-search` is there twice");
    let mut keyless = tool.clone();
    keyless.litellm_params.api_key = None;
    let error = make(&[keyless]).err().unwrap().to_string();
    let expect = "search_tools[0].litellm_params.api_key: is missing, and so is TAVILY_API_KEY";
    assert_eq!(error, expect);
    let mut wrong = tool;
    wrong.litellm_params.api_base = Some("localhost".to_owned());
    let error = make(&[wrong]).err().unwrap().to_string();
    assert!(error.starts_with("search_tools[0].litellm_params.api_base: is no URL"), "{error}");
}

proptest! {
    #[test]
    fn no_answer_breaks_a_provider(body: Vec<u8>, kind in 0..3_usize) {
        let kind = [Kind::Web, Kind::News, Kind::Academic][kind];
        for name in [ProviderName::Tavily, ProviderName::Brave, ProviderName::Serpapi] {
            let _ = provider(name).results(kind, &body);
        }
    }

    #[test]
    fn no_query_breaks_a_provider(text: String, domains in prop::collection::vec("[a-zü.*]{0,30}", 0..5)) {
        let query = Query {
            query: text, include_domains: domains.clone(), exclude_domains: domains, ..Query::default()
        };
        if let Ok(query) = query.checked() {
            for name in [ProviderName::Tavily, ProviderName::Brave, ProviderName::Serpapi] {
                let base = Url::parse(provider(name).base()).unwrap();
                let request = provider(name).request(&base, Key("k"), &query).unwrap();
                prop_assert_eq!(request.url.origin(), base.origin());
                prop_assert!(query.with_sites().chars().count() <= 400);
            }
        }
    }
}
