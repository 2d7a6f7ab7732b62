//! Admission: what may change or refuse an object between decoding and storing, as one ordered table.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Duration;

use api::ApiError;
use base::Clock;
use base::metrics::Metrics;
use machinery::schema::{Schema, facts};
use registry::Resource;
use serde_json::Value;

use crate::config::Config;
use crate::measure::{Admissions, Part};
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
    /// The options of a deletion; those of writes are in the query.
    pub options: Option<Value>,
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
            options: None,
        }
    }

    /// The subresource, where its body is of another kind than the object.
    fn other_kind(&self) -> Option<&registry::Subresource> {
        let sub = self.row.subresource(&self.subresource)?;
        let same =
            sub.group == self.row.group && sub.version == self.row.version && sub.kind == self.row.kind;
        (!same).then_some(sub)
    }

    /// Where the numbers of a Scale are, when the request is about one.
    fn scale(&self) -> Option<&registry::ScalePaths> {
        match &self.row.subresource(&self.subresource)?.role {
            registry::Role::Scale(paths) => Some(paths),
            _ => None,
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

mod matching;
pub mod plugins;
pub mod policy;
mod quota;
mod request;
mod webhook;

/// Which policies or webhooks are to run again when others have changed the object after them.
#[derive(Default)]
struct Family {
    earlier: BTreeSet<String>,
    wanted: BTreeSet<String>,
    last: Option<Value>,
}

impl Family {
    /// A round begins: what others changed meanwhile counts as a change.
    fn begin(&mut self, second: bool, object: &Value) {
        if second && self.last.as_ref() != Some(object) {
            self.changed();
        }
    }

    /// Whether this one runs in this round.
    fn wants(&self, second: bool, key: &str) -> bool {
        !second || self.wanted.contains(key)
    }

    /// The object changed: those that ran before want to see it.
    fn changed(&mut self) {
        self.wanted.append(&mut self.earlier);
    }

    /// One that wants to see later changes has run.
    fn ran(&mut self, key: String) {
        self.earlier.insert(key);
    }

    fn end(&mut self, object: &Value) {
        self.last = Some(object.clone());
    }
}

/// The rounds of mutation: a second one follows when policies or webhooks changed the object.
#[derive(Default)]
pub struct Reinvocation {
    second: bool,
    needed: bool,
    policies: Family,
    webhooks: Family,
}

/// A request as a row sees it.
struct Seen<'a> {
    object: Cow<'a, Value>,
    old: Cow<'a, Value>,
    request: Value,
}

/// Shows a request to a policy or webhook that speaks the row's version.
async fn seen<'a>(
    review: &Review<'_>,
    row: &Resource,
    object: &'a Value,
    old: Option<&'a Value>,
) -> Result<Seen<'a>, ApiError> {
    static NONE: Value = Value::Null;
    let own = &review.served.row;
    let request = request::attributes(review, row, object, old);
    let (object, old) = (object, old.unwrap_or(&NONE));
    if (own.version == row.version && own.group == row.group) || review.other_kind().is_some() {
        return Ok(Seen { object: Cow::Borrowed(object), old: Cow::Borrowed(old), request });
    }
    let object = crate::convert::between(review.server, own, row, object.clone()).await?;
    let old = crate::convert::between(review.server, own, row, old.clone()).await?;
    Ok(Seen { object: Cow::Owned(object), old: Cow::Owned(old), request })
}

/// Canonical form and defaults of what a policy or webhook made in the row's version.
fn settle(review: &Review<'_>, row: &std::sync::Arc<Resource>, tree: &mut Value) {
    if let Some(sub) = review.other_kind() {
        let known = facts().by_gvk(&sub.group, &sub.version, &sub.kind);
        if let Some(Ok(decoded)) = known.map(|f| machinery::codec::json::conform(Schema::Type(f), tree)) {
            *tree = decoded.value;
        }
        return;
    }
    let serving = review.server.rows.serving();
    let served = Served::new(row.clone(), serving.custom(row).cloned());
    if let Some(custom) = &served.custom {
        machinery::schema::structural::prune(&custom.node, tree);
    } else if let Ok(decoded) = machinery::codec::json::conform(served.schema(), tree) {
        *tree = decoded.value;
    }
    served.default(tree);
}

/// A plugin of the chain, and how long its parts took.
struct Link {
    plugin: &'static Plugin,
    admitted: Option<Admissions>,
    validated: Option<Admissions>,
}

impl Link {
    fn new(plugin: &'static Plugin, metrics: &Metrics) -> Link {
        let of = |part| Admissions::of_plugin(metrics, plugin.name, part);
        Link {
            plugin,
            admitted: plugin.mutate.map(|_| of(Part::Admit)),
            validated: plugin.validate.map(|_| of(Part::Validate)),
        }
    }
}

/// Runs one after the other and notes how long each took.
struct Stopwatch<'a> {
    clock: &'a Clock,
    operation: Operation,
    last: Duration,
}

