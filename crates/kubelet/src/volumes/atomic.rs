//! Files that change all at once: a hidden directory holds one version, `..data` points at it, and every visible
//! name is a link through `..data`. Readers see the old version or the new one, never a mixture.
//!
//! Must not know where the content comes from. The layout is upstream's (`atomic_writer.go`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

/// The link that readers go through.
const DATA: &str = "..data";
/// Its successor, before it is renamed over it.
const NEW_DATA: &str = "..data_tmp";

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner, when not root.
    pub owner: Option<u32>,
}

/// Files by path beneath the volume.
pub type Payload = BTreeMap<PathBuf, Content>;

/// Who may read the files beside their owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// The pod's fsGroup.
    pub group: Option<u32>,
}

/// Makes `dir` show exactly `payload`. True when something changed.
pub fn write(dir: &Path, payload: &Payload, ownership: Ownership, version: &str) -> io::Result<bool> {
    for path in payload.keys() {
        check(path)?;
    }
    fs::create_dir_all(dir)?;
    let data = dir.join(DATA);
    let current = fs::read_link(&data).ok();
    if current.is_some() && same(&data, payload, ownership)? {
        return Ok(false);
    }
    let name = format!("..{version}");
    let fresh = dir.join(&name);
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    for (path, content) in payload {
        put(&fresh, path, content)?;
    }
    set_group(&fresh, ownership)?;
    let new_data = dir.join(NEW_DATA);
    let _ = fs::remove_file(&new_data);
    symlink(&name, &new_data)?;
    fs::rename(&new_data, &data)?;
    link_names(dir, payload)?;
    set_dir_group(dir, ownership)?;
    if let Some(old) = current.filter(|old| old != Path::new(&name)) {
        let _ = fs::remove_dir_all(dir.join(old));
    }
    Ok(true)
}

/// A path must be relative, stay beneath, and not look like our own names.
fn check(path: &Path) -> io::Result<()> {
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    let own =
        path.components().next().is_some_and(|part| part.as_os_str().to_string_lossy().starts_with(".."));
    if plain && !own && !path.as_os_str().is_empty() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {path:?} in a volume")))
}

/// The mode with what fsGroup adds: the volume is read-only, so the group may read.
fn mode_of(content: &Content, ownership: Ownership) -> u32 {
    if ownership.group.is_some() { content.mode | 0o440 } else { content.mode }
}

fn put(root: &Path, path: &Path, content: &Content) -> io::Result<()> {
    let target = root.join(path);
    let parent = target.parent().unwrap_or(root);
    if parent != root {
        fs::create_dir_all(parent)?;
        let mut dir = parent;
        while dir != root {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
            dir = dir.parent().unwrap_or(root);
        }
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target)?;
    file.write_all(&content.bytes)?;
    file.set_permissions(fs::Permissions::from_mode(content.mode & 0o7777))?;
    if let Some(owner) = content.owner {
        std::os::unix::fs::fchown(&file, Some(owner), None)?;
        file.set_permissions(fs::Permissions::from_mode(content.mode & 0o7777))?;
    }
    Ok(())
}

/// Gives everything beneath to the group: files readable, directories enterable and inheriting.
fn set_group(root: &Path, ownership: Ownership) -> io::Result<()> {
    let Some(group) = ownership.group else { return Ok(()) };
    let meta = fs::symlink_metadata(root)?;
    std::os::unix::fs::lchown(root, None, Some(group))?;
    if meta.is_dir() {
        fs::set_permissions(root, fs::Permissions::from_mode(meta.permissions().mode() & 0o7777 | 0o2550))?;
        for entry in fs::read_dir(root)? {
            set_group(&entry?.path(), ownership)?;
        }
    } else if meta.is_file() {
        fs::set_permissions(root, fs::Permissions::from_mode(meta.permissions().mode() & 0o7777 | 0o440))?;
    }
    Ok(())
}

fn set_dir_group(dir: &Path, ownership: Ownership) -> io::Result<()> {
    let Some(group) = ownership.group else { return Ok(()) };
    std::os::unix::fs::lchown(dir, None, Some(group))?;
    let mode = fs::metadata(dir)?.permissions().mode();
    fs::set_permissions(dir, fs::Permissions::from_mode(mode & 0o7777 | 0o2550))
}

/// First parts of the paths become links; links to what is gone go.
fn link_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    let first = |path: &Path| path.components().next().map(|part| part.as_os_str().to_owned());
    let wanted: BTreeSet<_> = payload.keys().filter_map(|path| first(path)).collect();
    for name in &wanted {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let ours = name.to_string_lossy().starts_with("..");
        if !ours && !wanted.contains(&name) && entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// True when the version in place holds exactly this.
fn same(data: &Path, payload: &Payload, ownership: Ownership) -> io::Result<bool> {
    let mut seen = 0;
    let mut stack = vec![fs::canonicalize(data)?];
    let top = stack[0].clone();
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            if meta.is_dir() {
                stack.push(path);
                continue;
            }
            let Some(content) = path.strip_prefix(&top).ok().and_then(|path| payload.get(path)) else {
                return Ok(false);
            };
            if fs::read(&path)? != content.bytes
                || meta.permissions().mode() & 0o7777 != mode_of(content, ownership)
            {
                return Ok(false);
            }
            seen += 1;
        }
    }
    Ok(seen == payload.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let content = |text: &str| Content { bytes: text.into(), mode: 0o644, owner: None };
        files.iter().map(|(path, text)| (PathBuf::from(path), content(text))).collect()
    }

    #[test]
    fn versions_replace_each_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let base = dir.path().join("v");
        let write = |files: &[(&str, &str)], version: &str| {
            super::write(&base, &payload(files), Ownership::default(), version).expect("writes")
        };
        assert!(write(&[("a", "1"), ("d/b", "2")], "v1"));
        assert!(!write(&[("a", "1"), ("d/b", "2")], "v2"));
        assert_eq!(fs::read_to_string(base.join("d/b")).expect("reads"), "2");
        assert_eq!(fs::read_link(base.join("a")).expect("a link"), Path::new("..data/a"));
        assert!(write(&[("c", "3")], "v3"));
        assert!(!base.join("a").exists() && !base.join("..v1").exists());
        assert_eq!(fs::read_to_string(base.join("c")).expect("reads"), "3");
        assert!(write(&[], "v4"));
        for bad in ["../x", "/x", "..x", ""] {
            assert!(
                super::write(&base, &payload(&[(bad, "")]), Ownership::default(), "v5").is_err(),
                "{bad}"
            );
        }
    }
}
