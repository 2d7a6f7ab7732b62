//! Admission: what may change or refuse an object between decoding and storing, as one ordered table.

use api::ApiError;
use registry::Resource;
use serde_json::Value;

use crate::config::Config;
use crate::object::Served;
use crate::server::{Exchange, Server};
use crate::verbs::Call;
use crate::write::WriteOptions;

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Created.
    Create,
    /// Changed.
    Update,
    /// Deleted.
    Delete,
    /// Connected to (exec, attach, portforward, proxy).
    Connect,
}

impl Operation {
    /// As webhooks and policies name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// One request in the eyes of admission.
pub struct Review<'a> {
    /// The server.
    pub server: &'a Server,
    /// The request.
    pub exchange: &'a Exchange,
    /// The row.
    pub row: &'a Resource,
    /// The row with its schema.
    pub served: &'a Served,
    /// What is done.
    pub operation: Operation,
    /// The subresource.
    pub subresource: String,
    /// The namespace.
    pub namespace: String,
    /// The name; empty while it is not generated.
    pub name: String,
    /// Nothing will be stored.
    pub dry_run: bool,
}

impl<'a> Review<'a> {
    /// Of a call.
    pub fn new(call: &'a Call<'_>, operation: Operation, options: &WriteOptions) -> Review<'a> {
        let info = &call.exchange.info;
        Review {
            server: call.server,
            exchange: call.exchange,
            row: &call.served.row,
            served: &call.served,
            operation,
            subresource: info.subresource.clone(),
            namespace: if call.served.row.namespaced { info.namespace.clone() } else { String::new() },
            name: info.name.clone(),
            dry_run: options.dry_run,
        }
    }

    /// True for this built-in resource (group and plural).
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.row.group == group && self.row.plural == plural
    }

    /// 403 in the words of upstream's admission errors.
    pub fn forbidden(&self, object: Option<&Value>, why: &str) -> ApiError {
        let own = object.and_then(|o| o["metadata"]["name"].as_str()).filter(|n| !n.is_empty());
        let generated = object.and_then(|o| o["metadata"]["generateName"].as_str());
        let name = own.or(generated).unwrap_or(&self.name);
        ApiError::forbidden(&self.row.group, &self.row.plural, name, why)
    }
}

/// Changes an object.
pub type Mutate = fn(&Review<'_>, &mut Value, Option<&Value>) -> Result<(), ApiError>;
/// Refuses an object.
pub type Validate = fn(&Review<'_>, Option<&Value>, Option<&Value>) -> Result<(), ApiError>;

/// One built-in plugin.
pub struct Plugin {
    name: &'static str,
    mutate: Option<Mutate>,
    validate: Option<Validate>,
}

pub mod plugins;
mod quota;
mod webhook;

/// The chain that is configured.
pub struct Admission {
    chain: Vec<&'static Plugin>,
    quota: bool,
}

impl Admission {
    /// The default plugins but those turned off, and those turned on.
    pub fn new(config: &Config) -> Admission {
        let on = |plugin: &&'static Plugin| !config.admission_off.iter().any(|off| off == plugin.name);
        let quota = !config.admission_off.iter().any(|off| off == "ResourceQuota");
        Admission { chain: plugins::TABLE.iter().filter(on).collect(), quota }
    }

    /// Runs what changes objects.
    pub async fn mutate(
        &self,
        review: &mut Review<'_>,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        self.mutate_here(review, object, old)?;
        if webhook::mutate(review, object, old).await? {
            // What webhooks brought in gets its defaults, too.
            self.mutate_here(review, object, old)?;
        }
        Ok(())
    }

    fn mutate_here(
        &self,
        review: &Review<'_>,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        for plugin in &self.chain {
            if let Some(mutate) = plugin.mutate {
                mutate(review, object, old)?;
            }
        }
        Ok(())
    }

    /// Runs what refuses objects.
    pub async fn validate(
        &self,
        review: &Review<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        for plugin in &self.chain {
            if let Some(validate) = plugin.validate {
                validate(review, object, old)?;
            }
        }
        webhook::validate(review, object, old).await?;
        if self.quota {
            quota::admit(review, object, old).await?;
        }
        Ok(())
    }
}
