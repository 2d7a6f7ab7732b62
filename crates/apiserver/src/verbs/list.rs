//! LIST: one immutable snapshot, written as the concatenation of stored bytes, a page at a time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig, general_purpose::URL_SAFE_NO_PAD};
use bytes::{BufMut, Bytes, BytesMut};
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt as _;
use machinery::codec::proto;
use serde_json::{Value, json};
use store::{HistoryError, Index, Object, Snapshot};

use api::ApiError;
use api::error::Reason;
use api::validation::{ErrorList, FieldError, Path};
use base::BoxError;
use base::http::Body;

use super::{Call, read};
use crate::negotiate::{Accept, Format, View};
use crate::object::Served;
use crate::request::Query;
use crate::respond::{self, Include};

/// Bytes of a list handed to the connection at a time, and at first: each time it is twice as many, so that whoever
/// does not read costs little.
const CHUNK: usize = 128 * 1024;
const FIRST_CHUNK: usize = 16 * 1024;
/// From this length on an object is not copied into a chunk, but goes out in pieces of so many bytes: whoever does not
/// read holds none of its own.
const PIECE: usize = 32 * 1024;

/// Label and field conditions of a list or watch.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// On labels.
    pub labels: api::labels::Selector,
    /// On fields.
    pub fields: api::fields::Selector,
}

impl Selection {
    /// Reads `labelSelector` and `fieldSelector` for a row.
    pub fn parse(call: &Call<'_>) -> Result<Selection, ApiError> {
        let query = &call.exchange.query;
        let labels = api::labels::Selector::parse(query.text("labelSelector"))
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        let fields = api::fields::Selector::parse(query.text("fieldSelector"))
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        if let Some(bad) = fields.0.iter().find(|r| !call.row().is_selectable(&r.field)) {
            return Err(ApiError::bad_request(unknown_field(call, &bad.field)));
        }
        Ok(Selection { labels, fields })
    }

    /// True when everything is selected.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_empty()
    }

    /// Whether an object is selected.
    pub fn wants(&self, served: &Served, object: &Object) -> bool {
        let labels = |key: &str| object.attrs.label(key).map(|value| &**value);
        if !self.labels.is_everything() && !self.labels.matches_with(labels) {
            return false;
        }
        if self.fields.is_empty() {
            return true;
        }
        // Custom resources may be stored in another version, or from before their definition named the fields.
        let own = |r: &api::fields::Requirement| !r.field.starts_with("metadata.");
        if served.row.conversion.is_some() || (served.row.custom && self.fields.0.iter().any(own)) {
            let fields = served.row.fields(&served.tree(object));
            return self.fields.matches(|name| fields.iter().find(|f| f.0 == name).map(|f| f.1.as_str()));
        }
        self.fields.matches(|path| match path {
            "metadata.name" => Some(&*object.key.name),
            "metadata.namespace" => Some(&*object.key.namespace),
            path => object.attrs.field(path).map(|value| &**value),
        })
    }
}

fn unknown_field(call: &Call<'_>, field: &str) -> String {
    let row = call.row();
    if row.kind == "ResourceSlice" && !row.custom {
        return format!("field label not supported for {}, Kind={}: {field}", row.api_version(), row.kind);
    }
    if row.custom || (!row.selectable.is_empty() && row.kind != "Job") {
        return format!("field label not supported: {field}");
    }
    let field = api::validation::go_quote(field);
    if row.kind == "Job" {
        return format!("field label {field} not supported for Job");
    }
    format!("{field} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
}

/// Reads tokens as Go does: bits that are left over do not matter.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::RequireNone)
        .with_encode_padding(false),
);

/// Where a page starts and of which revision it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    /// `None`: whatever is newest (an inconsistent continuation).
    revision: Option<u64>,
    namespace: String,
    name: String,
}

