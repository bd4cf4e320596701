//! Tests of addresses, credentials and paths. What is translated is tested by the goldens.

use std::collections::BTreeMap;
use std::time::Duration;

use tollway_wire::operation::{Dialect, Operation};

use super::Bedrock;
use crate::{Access, Place, Provider, Unsigned};

fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn the_base_follows_the_region() {
    let base = |pairs: &[(&str, &str)], model: &str| {
        let settings = settings(pairs);
        let access = Access { settings: &settings, ..Access::default() };
        Bedrock.model_base(model, &access).map(|base| base.into_owned())
    };
    let at = |region: &str| Some(format!("https://bedrock-runtime.{region}.amazonaws.com"));
    assert_eq!(base(&[], "a.b"), at("us-west-2"));
    assert_eq!(base(&[("aws_region_name", "eu-west-1")], "a.b"), at("eu-west-1"));
    // The name of the model is more exact than a setting of the whole process.
    assert_eq!(base(&[("aws_region_name", "eu-west-1")], "us-east-1/a.b"), at("us-east-1"));
    assert_eq!(base(&[], "arn:aws:bedrock:us-east-2:1:inference-profile/us.a.b"), at("us-east-2"));
    let china = base(&[("aws_region_name", "cn-north-1")], "a.b");
    assert_eq!(china.as_deref(), Some("https://bedrock-runtime.cn-north-1.amazonaws.com.cn"));
    let own = [("aws_bedrock_runtime_endpoint", "https://vpce.example.com/model/")];
    assert_eq!(base(&own, "us-east-1/a.b").as_deref(), Some("https://vpce.example.com"));
    assert_eq!(base(&[("aws_region_name", "evil.example.com/")], "a.b"), None);
}

#[test]
fn paths_follow_operation_dialect_and_name() {
    let path = |operation, dialect, model, stream| {
        let place = Place { operation, dialect, model, stream };
        Bedrock.path(&place, &Access::default()).into_owned()
    };
    let chat = Operation::ChatCompletions;
    let claude = "anthropic.claude-3-haiku-20240307-v1:0";
    for (dialect, model, stream, expect) in [
        (Dialect::OpenAi, claude, false, "anthropic.claude-3-haiku-20240307-v1%3A0/converse"),
        (Dialect::OpenAi, claude, true, "anthropic.claude-3-haiku-20240307-v1%3A0/converse-stream"),
        (Dialect::OpenAi, "invoke/anthropic.x", false, "anthropic.x/invoke"),
        (Dialect::OpenAi, "invoke/amazon.nova-pro-v1:0", false, "amazon.nova-pro-v1%3A0/converse"),
        (Dialect::Anthropic, "us.anthropic.x", false, "us.anthropic.x/invoke"),
        (Dialect::Anthropic, "us.anthropic.x", true, "us.anthropic.x/invoke-with-response-stream"),
    ] {
        assert_eq!(path(chat, dialect, model, stream), format!("/model/{expect}"));
    }
    let embed = path(Operation::Embeddings, Dialect::OpenAi, "cohere.embed-english-v3", false);
    assert_eq!(embed, "/model/cohere.embed-english-v3/invoke");
    let count = path(Operation::CountTokens, Dialect::Anthropic, "eu-west-1/anthropic.x", false);
    assert_eq!(count, "/model/anthropic.x/count-tokens");
}

#[test]
fn dialects_follow_the_client_and_the_model() {
    let chat = |client, model| Bedrock.dialect(Operation::ChatCompletions, client, model);
    assert_eq!(chat(Dialect::Anthropic, "us.anthropic.claude-x"), Some(Dialect::Anthropic));
    assert_eq!(chat(Dialect::Anthropic, "converse/us.anthropic.claude-x"), Some(Dialect::OpenAi));
    assert_eq!(chat(Dialect::Anthropic, "amazon.nova-pro-v1:0"), Some(Dialect::OpenAi));
    assert_eq!(chat(Dialect::OpenAi, "us.anthropic.claude-x"), Some(Dialect::OpenAi));
    let embed = |model| Bedrock.dialect(Operation::Embeddings, Dialect::OpenAi, model);
    assert_eq!(embed("amazon.titan-embed-text-v2:0"), Some(Dialect::OpenAi));
    assert_eq!(embed("amazon.nova-pro-v1:0"), None);
    assert_eq!(Bedrock.dialect(Operation::Speech, Dialect::OpenAi, "a.b"), None);
}

#[test]
fn credentials_are_a_bearer_or_two_keys() {
    let none = Access::default();
    let missing = Bedrock.headers(&none).expect_err("there are no credentials");
    assert_eq!(missing.setting, "aws_access_key_id");
    let half = settings(&[("aws_access_key_id", "AKID")]);
    let half = Access { settings: &half, ..Access::default() };
    let missing = Bedrock.headers(&half).expect_err("there is half a key");
    assert_eq!(missing.setting, "aws_secret_access_key");
    let region = settings(&[("aws_region_name", "nowhere")]);
    let region = Access { api_key: Some("k"), settings: &region, ..Access::default() };
    assert_eq!(Bedrock.headers(&region).expect_err("no region").setting, "aws_region_name");

    let bearer = Access { api_key: Some("abc"), ..Access::default() };
    let headers = Bedrock.headers(&bearer).expect("a key is enough");
    assert!(headers[0].1 == "Bearer abc" && headers[0].1.is_sensitive());
    assert!(!Bedrock.signs(&bearer));
}

#[test]
fn a_request_is_signed_for_the_region_it_goes_to() {
    let keys = settings(&[
        ("aws_access_key_id", "AKIDEXAMPLE"),
        ("aws_secret_access_key", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
        ("aws_session_token", "AQoDYXdzEPT//////////wEXAMPLE+token=="),
        ("aws_region_name", "eu-west-1"),
    ]);
    let access = Access { settings: &keys, ..Access::default() };
    assert!(Bedrock.signs(&access) && Bedrock.headers(&access).expect("enough").is_empty());
    let mut request = Unsigned {
        host: "bedrock-runtime.us-east-1.amazonaws.com",
        path_and_query: "/model/anthropic.claude-3-haiku-20240307-v1%3A0/converse-stream",
        body: br#"{"messages":[]}"#,
        now: Duration::from_secs(1_440_938_160),
    };
    let headers = Bedrock.sign(&request, &access).expect("it can be signed");
    let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    let expect = ["authorization", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token"];
    assert_eq!(names, expect);
    let authorization = headers[0].1.to_str().expect("text");
    // As botocore signs it.
    let expect = "30c652a7e386b7f961e10db550f1ea6caca9cf29862be51d6b7021a4f4473d67";
    assert!(authorization.ends_with(expect), "{authorization}");
    assert!(headers[0].1.is_sensitive() && headers[3].1.is_sensitive());
    for (host, region) in [
        ("bedrock-runtime-fips.us-east-1.amazonaws.com:443", "us-east-1"),
        ("vpce-1-a.bedrock-runtime.ap-south-1.vpce.amazonaws.com", "ap-south-1"),
        ("us-east-1.example.com", "eu-west-1"),
    ] {
        request.host = host;
        let headers = Bedrock.sign(&request, &access).expect("it can be signed");
        let scope = format!("/{region}/bedrock/aws4_request");
        assert!(headers[0].1.to_str().expect("text").contains(&scope), "{host}");
    }
}