impl<'a> Stopwatch<'a> {
    fn new(review: &'a Review<'_>) -> Stopwatch<'a> {
        let clock = &review.server.clock;
        Stopwatch { clock, operation: review.operation, last: clock.monotonic() }
    }

    fn lap(&mut self, series: Option<&Admissions>, good: bool) {
        let now = self.clock.monotonic();
        if let Some(series) = series {
            series.note(self.operation, good, now.saturating_sub(self.last));
        }
        self.last = now;
    }
}

/// The chain that is configured.
pub struct Admission {
    chain: Vec<Link>,
    quota: bool,
    policies: [bool; 2],
    webhooks: [bool; 2],
}

impl Admission {
    /// The default plugins but those turned off, and those turned on.
    pub fn new(config: &Config, metrics: &Metrics) -> Admission {
        let on = |name: &str| !config.admission_off.iter().any(|off| off == name);
        Admission {
            chain: plugins::TABLE
                .iter()
                .filter(|plugin| on(plugin.name))
                .map(|plugin| Link::new(plugin, metrics))
                .collect(),
            quota: on("ResourceQuota"),
            policies: [on("MutatingAdmissionPolicy"), on("ValidatingAdmissionPolicy")],
            webhooks: [on("MutatingAdmissionWebhook"), on("ValidatingAdmissionWebhook")],
        }
    }

    /// Runs what changes objects, a second time where policies or webhooks changed one.
    pub async fn mutate(
        &self,
        review: &mut Review<'_>,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let began = review.server.clock.monotonic();
        let done = self.mutate_in_rounds(review, object, old).await;
        let took = review.server.clock.monotonic().saturating_sub(began);
        review.server.measures.step(Part::Admit, review.operation, done.is_ok(), took);
        done
    }

    async fn mutate_in_rounds(
        &self,
        review: &mut Review<'_>,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let mut again = Reinvocation::default();
        self.mutate_here(review, object, old)?;
        self.mutate_outside(review, object, old, &mut again).await?;
        if again.needed {
            again.second = true;
            self.mutate_here(review, object, old)?;
            self.mutate_outside(review, object, old, &mut again).await?;
        }
        Ok(())
    }

    /// Shows a deletion or a connection to the mutating policies and webhooks: there is no object to change.
    pub async fn announce(
        &self,
        review: &Review<'_>,
        options: &Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let mut shown = options.clone();
        self.mutate_outside(review, &mut shown, old, &mut Reinvocation::default()).await
    }

    async fn mutate_outside(
        &self,
        review: &Review<'_>,
        object: &mut Value,
        old: Option<&Value>,
        again: &mut Reinvocation,
    ) -> Result<(), ApiError> {
        // Of a request about a Scale they see no more than that.
        if let Some(paths) = review.scale() {
            let before = registry::scale::read(paths, object);
            let (mut view, old) = (before.clone(), old.map(|old| registry::scale::read(paths, old)));
            self.ask_mutators(review, &mut view, old.as_ref(), again).await?;
            if view != before {
                registry::scale::apply(review.row, paths, object, &view)?;
            }
            return Ok(());
        }
        self.ask_mutators(review, object, old, again).await
    }

    async fn ask_mutators(
        &self,
        review: &Review<'_>,
        object: &mut Value,
        old: Option<&Value>,
        again: &mut Reinvocation,
    ) -> Result<(), ApiError> {
        if self.policies[0] {
            policy::mutate(review, object, old, again).await?;
        }
        if self.webhooks[0] {
            webhook::mutate(review, object, old, again).await?;
        }
        Ok(())
    }

    fn mutate_here(
        &self,
        review: &Review<'_>,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let mut watch = Stopwatch::new(review);
        for link in &self.chain {
            if let Some(mutate) = link.plugin.mutate {
                let done = mutate(review, object, old);
                watch.lap(link.admitted.as_ref(), done.is_ok());
                done?;
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
        let began = review.server.clock.monotonic();
        let done = self.validate_all(review, object, old).await;
        let took = review.server.clock.monotonic().saturating_sub(began);
        review.server.measures.step(Part::Validate, review.operation, done.is_ok(), took);
        done
    }

    async fn validate_all(
        &self,
        review: &Review<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        {
            let mut watch = Stopwatch::new(review);
            for link in &self.chain {
                if let Some(validate) = link.plugin.validate {
                    let done = validate(review, object, old);
                    watch.lap(link.validated.as_ref(), done.is_ok());
                    done?;
                }
            }
        }
        match review.scale() {
            None => self.ask_validators(review, object, old).await?,
            Some(paths) => {
                let view = |tree: &Value| registry::scale::read(paths, tree);
                let (object, old) = (object.map(view), old.map(view));
                self.ask_validators(review, object.as_ref(), old.as_ref()).await?;
            }
        }
        if self.quota {
            quota::admit(review, object, old).await?;
        }
        Ok(())
    }

    async fn ask_validators(
        &self,
        review: &Review<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        if self.policies[1] {
            policy::validate(review, object, old).await?;
        }
        if self.webhooks[1] {
            webhook::validate(review, object, old).await?;
        }
        Ok(())
    }
}
