//! Removes images that nobody uses: while the disk is too full, when they are old, or when room is needed now.
//!
//! Must not know pods: an image is in use when a container has it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use runtime::cri::messages as m;

use crate::node::machine;
use crate::shared::Shared;

/// When an image was seen.
#[derive(Clone, Copy, Debug)]
struct Seen {
    first: Duration,
    used: Duration,
}

/// Remembers images; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Collector(Arc<Mutex<BTreeMap<String, Seen>>>);

/// An image that may go.
struct Unused {
    image: m::Image,
    seen: Seen,
}

impl Collector {
    /// Removes images past their age, and more while the disk is too full.
    pub async fn keep_room(&self, shared: &Shared) {
        let Some(mut unused) = self.unused(shared).await else { return };
        let now = shared.clock.monotonic();
        if let Some(longest) = shared.config.image_max_age {
            let (old, rest): (Vec<Unused>, Vec<Unused>) =
                unused.into_iter().partition(|one| now.saturating_sub(one.seen.used) > longest);
            unused = rest;
            remove(shared, old, |_| true).await;
        }
        let disk = machine::filesystem(&shared.image_dir());
        let percent = |used: u64| used * 100 / disk.capacity_bytes.max(1);
        if percent(disk.used_bytes) >= shared.config.image_gc_high_percent {
            let low = shared.config.image_gc_low_percent;
            remove(shared, unused, |freed| percent(disk.used_bytes.saturating_sub(freed)) >= low).await;
        }
    }

    /// Removes every image that nobody uses.
    pub async fn remove_unused(&self, shared: &Shared) {
        if let Some(unused) = self.unused(shared).await {
            remove(shared, unused, |_| true).await;
        }
    }

    /// Images that no container has and that have been here for a while; least recently used first.
    async fn unused(&self, shared: &Shared) -> Option<Vec<Unused>> {
        let images = shared.cri.list_images(m::ListImagesRequest { filter: None }).await.ok()?.images;
        let containers = shared.cri.list_containers(m::ListContainersRequest { filter: None }).await.ok()?;
        let mut in_use: BTreeSet<String> = BTreeSet::new();
        for container in containers.containers {
            in_use.insert(container.image_ref);
            in_use.extend(container.image.map(|image| image.image));
        }
        let now = shared.clock.monotonic();
        let mut known = self.0.lock();
        known.retain(|id, _| images.iter().any(|image| image.id == *id));
        let mut unused = Vec::new();
        for image in images {
            let used = in_use.contains(&image.id)
                || image.repo_tags.iter().chain(&image.repo_digests).any(|name| in_use.contains(name));
            let seen = known.entry(image.id.clone()).or_insert(Seen { first: now, used: now });
            if used {
                seen.used = now;
            }
            let ours = image.pinned || image.repo_tags.iter().any(|tag| tag.starts_with("navarch.local/"));
            if !used && !ours && now.saturating_sub(seen.first) >= shared.config.image_min_age {
                unused.push(Unused { image, seen: *seen });
            }
        }
        unused.sort_by_key(|one| (one.seen.used, one.seen.first, std::cmp::Reverse(one.image.size)));
        Some(unused)
    }
}

/// Removes images while `more`, which is told how many bytes are free by now, says so.
async fn remove(shared: &Shared, unused: Vec<Unused>, more: impl Fn(u64) -> bool) {
    let mut freed = 0;
    for Unused { image, .. } in unused {
        if !more(freed) {
            return;
        }
        let spec = m::ImageSpec { image: image.id.clone(), ..m::ImageSpec::default() };
        match shared.cri.remove_image(m::RemoveImageRequest { image: Some(spec) }).await {
            Ok(_) => {
                tracing::info!(image = image.id, bytes = image.size, "removed an unused image");
                freed += image.size;
            }
            Err(error) => tracing::warn!(image = image.id, %error, "image not removed"),
        }
    }
}
