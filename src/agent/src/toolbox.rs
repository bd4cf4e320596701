//! The tools of a run: those that everybody agrees to, and what the model knows them by.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::run::{Approval, ApprovalDefault};
use crate::tool::{Risk, Tool};

/// The longest name of a function that providers take (OpenAI, Anthropic and Gemini agree on 64).
const FUNCTION_NAME_MAX: usize = 64;

/// All tools there are, by name.
#[derive(Clone, Default)]
pub struct Tools {
    by_name: BTreeMap<Arc<str>, Arc<dyn Tool>>,
    /// Tools that could be there and are not, and why.
    missing: BTreeMap<Arc<str>, Missing>,
}

/// Why a tool is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// A word for programs: `sandbox_unavailable` …
    pub code: &'static str,
    /// The same for people.
    pub message: String,
}

/// A list of tools that somebody allows: names, groups (`code` allows `code.python`), or `*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed(pub BTreeSet<String>);

impl Allowed {
    /// Whether the list names this tool.
    pub fn allows(&self, tool: &str) -> bool {
        named(&self.0, tool)
    }
}

/// Whether a list names this tool, one of the groups it belongs to, or all.
fn named(list: &BTreeSet<String>, tool: &str) -> bool {
    let covers = |entry: &String| {
        let entry = entry.strip_suffix(".*").unwrap_or(entry);
        entry == "*" || is_of(entry, tool)
    };
    list.iter().any(covers)
}

/// Whether a tool is of this group, or has this very name.
pub(crate) fn is_of(group: &str, tool: &str) -> bool {
    tool.strip_prefix(group).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Why somebody does not get a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoTool {
    /// There is none of that name.
    Unknown(String),
    /// Somebody does not allow it.
    Forbidden(String),
    /// It cannot work here.
    Missing(String, Missing),
}

impl Tools {
    /// Adds a tool, in place of an earlier one of its name.
    pub fn add(&mut self, tool: Arc<dyn Tool>) {
        let name = Arc::clone(&tool.spec().name);
        self.missing.remove(&name);
        self.by_name.insert(name, tool);
    }

    /// Says why a tool is not there.
    pub fn add_missing(&mut self, name: impl Into<Arc<str>>, why: Missing) {
        self.missing.insert(name.into(), why);
    }

    /// Takes away all tools of a group, and what was said of those that are not there.
    pub fn remove_group(&mut self, group: &str) {
        self.by_name.retain(|name, _| !is_of(group, name));
        self.missing.retain(|name, _| !is_of(group, name));
    }

    /// The tool of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Tool>> {
        self.by_name.get(name)
    }

    /// Why there is no tool of this name, or none of its group.
    fn why_missing(&self, name: &str) -> Option<&Missing> {
        let of_group = || self.missing.iter().find(|(group, _)| is_of(group, name));
        self.missing.get(name).or_else(|| of_group().map(|(_, why)| why))
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Tool>> {
        self.by_name.values()
    }

    /// Those that are not there.
    pub fn missing(&self) -> impl Iterator<Item = (&Arc<str>, &Missing)> {
        self.missing.iter()
    }

    /// The tools that all lists allow.
    pub fn allowed_by<'a>(
        &'a self,
        lists: &'a [Allowed],
    ) -> impl Iterator<Item = &'a Arc<dyn Tool>> {
        self.iter().filter(move |tool| lists.iter().all(|list| list.allows(&tool.spec().name)))
    }

    /// One tool for somebody whom these lists concern.
    ///
    /// # Errors
    /// Where there is none, or a list does not name it.
    pub fn find(&self, name: &str, lists: &[Allowed]) -> Result<&Arc<dyn Tool>, NoTool> {
        let is_allowed = lists.iter().all(|list| list.allows(name));
        match (self.by_name.get(name), self.why_missing(name)) {
            (Some(tool), _) if is_allowed => Ok(tool),
            (None, Some(missing)) if is_allowed => {
                Err(NoTool::Missing(name.to_owned(), missing.clone()))
            }
            (Some(_), _) | (_, Some(_)) => Err(NoTool::Forbidden(name.to_owned())),
            (None, None) => Err(NoTool::Unknown(name.to_owned())),
        }
    }

    /// The tools that `wanted` names: each by itself, or all that are allowed of a group.
    ///
    /// # Errors
    /// Where a name leads to nothing that is there and allowed.
    pub fn select(&self, wanted: &[String], lists: &[Allowed]) -> Result<Vec<Arc<str>>, NoTool> {
        let mut selected: Vec<Arc<str>> = Vec::new();
        for name in wanted {
            let own = [Allowed(BTreeSet::from([name.clone()]))];
            let group: Vec<_> = self.allowed_by(&own).map(|tool| &tool.spec().name).collect();
            if group.len() <= 1 && group.first().is_none_or(|only| ***only == **name) && name != "*"
            {
                // One tool, or none: then why there is none is told.
                let is_group = || self.missing.keys().find(|missing| own[0].allows(missing));
                let name = match (group.first(), is_group()) {
                    (None, Some(missing)) => missing,
                    _ => name.as_str(),
                };
                let tool = self.find(name, lists)?;
                push_new(&mut selected, &tool.spec().name);
                continue;
            }
            let mut allowed =
                group.iter().filter(|name| lists.iter().all(|list| list.allows(name))).peekable();
            if allowed.peek().is_none() && name != "*" {
                return Err(NoTool::Forbidden(name.clone()));
            }
            allowed.for_each(|name| push_new(&mut selected, name));
        }
        Ok(selected)
    }
}

