//! The list of filters.

use super::*;

fn names(config: &Config) -> Vec<&str> {
    config.filters.iter().map(|filter| filter.name.as_str()).collect()
}

#[test]
fn without_filters_the_usual_stack_is_there() {
    assert_eq!(names(&config(&with_model(""))), FILTERS[..8]);
    assert_eq!(names(&config(&with_model("litellm_settings: {cache: true}\n"))), FILTERS);
}

#[test]
fn filters_keep_their_order_and_settings() {
    let config = config(&with_model(
        "filters:\n- auth\n- filter: rate_limit\n  global: {rpm: 5}\n  on: true\n\
             general_settings: {global_max_parallel_requests: 9}\n",
    ));
    assert_eq!(names(&config), ["auth", "rate_limit"]);
    let expect = json!({"global": {"rpm": 5, "max_parallel_requests": 9}, "on": true});
    assert_eq!(config.filters[1].settings, expect);
}

#[test]
fn filters_that_are_not_there_or_there_twice_are_mistakes() {
    mistakes(
        &with_model("filters:\n- filter: auht\n- auth\n- filter: auth\n- {settings: 1}\n- [x]\n"),
        &[
            "config.yaml:5: filters[0].filter: there is no filter `auht`; did you mean `auth`?",
            "filters[2].filter: `auth` is in the list twice",
            "filters[3]: needs a `filter`",
            "filters[4]: must be a mapping",
        ],
    );
    mistakes(&with_model("filters: []\n"), &["filters: is an empty list"]);
}

#[test]
fn what_a_list_of_filters_leaves_out_is_said() {
    warnings(
        &with_model("filters: [cors]\nlitellm_settings: {cache: true}\n"),
        &[
            "filters: does not list `auth`",
            "filters: does not list `budget`: what calls cost is not recorded",
            "`filters` does not list `response_cache`",
        ],
    );
    mistakes(
        &with_model("filters: [auth]\ngeneral_settings: {global_max_parallel_requests: 5}\n"),
        &["`filters` does not list `rate_limit`"],
    );
}

#[test]
fn a_mistake_of_a_filters_builder_gets_its_path_and_line() {
    let config = config(&with_model(
        "filters:\n- filter: auth\n- filter: rate_limit\n  global:\n    rpm: 5\n    rpmm: 5\n",
    ));
    let error = ConfigError::new("global.rpmm", "unknown field `rpmm`");
    assert_eq!(
        config.filter_mistake(1, &error).to_string(),
        "config.yaml:9: filters[1].rate_limit.global.rpmm: unknown field `rpmm`"
    );
    let error = ConfigError::new("", "makes no sense");
    assert_eq!(
        config.filter_mistake(0, &error).to_string(),
        "config.yaml:5: filters[0].auth: makes no sense"
    );
}
