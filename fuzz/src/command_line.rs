//! kubectl's own languages and formats: templates, columns, the archives of `cp`.

use std::path::PathBuf;
use std::sync::OnceLock;

use kubectl::Sink;
use kubectl::print::columns::Columns;
use kubectl::print::template::Template;
use kubectl::verbs::cp;
use machinery::schema::facts;
use machinery::schema::sample::{Dice, Fill, resource};
use serde_json::Value;

use crate::Target;

/// See [`Target`].
pub const TARGETS: &[Target] = &[
    Target { name: "template", run: run_template, seeds: template_seeds, words: template_words },
    Target { name: "tar", run: run_tar, seeds: tar_seeds, words: tar_words },
];

fn run_template(data: &[u8]) {
    static POD: OnceLock<Value> = OnceLock::new();
    let pods = facts().by_name("io.k8s.api.core.v1.Pod").expect("a type of the table");
    let pod = POD.get_or_init(|| resource(&mut Dice::new(3), pods, Fill::All).expect("a kind"));
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(template) = Template::parse(text) {
        let _ = template.execute(pod);
    }
    for columns in [Columns::parse(text), Columns::parse_file(text)].into_iter().flatten() {
        let _ = columns.show(std::slice::from_ref(pod), true);
    }
}

/// Unpacks below a directory; whatever the archive says, nothing appears beside the target.
fn run_tar(data: &[u8]) {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let base = std::env::var_os("NAVARCH_FUZZ_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        base.join(format!("unpacked-{}", std::process::id()))
    });
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir.join("inside/old")).expect("a directory");
    std::os::unix::fs::symlink("..", dir.join("inside/link")).expect("a link");
    let silent = Sink::new(std::io::sink());
    let _ = cp::unpack(&silent, data, "/a/old", &dir.join("inside"));
    let beside: Vec<_> = std::fs::read_dir(dir).expect("the directory").flatten().collect();
    assert_eq!(beside.len(), 1, "{beside:?}");
    let within: Vec<_> = std::fs::read_dir(dir.join("inside")).expect("the directory").flatten().collect();
    assert_eq!(within.len(), 2, "{within:?}");
}

fn template_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "{{range .spec.containers}}{{.name}}{{\"\\t\"}}{{end}}",
        "{{if and .metadata.name (not .x)}}a{{else if eq 1 2}}b{{else}}c{{end}}",
        "{{with $x := .metadata}}{{$x.name | printf \"%s-%d\" 3}}{{end}}{{- /* note */ -}}",
        "{{range $i, $c := .spec.containers}}{{index $c \"name\"}}{{len $c}}{{break}}{{end}}",
        "{{define \"t\"}}{{.}}{{end}}{{template \"t\" .}}{{block \"u\" .}}x{{end}}",
        "{{printf \"%v %q %5.2f\" 1 \"a\" 2.5}}{{base64decode \"Zm9v\"}}{{.x | html | js | urlquery}}",
        "NAME:.metadata.name,IMAGE:.spec.containers[*].image,X:.metadata.labels.a\\.b",
        "NAME IMAGE\n.metadata.name .spec.containers[0].image\n",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

fn template_words() -> Vec<String> {
    "{{ }} {{- -}} range if else end with define template block break continue and or not eq ne lt le gt ge len index \
     slice print printf println html js urlquery call exists base64decode $x := = | . .metadata ( ) \" ` nil true"
        .split_whitespace()
        .map(String::from)
        .collect()
}

fn tar_seeds() -> Vec<Vec<u8>> {
    let entry = |path: &str, kind: u8, body: &[u8], link: &str| {
        let mut header = [0u8; 512];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[100..107].copy_from_slice(b"0000644");
        header[124..135].copy_from_slice(format!("{:011o}", body.len()).as_bytes());
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let mut out = header.to_vec();
        out.extend_from_slice(body);
        out.resize(out.len().next_multiple_of(512), 0);
        out
    };
    vec![
        [entry("a/old/f", b'0', b"text", ""), entry("a/old/d/", b'5', b"", "")].concat(),
        [entry("a/old/l", b'2', b"", "../.."), entry("a/old/l/x", b'0', b"y", "")].concat(),
        entry("../../x", b'0', b"y", ""),
        [entry("p", b'x', b"23 path=a/old/long/name\n", ""), entry("a/old/s", b'0', b"", "")].concat(),
        [entry("././@LongLink", b'L', b"a/old/very/long\0", ""), entry("a/old/v", b'0', b"z", "")].concat(),
        entry("a/old/h", b'1', b"", "/etc/passwd"),
    ]
}

fn tar_words() -> Vec<String> {
    [
        "a/old/",
        "../",
        "/",
        "ustar\x0000",
        "ustar  \0",
        "././@LongLink",
        "path=",
        "linkpath=",
        "size=",
        "GNU.sparse.map=",
    ]
    .map(String::from)
    .to_vec()
}
