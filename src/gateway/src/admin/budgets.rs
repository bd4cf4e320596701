//! Budgets that others refer to, and what is said about end users and tags: `/budget/*`,
//! `/customer/*`, `/tag/*`.

use serde_json::{Map, Value, json};
use tollway_filter_api::accounts::{Change, Kind, Object, Wanted};
use tollway_filter_api::{Reject, Rejection};

use super::Ask;
use super::access::missing;
use super::fields::Field;
use super::store::{Plan, merge, refused};
use super::table::{BY_MODEL, CUSTOMER, MONEY, TAG};
use crate::random;

/// The largest page of a list.
const PAGE_MAX: u64 = 1_000;

impl Ask<'_> {
    /// A new object of what the request says.
    fn plain_object(&self, kind: Kind, id: &str, fields: &[Field]) -> Object {
        let mut body = Map::new();
        merge(&mut body, &self.said.0, names(fields));
        body.retain(|_, value| !value.is_null());
        self.stamp_new(&mut body);
        Object { kind, id: id.into(), alias: None, user: None, team: None, body, version: 0 }
    }

    async fn plain_new(&self, object: Object) -> Result<Object, Rejection> {
        if object.kind != Kind::Budget {
            self.check_budget_id().await?;
        }
        self.change(|| async {
            self.refuse_taken(&object).await?;
            Ok(Plan { change: self.created(object.clone()), result: object.clone() })
        })
        .await
    }

    async fn plain_update(
        &self,
        kind: Kind,
        id: &str,
        fields: &[Field],
        param: &'static str,
    ) -> Result<Object, Rejection> {
        self.check_budget_id().await?;
        self.change(|| async {
            let Some(before) = self.get(kind, id).await? else {
                return Err(missing(kind.name(), param));
            };
            let mut after = before.clone();
            merge(&mut after.body, &self.said.0, names(fields));
            self.stamp_changed(&mut after.body);
            Ok(Plan { change: self.replaced("updated", &before, after.clone()), result: after })
        })
        .await
    }

    async fn plain_delete(
        &self,
        kind: Kind,
        ids: &[&str],
        param: &'static str,
    ) -> Result<Vec<Object>, Rejection> {
        self.change(|| async {
            let mut change = Change::default();
            let mut gone: Vec<Object> = Vec::new();
            for id in ids {
                if gone.iter().any(|object| *object.id == **id) {
                    continue;
                }
                let Some(object) = self.get(kind, id).await? else {
                    return Err(missing(kind.name(), param));
                };
                self.delete(&mut change, &object);
                gone.push(object);
            }
            Ok(Plan { change, result: gone })
        })
        .await
    }

    async fn plain_page(&self, kind: Kind) -> Result<Vec<Object>, Rejection> {
        let (page, size) = self.page(PAGE_MAX, PAGE_MAX)?;
        let wanted = Wanted { skip: (page - 1) * size, limit: size, ..Wanted::default() };
        Ok(self.admin.accounts.list(kind, wanted).await.map_err(refused)?.objects)
    }

    pub(super) async fn budget_new(&self) -> Result<Value, Rejection> {
        let id =
            self.said.text("budget_id").map_or_else(|| random::uuid(self.now()), str::to_owned);
        let budget = self.plain_new(self.plain_object(Kind::Budget, &id, &[])).await?;
        Ok(self.budget_row(&budget))
    }

    pub(super) async fn budget_info(&self) -> Result<Value, Rejection> {
        let mut rows = Vec::new();
        for id in self.said.names("budgets") {
            if let Some(budget) = self.get(Kind::Budget, id).await? {
                rows.push(self.budget_row(&budget));
            }
        }
        if rows.is_empty() {
            return Err(missing("budget", "budgets"));
        }
        Ok(rows.into())
    }

    pub(super) async fn budget_update(&self) -> Result<Value, Rejection> {
        let id = self.said.text("budget_id").unwrap_or_default();
        let budget = self.plain_update(Kind::Budget, id, &[], "budget_id").await?;
        Ok(self.budget_row(&budget))
    }

    pub(super) async fn budget_delete(&self) -> Result<Value, Rejection> {
        let id = self.said.text("id").unwrap_or_default();
        // Whoever refers to it would be without a limit all at once.
        if self.admin.directory.refers_to_budget(id) {
            let message = "Keys, users, teams, end users or tags refer to this budget: give them another one first.";
            return Err(Reject::new(409, "invalid_request_error", message)
                .with_param("id")
                .with_code("in_use"));
        }
        let gone = self.plain_delete(Kind::Budget, &[id], "id").await?;
        Ok(gone.first().map_or(Value::Null, |budget| self.budget_row(budget)))
    }

    pub(super) async fn budget_list(&self) -> Result<Value, Rejection> {
        let rows = self.plain_page(Kind::Budget).await?;
        Ok(rows.iter().map(|budget| self.budget_row(budget)).collect())
    }

    pub(super) async fn customer_new(&self) -> Result<Value, Rejection> {
        let id = self.said.text("user_id").unwrap_or_default();
        let customer = self.plain_new(self.plain_object(Kind::EndUser, id, CUSTOMER)).await?;
        self.customer_row(&customer).await
    }

    pub(super) async fn customer_info(&self) -> Result<Value, Rejection> {
        let id = self.said.text("end_user_id").unwrap_or_default();
        match self.get(Kind::EndUser, id).await? {
            Some(customer) => self.customer_row(&customer).await,
            None => Err(missing("end user", "end_user_id")),
        }
    }

    pub(super) async fn customer_update(&self) -> Result<Value, Rejection> {
        let id = self.said.text("user_id").unwrap_or_default();
        let customer = self.plain_update(Kind::EndUser, id, CUSTOMER, "user_id").await?;
        self.customer_row(&customer).await
    }

    pub(super) async fn customer_delete(&self) -> Result<Value, Rejection> {
        let ids = self.said.names("user_ids");
        let gone = self.plain_delete(Kind::EndUser, &ids, "user_ids").await?;
        let message = format!("Successfully deleted customers with ids: {}", ids.join(", "));
        Ok(json!({"deleted_customers": gone.len(), "message": message}))
    }

    pub(super) async fn customer_list(&self) -> Result<Value, Rejection> {
        let mut rows = Vec::new();
        for customer in self.plain_page(Kind::EndUser).await? {
            rows.push(self.customer_row(&customer).await?);
        }
        Ok(rows.into())
    }

    pub(super) async fn customer_set_blocked(&self, blocked: bool) -> Result<Value, Rejection> {
        let ids = self.said.names("user_ids");
        let customers = self
            .change(|| async {
                let mut change = Change::default();
                let mut all = Vec::new();
                let action = if blocked { "blocked" } else { "unblocked" };
                for id in ids.iter().collect::<std::collections::BTreeSet<_>>() {
                    let before = self.get(Kind::EndUser, id).await?;
                    let mut after = before.clone().unwrap_or_else(|| {
                        let mut body = Map::new();
                        self.stamp_new(&mut body);
                        Object {
                            kind: Kind::EndUser,
                            id: (**id).into(),
                            alias: None,
                            user: None,
                            team: None,
                            body,
                            version: 0,
                        }
                    });
                    after.body.insert("blocked".to_owned(), blocked.into());
                    self.stamp_changed(&mut after.body);
                    change.audit.extend(self.audited(action, before.as_ref(), Some(&after)));
                    all.push(after.clone());
                    match before {
                        Some(_) => change.replace.push(after),
                        None => change.create.push(after),
                    }
                }
                Ok(Plan { change, result: all })
            })
            .await?;
        let mut rows = Vec::new();
        for customer in &customers {
            rows.push(self.customer_row(customer).await?);
        }
        let name = if blocked { "blocked_users" } else { "unblocked_users" };
        Ok(json!({name: rows}))
    }

    pub(super) async fn tag_new(&self) -> Result<Value, Rejection> {
        let name = self.said.text("name").unwrap_or_default();
        let tag = self.plain_new(self.plain_object(Kind::Tag, name, TAG)).await?;
        let row = self.tag_row(&tag).await?;
        Ok(json!({"message": format!("Tag {name} created successfully"), "tag": row}))
    }

    pub(super) async fn tag_info(&self) -> Result<Value, Rejection> {
        let mut rows = Map::new();
        for name in self.said.names("names") {
            let Some(tag) = self.get(Kind::Tag, name).await? else {
                return Err(missing("tag", "names"));
            };
            rows.insert(name.to_owned(), self.tag_row(&tag).await?);
        }
        Ok(Value::Object(rows))
    }

    pub(super) async fn tag_update(&self) -> Result<Value, Rejection> {
        let name = self.said.text("name").unwrap_or_default();
        let tag = self.plain_update(Kind::Tag, name, TAG, "name").await?;
        let row = self.tag_row(&tag).await?;
        Ok(json!({"message": format!("Tag {name} updated successfully"), "tag": row}))
    }

    pub(super) async fn tag_delete(&self) -> Result<Value, Rejection> {
        let name = self.said.text("name").unwrap_or_default();
        self.plain_delete(Kind::Tag, &[name], "name").await?;
        Ok(json!({"message": format!("Tag {name} deleted successfully")}))
    }

    pub(super) async fn tag_list(&self) -> Result<Value, Rejection> {
        let mut rows = Vec::new();
        for tag in self.plain_page(Kind::Tag).await? {
            rows.push(self.tag_row(&tag).await?);
        }
        Ok(rows.into())
    }
}

/// What is kept in a body: what is said, and not the id, which stands beside it.
fn names<'f>(fields: &'f [Field]) -> impl Iterator<Item = &'static str> + 'f {
    let is_id = |name: &&str| ["user_id", "name", "budget_id"].contains(name);
    let refers = fields.iter().any(|field| field.name == "budget_id");
    let own = fields
        .iter()
        .map(|field| field.name)
        .filter(move |name| !is_id(name) || (refers && *name == "budget_id"));
    own.chain(MONEY.iter().chain(BY_MODEL).map(|field| field.name))
}
