//! Images made of our own static binary: `pause` and `hello`, so that a cluster starts with no registry in
//! reach. Also `navarch image import`.
//!
//! The archive is what `docker save` writes: containerd reads it, and so do other tools.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::error::CliError;

/// The sandbox image.
pub const PAUSE: &str = "navarch.local/pause:1";
/// The demo application's image.
pub const HELLO: &str = "navarch.local/hello:1";

/// What an image starts: name, arguments of our binary, exposed port.
const IMAGES: &[(&str, &str, Option<u16>)] = &[(PAUSE, "pause", None), (HELLO, "hello", Some(8080))];

/// Writes the archive of our images to `out`, made of the program at `binary`.
pub fn write_archive(binary: &Path, out: &Path) -> Result<(), CliError> {
    let layer = out.with_extension("layer");
    let written = write_layer(binary, &layer).and_then(|digest| write_images(&layer, &digest, out));
    let _ = fs::remove_file(&layer);
    written.map_err(|source| CliError::file("write", out, source))
}

fn write_layer(binary: &Path, layer: &Path) -> std::io::Result<String> {
    let mut tar = tar::Builder::new(fs::File::create(layer)?);
    for dir in ["dev/", "etc/", "proc/", "sys/", "tmp/"] {
        let mut header = entry(0, if dir == "tmp/" { 0o1777 } else { 0o755 });
        header.set_entry_type(tar::EntryType::Directory);
        tar.append_data(&mut header, dir, std::io::empty())?;
    }
    let users = "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n";
    tar.append_data(&mut entry(users.len() as u64, 0o644), "etc/passwd", users.as_bytes())?;
    let mut program = fs::File::open(binary)?;
    let mut header = entry(program.metadata()?.len(), 0o755);
    tar.append_data(&mut header, "navarch", &mut program)?;
    tar.into_inner()?.flush()?;
    digest(&mut fs::File::open(layer)?)
}

fn write_images(layer: &Path, layer_digest: &str, out: &Path) -> std::io::Result<()> {
    let temporary = out.with_extension("new");
    let mut tar = tar::Builder::new(fs::File::create(&temporary)?);
    let mut file = fs::File::open(layer)?;
    let layer_name = format!("{layer_digest}.tar");
    tar.append_data(&mut entry(file.metadata()?.len(), 0o644), &layer_name, &mut file)?;
    let mut manifest = Vec::new();
    for (name, command, port) in IMAGES {
        let config = config(command, *port, layer_digest).to_string();
        let config_name = format!("{}.json", digest(&mut config.as_bytes())?);
        tar.append_data(&mut entry(config.len() as u64, 0o644), &config_name, config.as_bytes())?;
        manifest.push(json!({"Config": config_name, "RepoTags": [name], "Layers": [layer_name]}));
    }
    let manifest = Value::Array(manifest).to_string();
    tar.append_data(&mut entry(manifest.len() as u64, 0o644), "manifest.json", manifest.as_bytes())?;
    tar.into_inner()?.flush()?;
    fs::rename(&temporary, out)
}

fn config(command: &str, port: Option<u16>, layer_digest: &str) -> Value {
    let mut config = json!({"Entrypoint": ["/navarch", command], "Env": ["PATH=/"], "WorkingDir": "/"});
    if let Some(port) = port {
        config["ExposedPorts"] = json!({format!("{port}/tcp"): {}});
        config["User"] = json!("65534:65534");
    }
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "architecture": architecture, "os": "linux", "created": "1970-01-01T00:00:00Z", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "navarch"}],
    })
}

fn entry(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header
}

fn digest(reader: &mut impl Read) -> std::io::Result<String> {
    let (mut context, mut buffer) = (Context::new(&SHA256), vec![0; 1 << 16]);
    loop {
        match reader.read(&mut buffer)? {
            0 => break,
            count => context.update(&buffer[..count]),
        }
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Imports image archives into containerd's `k8s.io` namespace.
pub async fn import(socket: &Path, archives: &[PathBuf]) -> Result<String, CliError> {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(socket).args(["--namespace", "k8s.io", "images", "import"]);
    let mut printed = String::new();
    for archive in archives {
        let mut one = Command::new(command.as_std().get_program());
        one.args(command.as_std().get_args()).arg(archive);
        printed.push_str(&run(one, "; is containerd installed and running?").await?);
    }
    Ok(printed)
}

/// Imports our own images unless containerd has them from this very binary already. `stamp` remembers.
pub async fn ensure_own(socket: &Path, stamp: &Path) -> Result<(), CliError> {
    let binary = std::env::current_exe()
        .map_err(|source| CliError::file("find", Path::new("/proc/self/exe"), source))?;
    let facts = fs::metadata(&binary).map_err(|source| CliError::file("read", &binary, source))?;
    use std::os::unix::fs::MetadataExt as _;
    let now = format!("{} {} {}\n", facts.len(), facts.mtime(), facts.mtime_nsec());
    if fs::read_to_string(stamp).is_ok_and(|before| before == now) {
        return Ok(());
    }
    let archive = stamp.with_extension("tar");
    write_archive(&binary, &archive)?;
    let imported = import(socket, std::slice::from_ref(&archive)).await;
    let _ = fs::remove_file(&archive);
    imported?;
    crate::pki::write(stamp, &now)
}

/// Runs a program to its end; what it printed, or its complaint.
pub async fn run(mut command: Command, hint: &'static str) -> Result<String, CliError> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let failed = |detail: String| CliError::Program { program: program.clone(), detail, hint };
    let output = command.kill_on_drop(true).output().await.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(failed(words.trim().lines().last().unwrap_or("no message").to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_repeatable_and_complete() {
        let dir = tempfile::tempdir().expect("a directory");
        let binary = dir.path().join("program");
        fs::write(&binary, "not really a program").expect("written");
        let make = |name: &str| {
            let out = dir.path().join(name);
            write_archive(&binary, &out).expect("an archive");
            fs::read(out).expect("readable")
        };
        let first = make("a.tar");
        assert_eq!(first, make("b.tar"));
        let mut archive = tar::Archive::new(first.as_slice());
        let names: Vec<String> = archive
            .entries()
            .expect("entries")
            .map(|entry| entry.expect("an entry").path().expect("a path").display().to_string())
            .collect();
        assert_eq!(names.len(), 4);
        assert_eq!(names.last().map(String::as_str), Some("manifest.json"));
    }
}
