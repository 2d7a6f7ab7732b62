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

/// One of our images.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// Its name.
    pub name: &'static str,
    /// What it starts.
    entrypoint: &'static [&'static str],
    /// The port it serves.
    port: Option<u16>,
    /// Its program: the small one that only waits, where this architecture has it, else our binary.
    small: bool,
}

/// All of them; pods need the first one first.
pub const OWN: [Own; 2] = [
    Own { name: PAUSE, entrypoint: &["/navarch", "pause"], port: None, small: true },
    Own { name: HELLO, entrypoint: &["/navarch", "hello"], port: Some(8080), small: false },
];

/// Writes the archive of one of our images to `out`, made of the program at `binary`. Blocks.
pub fn write_archive(own: &Own, binary: &Path, out: &Path) -> Result<(), CliError> {
    let layer = out.with_extension("layer");
    let small = runtime::pause::program(std::env::consts::ARCH).filter(|_| own.small);
    let written = match small {
        Some(program) => write_layer(program.len() as u64, program.as_slice(), &layer),
        None => {
            fs::File::open(binary).and_then(|program| write_layer(program.metadata()?.len(), program, &layer))
        }
    };
    let written = written.and_then(|digest| write_image(own, &layer, &digest, out));
    let _ = fs::remove_file(&layer);
    written.map_err(|source| CliError::file("write", out, source))
}

fn write_layer(size: u64, program: impl Read, layer: &Path) -> std::io::Result<String> {
    let mut tar = tar::Builder::new(fs::File::create(layer)?);
    for dir in ["dev/", "etc/", "proc/", "sys/", "tmp/"] {
        let mut header = entry(0, if dir == "tmp/" { 0o1777 } else { 0o755 });
        header.set_entry_type(tar::EntryType::Directory);
        tar.append_data(&mut header, dir, std::io::empty())?;
    }
    let users = "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n";
    tar.append_data(&mut entry(users.len() as u64, 0o644), "etc/passwd", users.as_bytes())?;
    tar.append_data(&mut entry(size, 0o755), "navarch", program)?;
    tar.into_inner()?.flush()?;
    digest(&mut fs::File::open(layer)?)
}

fn write_image(own: &Own, layer: &Path, layer_digest: &str, out: &Path) -> std::io::Result<()> {
    let temporary = out.with_extension("new");
    let mut tar = tar::Builder::new(fs::File::create(&temporary)?);
    let mut file = fs::File::open(layer)?;
    let layer_name = format!("{layer_digest}.tar");
    tar.append_data(&mut entry(file.metadata()?.len(), 0o644), &layer_name, &mut file)?;
    let config = config(own, layer_digest).to_string();
    let config_name = format!("{}.json", digest(&mut config.as_bytes())?);
    tar.append_data(&mut entry(config.len() as u64, 0o644), &config_name, config.as_bytes())?;
    let manifest = json!([{"Config": config_name, "RepoTags": [own.name], "Layers": [layer_name]}]);
    let manifest = manifest.to_string();
    tar.append_data(&mut entry(manifest.len() as u64, 0o644), "manifest.json", manifest.as_bytes())?;
    tar.into_inner()?.flush()?;
    fs::rename(&temporary, out)
}

fn config(own: &Own, layer_digest: &str) -> Value {
    let mut config = json!({"Entrypoint": own.entrypoint, "Env": ["PATH=/"], "WorkingDir": "/"});
    if let Some(port) = own.port {
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

/// Prints the images of the runtime at `socket`, by name.
pub async fn list(socket: &Path) -> Result<(), CliError> {
    let failed = |error: runtime::CriError| CliError::component("container runtime", error);
    let cri = runtime::Cri::new(&format!("unix://{}", socket.display())).map_err(failed)?;
    let request = runtime::cri::messages::ListImagesRequest { filter: None };
    let images = cri.list_images(request).await.map_err(failed)?.images;
    let mut rows: Vec<[String; 3]> = Vec::new();
    for image in images {
        let id = image.id.trim_start_matches("sha256:").chars().take(12).collect::<String>();
        let size = format!("{:.1} MB", image.size as f64 / 1e6);
        let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
        rows.extend(names.iter().map(|name| [name.clone(), id.clone(), size.clone()]));
    }
    rows.sort();
    rows.insert(0, ["IMAGE", "ID", "SIZE"].map(str::to_owned));
    print!("{}", crate::token::table(&rows));
    Ok(())
}

/// Our images on their way to containerd.
pub struct Import {
    binary: PathBuf,
    stamp: PathBuf,
    /// What the stamp says when containerd has them from this very binary.
    fresh: String,
}

impl Import {
    /// `stamp` remembers what was imported last.
    pub fn new(stamp: PathBuf) -> Result<Import, CliError> {
        use std::os::unix::fs::MetadataExt as _;
        let binary = std::env::current_exe()
            .map_err(|source| CliError::file("find", Path::new("/proc/self/exe"), source))?;
        let facts = fs::metadata(&binary).map_err(|source| CliError::file("read", &binary, source))?;
        let fresh = format!("{} {} {}\n", facts.len(), facts.mtime(), facts.mtime_nsec());
        Ok(Import { binary, stamp, fresh })
    }

    /// True when containerd has them.
    pub fn done(&self) -> bool {
        fs::read_to_string(&self.stamp).is_ok_and(|before| before == self.fresh)
    }

    /// Writes the archive of one.
    pub async fn write(&self, own: Own) -> Result<PathBuf, CliError> {
        let archive = self.stamp.with_extension(format!("{}.tar", own.entrypoint[1]));
        let (binary, out) = (self.binary.clone(), archive.clone());
        base::tasks::blocking(move || write_archive(&own, &binary, &out)).await?;
        Ok(archive)
    }

    /// Imports an archive and removes it.
    pub async fn bring(&self, socket: &Path, archive: PathBuf) -> Result<(), CliError> {
        let imported = import(socket, std::slice::from_ref(&archive)).await;
        let _ = fs::remove_file(&archive);
        imported.map(drop)
    }

    /// Notes that all are there.
    pub fn finish(&self) -> Result<(), CliError> {
        crate::pki::write(&self.stamp, &self.fresh)
    }
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
            write_archive(&OWN[1], &binary, &out).expect("an archive");
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
        assert_eq!(names.len(), 3);
        assert_eq!(names.last().map(String::as_str), Some("manifest.json"));
    }
}