impl Token {
    fn encode(&self) -> String {
        let start = format!("{}/{}\u{0}", self.namespace, self.name);
        let revision = self.revision.map_or(-1, |r| i64::try_from(r).unwrap_or(i64::MAX));
        URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start}).to_string())
    }

    /// Reads a token; what is wrong with it in upstream's words.
    fn decode(text: &str) -> Result<Token, String> {
        let invalid = |why: &str| format!("continue key is not valid: {why}");
        let bytes = LENIENT.decode(text).map_err(|error| {
            invalid(&format!("illegal base64 data at input byte {}", bad_byte(text, &error)))
        })?;
        let value =
            machinery::codec::json::decode_any(&bytes).map_err(|error| invalid(&error.to_string()))?;
        let value = value.value;
        match value["v"].as_str().unwrap_or("") {
            "meta.k8s.io/v1" => {}
            other => {
                return Err(format!("{} {other}", invalid("server does not recognize this encoded version")));
            }
        }
        let revision = value["rv"]
            .as_i64()
            .filter(|r| *r != 0)
            .ok_or_else(|| invalid("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"))?;
        let start = value["start"].as_str().unwrap_or("");
        if start.is_empty() {
            return Err(invalid("encoded start key empty (version meta.k8s.io/v1)"));
        }
        let place = start.trim_end_matches('\u{0}');
        // Nobody gets out of the resource's own keys by way of a token.
        let steps = place.strip_prefix('/').unwrap_or(place);
        if steps.split('/').any(|step| matches!(step, "." | "..")) {
            return Err(invalid(start));
        }
        let (namespace, name) = place.split_once('/').ok_or_else(|| invalid(start))?;
        let revision = u64::try_from(revision).ok();
        Ok(Token { revision, namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

/// The byte at which Go's decoder gives up.
fn bad_byte(text: &str, error: &base64::DecodeError) -> usize {
    match error {
        base64::DecodeError::InvalidByte(at, _) => *at,
        _ => text.len() / 4 * 4,
    }
}

/// A page of objects and what a client needs to go on.
struct Page {
    objects: Vec<Arc<Object>>,
    revision: u64,
    next: Option<String>,
    remaining: Option<usize>,
}

/// Answers a list.
pub async fn list(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let accept = call.exchange.accept(call.offer())?;
    check_options(&call.exchange.query)?;
    call.exchange.query.integer("timeoutSeconds")?;
    let selection = Selection::parse(call)?;
    let include = Include::of(call.exchange, &accept)?;
    accept.is_for(call.row(), true)?;
    let mut page = select(call, &selection).await?;
    page.objects = crate::convert::many(call.server, &call.served, page.objects).await?;
    Ok(answer(call, &accept, page, include))
}

/// What upstream's validation of ListOptions refuses.
fn check_options(query: &Query) -> Result<(), ApiError> {
    let (matching, version, token) =
        (query.text("resourceVersionMatch"), query.text("resourceVersion"), query.text("continue"));
    let mut errors = ErrorList::new();
    let path = Path::new("resourceVersionMatch");
    if query.get("sendInitialEvents").is_some() {
        errors.push(FieldError::forbidden(
            &Path::new("sendInitialEvents"),
            "sendInitialEvents is forbidden for list",
        ));
    }
    if !matching.is_empty() {
        if version.is_empty() {
            errors.push(FieldError::forbidden(
                &path,
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        if !token.is_empty() {
            errors.push(FieldError::forbidden(
                &path,
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        if !matches!(matching, "Exact" | "NotOlderThan") {
            errors.push(FieldError::not_supported(&path, matching, &["Exact", "NotOlderThan", ""]));
        }
        if matching == "Exact" && version == "0" {
            errors.push(FieldError::forbidden(
                &path,
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", &errors)) }
}

async fn select(call: &Call<'_>, selection: &Selection) -> Result<Page, ApiError> {
    let query = &call.exchange.query;
    let limit = query.integer("limit")?.filter(|l| *l > 0).map(|l| usize::try_from(l).unwrap_or(usize::MAX));
    let token = match query.text("continue") {
        "" => None,
        text => Some(
            Token::decode(text)
                .map_err(|why| ApiError::bad_request(format!("invalid continue token: {why}")))?,
        ),
    };
    let snapshot = snapshot(call, token.as_ref(), limit.is_some()).await?;
    let (namespace, after) =
        (namespace(call), token.as_ref().map(|t| (t.namespace.as_str(), t.name.as_str())));
    let wants = |object: &Arc<Object>| selection.wants(&call.served, object);
    let mut page = Page { objects: Vec::new(), revision: snapshot.revision(), next: None, remaining: None };
    let converted = match selects_after_conversion(&call.served, selection) {
        false => None,
        true => {
            let found = candidates(&snapshot, selection, namespace, after).cloned().collect();
            Some(crate::convert::many(call.server, &call.served, found).await?)
        }
    };
    let mut all: Box<dyn Iterator<Item = Arc<Object>>> = match converted {
        Some(objects) => Box::new(objects.into_iter().filter(wants)),
        None => Box::new(candidates(&snapshot, selection, namespace, after).filter(|o| wants(o)).cloned()),
    };
    let Some(limit) = limit else {
        page.objects = all.collect();
        return Ok(page);
    };
    page.objects = all.by_ref().take(limit).collect();
    if all.next().is_some() {
        let last = page.objects.last().expect("a limit above zero");
        let next = Token {
            revision: Some(page.revision),
            namespace: last.key.namespace.to_string(),
            name: last.key.name.to_string(),
        };
        page.next = Some(next.encode());
        if selection.is_everything() {
            page.remaining = Some(1 + all.count());
        }
        drop_keep(call, &snapshot);
    }
    Ok(page)
}

/// Whether a webhook has to convert objects before it is known which are selected.
pub fn selects_after_conversion(served: &Served, selection: &Selection) -> bool {
    let converts = served.custom.as_ref().is_some_and(|custom| custom.conversion.is_some());
    converts && selection.fields.0.iter().any(|requirement| !requirement.field.starts_with("metadata."))
}

fn drop_keep(call: &Call<'_>, snapshot: &Snapshot) {
    call.server.store.keep(snapshot);
}

fn namespace<'a>(call: &'a Call<'_>) -> Option<&'a str> {
    Some(call.namespace()).filter(|namespace| !namespace.is_empty() && call.row().namespaced)
}

/// Objects that may be selected: through an index where one fits.
pub fn candidates<'a>(
    snapshot: &'a Snapshot,
    selection: &'a Selection,
    namespace: Option<&'a str>,
    after: Option<(&'a str, &'a str)>,
) -> Box<dyn Iterator<Item = &'a Arc<Object>> + 'a> {
    if let (Some(name), Some(namespace), None) = (selection.fields.exact("metadata.name"), namespace, after) {
        return Box::new(snapshot.get(namespace, name).into_iter());
    }
    for requirement in selection.fields.0.iter().filter(|r| r.equal) {
        let index = Index::Field(requirement.field.as_str().into());
        if let Some(found) = snapshot.lookup(&index, &requirement.value, namespace, after) {
            return Box::new(found.collect::<Vec<_>>().into_iter());
        }
    }
    for requirement in &selection.labels.requirements {
        if let Some(value) = selection.labels.exact(&requirement.key) {
            let index = Index::Label(requirement.key.as_str().into());
            if let Some(found) = snapshot.lookup(&index, value, namespace, after) {
                return Box::new(found.collect::<Vec<_>>().into_iter());
            }
        }
    }
    Box::new(snapshot.range(namespace, after))
}

async fn snapshot(call: &Call<'_>, token: Option<&Token>, limited: bool) -> Result<Snapshot, ApiError> {
    let (store, query) = (&call.server.store, &call.exchange.query);
    let resource = call.row().storage.clone().unwrap_or_else(|| "".into());
    if let Some(token) = token {
        let Some(revision) = token.revision else { return Ok(store.snapshot(&resource)) };
        return store.snapshot_at(&resource, revision).map_err(|error| expired_token(token, &error));
    }
    let version = query.text("resourceVersion");
    let Some(revision) = read::revision(version)? else {
        store.latest().await.map_err(ApiError::internal)?;
        return Ok(store.snapshot(&resource));
    };
    let exact = match query.text("resourceVersionMatch") {
        "Exact" => true,
        "NotOlderThan" => false,
        _ => limited,
    };
    let fresh = read::not_older_than(call.server, revision).await;
    fresh.map_err(|error| if read::is_uncached(call.row()) { error.without_retry() } else { error })?;
    if exact {
        return store.snapshot_at(&resource, revision).map_err(|error| too_old(revision, &error));
    }
    Ok(store.snapshot(&resource))
}

fn too_old(revision: u64, error: &HistoryError) -> ApiError {
    match error {
        HistoryError::Compacted { oldest, .. } => ApiError::expired(format!(
            "The resourceVersion for the provided list is too old. ({revision} ({oldest}))"
        )),
        other => ApiError::internal(other),
    }
}

fn expired_token(token: &Token, error: &HistoryError) -> ApiError {
    if !matches!(error, HistoryError::Compacted { .. }) {
        return ApiError::internal(error);
    }
    let mut expired = ApiError::new(
        Reason::Expired,
        "The provided continue parameter is too old to display a consistent list result. You can start a new \
         list without the continue parameter, or use the continue token in this response to retrieve the \
         remainder of the results. Continuing with the provided token results in an inconsistent list - \
         objects that were created, modified, or deleted between the time the first chunk was returned and \
         now may show up in the list.",
    );
    expired.continue_token = Some(Token { revision: None, ..token.clone() }.encode());
    expired
}

fn list_meta(page: &Page) -> Value {
    let mut meta = json!({"resourceVersion": page.revision.to_string()});
    if let Some(next) = &page.next {
        meta["continue"] = json!(next);
    }
    if let Some(remaining) = page.remaining {
        meta["remainingItemCount"] = json!(remaining);
    }
    meta
}

fn answer(call: &Call<'_>, accept: &Accept, page: Page, include: Include) -> Response<Body> {
    let (row, served, mut meta) = (call.row(), &call.served, list_meta(&page));
    // Upstream's lists of custom resources have the field even when it says nothing.
    if row.custom && matches!(accept.view, View::Object) && meta.get("continue").is_none() {
        meta["continue"] = "".into();
    }
    let api_version = row.api_version();
    match (&accept.view, accept.format) {
        (View::Object, Format::Json { pretty: false }) => {
            let head = format!(
                "{{\"kind\":\"{}\",\"apiVersion\":\"{api_version}\",\"metadata\":{meta},\"items\":[",
                row.list_kind
            );
            let body = ListBody {
                least: page.objects.iter().map(|o| o.json.len() / 2).sum(),
                served: served.clone(),
                head: Some(head.into()),
                objects: page.objects,
                at: 0,
                large: Bytes::new(),
                chunk: FIRST_CHUNK,
                ended: false,
            };
            let mut response = respond::bytes(StatusCode::OK, accept.content_type(), Bytes::new());
            *response.body_mut() = body.boxed_unsync();
            response
        }
        (View::Object, Format::Protobuf) if !row.custom => {
            let items: Vec<Bytes> = page.objects.iter().filter_map(|object| served.message(object)).collect();
            let body =
                proto::encode_list(&api_version, &row.list_kind, &meta, items.iter().map(|item| &item[..]));
            respond::bytes(StatusCode::OK, accept.content_type(), body)
        }
        (View::Object, _) => {
            let mut items: Vec<Value> = page.objects.iter().map(|object| served.tree(object)).collect();
            if !row.custom {
                items.iter_mut().filter_map(Value::as_object_mut).for_each(|item| {
                    item.remove("kind");
                    item.remove("apiVersion");
                });
            }
            let list =
                json!({"kind": row.list_kind, "apiVersion": api_version, "metadata": meta, "items": items});
            respond::tree(accept, StatusCode::OK, &list)
        }
        (View::Table(version), _) => {
            let mut table = respond::table(version, &row.columns, Value::Null);
            table["metadata"] = meta;
            let now = call.exchange.now;
            let make = |object: &Arc<Object>| {
                respond::row(&row.columns, &served.tree(object), version, now, include)
            };
            table["rows"] = page.objects.iter().map(make).collect();
            respond::tree(accept, StatusCode::OK, &table)
        }
        (View::Metadata(version, _), _) => {
            let items: Vec<Value> =
                page.objects.iter().map(|object| respond::partial(&served.tree(object), version)).collect();
            let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": version, "metadata": meta, "items": items});
            respond::tree(accept, StatusCode::OK, &list)
        }
    }
}

/// A JSON list, assembled as the connection takes it.
struct ListBody {
    served: Served,
    head: Option<Bytes>,
    objects: Vec<Arc<Object>>,
    at: usize,
    /// What is left of a large object.
    large: Bytes,
    /// Bytes of the next chunk.
    chunk: usize,
    ended: bool,
    /// Bytes that there will be at least.
    least: usize,
}

impl http_body::Body for ListBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if !self.large.is_empty() {
            let length = self.large.len().min(PIECE);
            return Poll::Ready(Some(Ok(Frame::data(self.large.split_to(length)))));
        }
        // Room for the object that crosses the mark, too: growing would copy.
        let mut out = BytesMut::with_capacity((2 * self.least + 512).min(self.chunk + self.chunk / 8));
        if let Some(head) = self.head.take() {
            out.put_slice(&head);
        }
        while out.len() < self.chunk {
            let Some(object) = self.objects.get(self.at) else {
                out.put_slice(b"]}");
                self.ended = true;
                break;
            };
            if self.at > 0 {
                out.put_u8(b',');
            }
            let (open, rest) = self.served.item(object);
            out.put_slice(open);
            self.at += 1;
            if rest.len() >= PIECE {
                self.large = rest;
                break;
            }
            out.put_slice(&rest);
        }
        self.chunk = (self.chunk * 2).min(CHUNK);
        Poll::Ready(Some(Ok(Frame::data(out.freeze()))))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        let mut hint = http_body::SizeHint::new();
        if self.at == 0 {
            hint.set_lower(self.least as u64);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip() {
        let token = Token { revision: Some(7), namespace: "a".into(), name: "b".into() };
        assert_eq!(Token::decode(&token.encode()), Ok(token.clone()));
        let token = Token { revision: None, namespace: String::new(), ..token };
        assert_eq!(Token::decode(&token.encode()), Ok(token));
        let error = Token::decode("x!").expect_err("no token");
        assert_eq!(error, "continue key is not valid: illegal base64 data at input byte 1");
    }
}
