//! Which form a client wants its answer in, and which form its body has. It must not know any kind.

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};

use api::ApiError;
use api::error::Reason;
use registry::Resource;

/// JSON's media type.
pub const JSON: &str = "application/json";
/// YAML's media type.
pub const YAML: &str = "application/yaml";
/// Kubernetes' protobuf media type.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// How an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON, indented when true.
    Json {
        /// Indented for people.
        pretty: bool,
    },
    /// YAML.
    Yaml,
    /// The `k8s\0` envelope.
    Protobuf,
}

/// What is made of an object before it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// The object itself.
    Object,
    /// A `meta.k8s.io` Table in this version.
    Table(String),
    /// PartialObjectMetadata in this version; of a list when true.
    Metadata(String, bool),
}

/// The answer's form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    /// How it is written.
    pub format: Format,
    /// What is written.
    pub view: View,
}

impl Accept {
    /// Plain JSON.
    pub const PLAIN: Accept = Accept { format: Format::Json { pretty: false }, view: View::Object };

    /// The media type of a whole answer.
    pub fn content_type(&self) -> &'static str {
        match self.format {
            Format::Json { .. } => JSON,
            Format::Yaml => YAML,
            Format::Protobuf => PROTOBUF,
        }
    }

    /// 406 when metadata of a list was asked for and there is one object, or the other way round.
    pub fn is_for(&self, row: &Resource, list: bool) -> Result<(), ApiError> {
        let View::Metadata(_, asked) = &self.view else { return Ok(()) };
        if *asked == list {
            return Ok(());
        }
        // Both kinds of events are one to upstream.
        let package = match row.group.split('.').next().unwrap_or("") {
            "" | "events" => "core",
            first => first,
        };
        let why = match list {
            true => format!(
                "PartialObjectMetadata, but the requested object is a list (*{package}.{})",
                row.list_kind
            ),
            false => format!(
                "PartialObjectMetadataList, but the requested object is not a list (*{package}.{})",
                row.kind
            ),
        };
        Err(ApiError::new(Reason::NotAcceptable, format!("you requested {why}")))
    }

    /// The media type of a watch.
    pub fn stream_type(&self) -> &'static str {
        match self.format {
            Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            _ => JSON,
        }
    }
}

/// What a place can answer with.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Tables can be made.
    pub tables: bool,
    /// Protobuf can be made.
    pub protobuf: bool,
    /// The answer is a stream of watch events: no YAML.
    pub watch: bool,
}

struct Clause<'a> {
    media: &'a str,
    quality: f32,
    params: Vec<(&'a str, &'a str)>,
}

fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut all: Vec<Clause<'_>> = header
        .split(',')
        .filter_map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().filter(|media| !media.is_empty())?;
            let params: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
            let quality = params.iter().find(|p| p.0 == "q").and_then(|p| p.1.parse().ok()).unwrap_or(1.0);
            Some(Clause { media, quality, params })
        })
        .collect();
    all.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    all
}

/// Chooses the answer's form from `Accept`, `?pretty` and the user agent.
pub fn accept(headers: &HeaderMap, pretty: Option<bool>, offer: Offer) -> Result<Accept, ApiError> {
    let header = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let pretty = || pretty.unwrap_or_else(|| is_person(headers));
    if header.is_empty() {
        return Ok(Accept { format: Format::Json { pretty: pretty() }, view: View::Object });
    }
    let mut known = false;
    for clause in clauses(header) {
        known |= matches!(clause.media, JSON | "*/*" | YAML | PROTOBUF);
        // What every kind has can be had in protobuf of any kind.
        let transformed = clause.params.iter().any(|(key, _)| *key == "as");
        let format = match clause.media {
            JSON | "*/*" => Format::Json { pretty: pretty() },
            YAML | "application/x-yaml" | "text/yaml" if !offer.watch => Format::Yaml,
            PROTOBUF if offer.protobuf || transformed => Format::Protobuf,
            _ => continue,
        };
        if let Some(view) = view(&clause, offer) {
            return Ok(Accept { format, view });
        }
    }
    if known { Err(not_acceptable(offer)) } else { Err(no_representation(offer)) }
}

