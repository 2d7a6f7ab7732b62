//! Descriptions of types and fields, gathered at build time from the k8s-openapi crate's documentation.

use std::collections::HashMap;
use std::io::Read as _;

static COMPRESSED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.z"));

/// The unpacked texts. Held only while a document is made (about 1 MB).
pub(super) struct Descriptions {
    text: String,
    /// Type name to the range of its section, name excluded.
    sections: HashMap<String, (usize, usize)>,
}

impl Descriptions {
    /// Unpacks them, in some milliseconds.
    pub(super) fn load() -> Descriptions {
        let mut text = String::new();
        let _ = flate2::read::ZlibDecoder::new(COMPRESSED).read_to_string(&mut text);
        let mut sections = HashMap::new();
        let mut at = 0;
        for section in text.split('\x1e') {
            let end = at + section.len();
            if let Some((name, _)) = section.split_once('\x1f') {
                sections.insert(name.to_string(), (at + name.len() + 1, end));
            }
            at = end + 1;
        }
        Descriptions { text, sections }
    }

    /// What a type is.
    pub(super) fn of_type(&self, name: &str) -> Option<&str> {
        self.section(name)?.split('\x1d').next().filter(|text| !text.is_empty())
    }

    /// What a field is.
    pub(super) fn of_field(&self, name: &str, field: &str) -> Option<&str> {
        let fields = self.section(name)?.split('\x1d').skip(1);
        fields
            .filter_map(|entry| entry.split_once('\x1f'))
            .find(|(json, _)| *json == field)
            .map(|(_, text)| text)
    }

    fn section(&self, name: &str) -> Option<&str> {
        self.sections.get(name).map(|(start, end)| &self.text[*start..*end])
    }
}