fn push_new(list: &mut Vec<Arc<str>>, name: &Arc<str>) {
    if !list.contains(name) {
        list.push(Arc::clone(name));
    }
}

/// Whether a tool needs somebody's approval. What one of several parties demands holds: a request
/// cannot take back what its agent or the config demands.
pub fn needs_approval(parties: &[&Approval], tool: &str, risk: Risk) -> bool {
    parties.iter().any(|approval| {
        if named(&approval.always, tool) {
            return true;
        }
        if named(&approval.never, tool) {
            return false;
        }
        match approval.default {
            ApprovalDefault::Never => false,
            ApprovalDefault::Policy => risk == Risk::Write,
            ApprovalDefault::Always => true,
        }
    })
}

/// The tools of one run, by the names the model knows them by.
#[derive(Default)]
pub struct Toolbox {
    by_function: BTreeMap<String, Arc<dyn Tool>>,
}

impl Toolbox {
    /// Those of `tools` that are in `names`. One that has gone meanwhile is not in it.
    pub fn of(tools: &Tools, names: &[Arc<str>]) -> Toolbox {
        let mut by_function = BTreeMap::new();
        for tool in names.iter().filter_map(|name| tools.get(name)) {
            let name = &tool.spec().name;
            let mut function = function_name(name);
            // `mcp.a_b.c` and `mcp.a.b_c`: the first of them has the plain name.
            if by_function.contains_key(&function) {
                function = with_digest(&function, name);
            }
            by_function.insert(function, Arc::clone(tool));
        }
        Toolbox { by_function }
    }

    /// The tool that a model means.
    pub fn get(&self, function: &str) -> Option<&Arc<dyn Tool>> {
        self.by_function.get(function)
    }

    /// The tool of this name.
    pub fn named(&self, name: &str) -> Option<&Arc<dyn Tool>> {
        self.by_function.values().find(|tool| *tool.spec().name == *name)
    }

    /// As the model is told them.
    pub fn definitions(&self) -> Vec<Value> {
        let define = |(function, tool): (&String, &Arc<dyn Tool>)| {
            let spec = tool.spec();
            json!({"type": "function", "function": {
                "name": function,
                "description": spec.description,
                "parameters": *spec.parameters,
            }})
        };
        self.by_function.iter().map(define).collect()
    }
}

/// What a model knows a tool by: providers take letters, digits, dashes and underscores.
pub fn function_name(tool: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let name: String = tool.chars().map(plain).collect();
    if name.len() <= FUNCTION_NAME_MAX {
        return name;
    }
    // Long names that differ at their ends stay apart.
    with_digest(&name, tool)
}