/// 406 for media types that nothing here has, as upstream's router says it.
fn no_representation(offer: Offer) -> ApiError {
    let types = if offer.protobuf { &[JSON, YAML, PROTOBUF][..] } else { &[JSON, YAML][..] };
    let message = format!("406: Not Acceptable\n\nAvailable representations: {}", types.join(", "));
    let mut error = ApiError::new(Reason::NotAcceptable, message);
    error.details = Some(Box::default());
    error
}

fn view(clause: &Clause<'_>, offer: Offer) -> Option<View> {
    let get = |key: &str| clause.params.iter().find(|p| p.0 == key).map(|p| p.1);
    let Some(target) = get("as") else {
        let odd = get("v").is_some() || get("g").is_some();
        return (!odd).then_some(View::Object);
    };
    let version = get("v").filter(|v| matches!(*v, "v1" | "v1beta1"))?;
    get("g").filter(|group| *group == "meta.k8s.io")?;
    match target {
        "Table" if offer.tables => Some(View::Table(format!("meta.k8s.io/{version}"))),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => {
            Some(View::Metadata(format!("meta.k8s.io/{version}"), target.ends_with("List")))
        }
        _ => None,
    }
}

/// 406 for a form that could not be given.
pub fn not_acceptable(offer: Offer) -> ApiError {
    let types: &[&str] = match (offer.watch, offer.protobuf) {
        (true, true) => {
            &["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"]
        }
        (true, false) => &["application/json;stream=watch"],
        (false, _) => &[JSON, YAML, PROTOBUF],
    };
    let message = format!("only the following media types are accepted: {}", types.join(", "));
    ApiError::new(Reason::NotAcceptable, message)
}

/// Browsers and curl get indented JSON, as upstream decides by user agent.
fn is_person(headers: &HeaderMap) -> bool {
    let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("");
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|start| agent.starts_with(start))
}

/// The form of a request's body; JSON when the header is absent.
pub fn body_format(headers: &HeaderMap, protobuf: bool) -> Result<Format, ApiError> {
    let header = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let media = header.split(';').next().unwrap_or("").trim();
    match media {
        "" | JSON => Ok(Format::Json { pretty: false }),
        YAML | "application/x-yaml" | "text/yaml" => Ok(Format::Yaml),
        PROTOBUF if protobuf => Ok(Format::Protobuf),
        _ => {
            let types = if protobuf { &[JSON, YAML, PROTOBUF][..] } else { &[JSON, YAML][..] };
            Err(unsupported_media(types))
        }
    }
}

/// 415 with the types that would do.
pub fn unsupported_media(types: &[&str]) -> ApiError {
    let message = format!(
        "the body of the request was in an unknown format - accepted media types include: {}",
        types.join(", ")
    );
    ApiError::new(Reason::UnsupportedMediaType, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_the_first_clause_it_can_serve() {
        let offer = Offer { tables: true, protobuf: true, watch: false };
        let choose = |text: &str, offer| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, text.parse().expect("a header"));
            accept(&headers, None, offer).map(|a| (a.format, a.view)).map_err(|e| e.code)
        };
        let json = Format::Json { pretty: false };
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(choose(table, offer), Ok((json, View::Table("meta.k8s.io/v1".into()))));
        assert_eq!(choose(table, Offer { tables: false, ..offer }), Ok((json, View::Object)));
        let only_table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(choose(only_table, Offer { tables: false, ..offer }), Err(406));
        assert_eq!(
            choose("application/vnd.kubernetes.protobuf,application/json", offer),
            Ok((Format::Protobuf, View::Object))
        );
        assert_eq!(
            choose("application/json;q=0.5,application/yaml", offer),
            Ok((Format::Yaml, View::Object))
        );
        assert_eq!(choose("image/png", offer), Err(406));
    }
}