/// A function's name that no other tool has.
fn with_digest(function: &str, tool: &str) -> String {
    let digest = Sha256::digest(tool);
    let end: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    let max = FUNCTION_NAME_MAX - end.len() - 1;
    format!("{}_{end}", &function[..function.len().min(max)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::{Call, Called, Output, ToolSpec};

    struct Nothing(ToolSpec);

    impl Tool for Nothing {
        fn spec(&self) -> &ToolSpec {
            &self.0
        }
        fn call<'a>(&'a self, _: Call<'a>) -> Called<'a> {
            Box::pin(async { Ok(Output::default()) })
        }
    }

    fn tools(names: &[&str]) -> Tools {
        let mut tools = Tools::default();
        for name in names {
            tools.add(Arc::new(Nothing(ToolSpec {
                name: (*name).into(),
                description: "".into(),
                parameters: Arc::new(json!({})),
                risk: Risk::Read,
                is_idempotent: true,
            })));
        }
        tools
    }

    fn list(names: &[&str]) -> Allowed {
        Allowed(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn selected(wanted: &[&str], lists: &[Allowed]) -> Result<Vec<String>, NoTool> {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        let mut tools = tools(&["calculator", "code.python", "code.shell", "codex"]);
        let missing = Missing { code: "sandbox_unavailable", message: "no".to_owned() };
        tools.add_missing("lab.python", missing);
        let selected = tools.select(&wanted, lists)?;
        Ok(selected.iter().map(|name| name.to_string()).collect())
    }

    #[test]
    fn tool_is_there_where_every_list_names_it() {
        let all = list(&["*"]);
        assert_eq!(
            selected(&["code"], std::slice::from_ref(&all)),
            Ok(vec!["code.python".into(), "code.shell".into()])
        );
        assert_eq!(
            selected(&["code"], &[all.clone(), list(&["code.python"])]),
            Ok(vec!["code.python".into()])
        );
        assert_eq!(
            selected(&["calculator"], &[all.clone(), list(&[])]),
            Err(NoTool::Forbidden("calculator".into()))
        );
        assert_eq!(
            selected(&["nothing"], std::slice::from_ref(&all)),
            Err(NoTool::Unknown("nothing".into()))
        );
        assert!(matches!(
            selected(&["lab.python"], std::slice::from_ref(&all)),
            Err(NoTool::Missing(..))
        ));
        assert!(matches!(selected(&["lab"], &[all]), Err(NoTool::Missing(..))));
        assert!(matches!(selected(&["lab.python.3"], &[list(&["lab"])]), Err(NoTool::Missing(..))));
        // What nobody may use is not told to be missing.
        assert!(matches!(selected(&["lab.python"], &[list(&[])]), Err(NoTool::Forbidden(_))));
    }

    #[test]
    fn everything_that_is_allowed_may_be_nothing() {
        assert_eq!(selected(&["*"], &[list(&[])]), Ok(Vec::new()));
        assert_eq!(selected(&["*"], &[list(&["codex"])]), Ok(vec!["codex".into()]));
    }

    #[test]
    fn long_names_stay_apart() {
        let long = |end: char| format!("mcp.{}{end}", "x".repeat(80));
        let [one, two] = [function_name(&long('a')), function_name(&long('b'))];
        assert_ne!(one, two);
        assert!(one.len() <= FUNCTION_NAME_MAX && two.len() <= FUNCTION_NAME_MAX);
        assert_eq!(function_name("code.python"), "code_python");
    }

    #[test]
    fn tools_that_look_alike_to_a_provider_stay_apart() {
        let names = ["mcp.a_b.c", "mcp.a.b_c", "mcp.a.b.c"];
        let wanted: Vec<Arc<str>> = names.iter().map(|name| (*name).into()).collect();
        let toolbox = Toolbox::of(&tools(&names), &wanted);
        assert_eq!(toolbox.definitions().len(), names.len());
        for name in names {
            assert_eq!(*toolbox.named(name).expect("it is there").spec().name, *name);
        }
    }

    #[test]
    fn request_cannot_take_back_what_the_config_demands() {
        let demands =
            Approval { always: BTreeSet::from(["mail".to_owned()]), ..Approval::default() };
        let forgoes = Approval { never: BTreeSet::from(["*".to_owned()]), ..Approval::default() };
        assert!(needs_approval(&[&demands, &forgoes], "mail.send", Risk::Write));
        assert!(needs_approval(&[&Approval::default()], "files.write", Risk::Write));
        assert!(!needs_approval(&[&Approval::default()], "web_search", Risk::Read));
    }
}
