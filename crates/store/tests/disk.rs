//! The store over the disk journal: reopening, damage, failures, shrinking, backup.
#![allow(clippy::unwrap_used)]

mod kit;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kit::{disk, draft, dump, json, next, on_node, options, pod, put, tiny};
use store::{
    CommitError, DiskOp, DiskOptions, Engine, EngineError, Expect, HistoryError, Interest, Key, RESTORE_JUMP,
    Store, WatchFrom, Write,
};

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    files.sort();
    files
}

async fn try_open(dir: &Path) -> Result<Store, EngineError> {
    Store::open(Engine::disk(tiny(dir))?, options()).await
}

#[tokio::test]
async fn reopening_gives_the_same_state_and_never_an_old_revision() {
    let dir = tempfile::tempdir().unwrap();
    let store = disk(tiny(dir.path())).await;
    for i in 0..300 {
        store.commit(put(pod("x", &format!("p{}", i % 7)), &format!("{i}"))).await.unwrap();
    }
    store.commit(Write::delete(pod("x", "p0"), Expect::Any)).await.unwrap();
    let (before, revision) = (dump(&store), store.revision());
    store.close().await;
    assert!(files(dir.path()).len() > 1, "the test should span files");
    let store = disk(tiny(dir.path())).await;
    assert_eq!(dump(&store), before);
    assert_eq!(store.revision(), revision);
    let next = store.commit(put(pod("x", "new"), "n")).await.unwrap();
    assert_eq!(next.revision, revision + 1);
}

#[tokio::test]
async fn the_revision_survives_when_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for round in 0..5 {
        let store = disk(tiny(dir.path())).await;
        assert_eq!(store.revision(), last);
        for i in 0..200 {
            let key = pod("x", &format!("{round}-{i}"));
            store.commit(put(key.clone(), &"y".repeat(100))).await.unwrap();
            last = store.commit(Write::delete(key, Expect::Any)).await.unwrap().revision;
        }
        assert!(dump(&store).is_empty());
        store.close().await;
    }
}

#[tokio::test]
async fn a_watch_resumes_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = disk(DiskOptions::new(dir.path())).await;
    store.commit(put(pod("x", "a"), "1")).await.unwrap();
    let seen = store.commit(put(pod("x", "a"), "2")).await.unwrap().revision;
    store.commit(put(pod("x", "a"), "3")).await.unwrap();
    store.commit(Write::delete(pod("x", "a"), Expect::Any)).await.unwrap();
    store.close().await;
    let store = disk(DiskOptions::new(dir.path())).await;
    let mut watch = store.watch("pods", Interest::All, WatchFrom::Revision(seen)).unwrap();
    let event = next(&mut watch).await.unwrap();
    assert_eq!((event.kind, event.revision), (store::EventKind::Modified, seen + 1));
    assert_eq!(&event.previous.as_ref().unwrap().json[..], json(seen, "2").as_bytes());
    let event = next(&mut watch).await.unwrap();
    assert_eq!(event.kind, store::EventKind::Deleted);
    assert_eq!(&event.object.json[..], json(seen + 2, "3").as_bytes());
    assert_eq!(store.snapshot_at("pods", seen).unwrap().len(), 1);
}

#[tokio::test]
async fn an_unfinished_write_is_dropped_wherever_it_was_cut() {
    let dir = tempfile::tempdir().unwrap();
    let store = disk(DiskOptions::new(dir.path())).await;
    store.commit(put(pod("x", "a"), "1")).await.unwrap();
    store.commit(put(pod("x", "b"), "2")).await.unwrap();
    let before = dump(&store);
    let file = files(dir.path()).pop().unwrap();
    let whole = fs::metadata(&file).unwrap().len() as usize;
    store.commit_all(vec![put(pod("x", "c"), "3"), put(pod("x", "a"), "4")]).await.unwrap();
    store.close().await;
    let bytes = fs::read(&file).unwrap();
    for cut in whole..bytes.len() {
        let garbled: Vec<u8> = bytes[..cut].iter().copied().chain([0xff; 9]).collect();
        for torn in [&bytes[..cut], &garbled[..]] {
            fs::write(&file, torn).unwrap();
            let store = disk(DiskOptions::new(dir.path())).await;
            assert_eq!(dump(&store), before, "cut at {cut}");
            assert_eq!(store.revision(), 2);
            store.close().await;
            assert_eq!(fs::metadata(&file).unwrap().len() as usize, whole);
        }
    }
}

#[tokio::test]
async fn damage_to_what_was_durable_is_reported_not_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let store = disk(tiny(dir.path())).await;
    for i in 0..100 {
        store.commit(put(pod("x", &format!("p{i}")), &"y".repeat(100))).await.unwrap();
    }
    store.close().await;
    let files = files(dir.path());
    for (file, at) in [(&files[0], 20), (&files[0], 500), (files.last().unwrap(), 100)] {
        let whole = fs::read(file).unwrap();
        let mut bad = whole.clone();
        bad[at] ^= 1;
        fs::write(file, &bad).unwrap();
        match try_open(dir.path()).await {
            Err(EngineError::Corrupt { path, .. }) => assert_eq!(&path, file),
            other => panic!("{:?}", other.err()),
        }
        assert_eq!(fs::read(file).unwrap(), bad, "a damaged file is left alone");
        fs::write(file, &whole).unwrap();
    }
    let missing = fs::read(&files[1]).unwrap();
    fs::remove_file(&files[1]).unwrap();
    assert!(matches!(try_open(dir.path()).await, Err(EngineError::Corrupt { .. })));
    fs::write(&files[1], missing).unwrap();
    assert!(try_open(dir.path()).await.is_ok());
}

#[tokio::test]
async fn what_is_left_of_a_damaged_store_can_be_saved() {
    let root = tempfile::tempdir().unwrap();
    let (dir, backup) = (root.path().join("one"), root.path().join("backup"));
    let store = disk(tiny(&dir)).await;
    for i in 0..100 {
        store.commit(put(pod("x", &format!("p{i}")), &"y".repeat(100))).await.unwrap();
    }
    store.commit(Write::delete(pod("x", "p99"), Expect::Any)).await.unwrap();
    assert!(matches!(store::salvage(&dir, &backup), Err(EngineError::Locked(_))));
    let before = dump(&store);
    store.close().await;
    let whole = store::salvage(&dir, &backup).unwrap();
    assert_eq!((whole.backup.objects, whole.backup.revision, whole.lost.len()), (99, 101, 0));

    let bad = &files(&dir)[1];
    let mut bytes = fs::read(bad).unwrap();
    bytes[300] ^= 1;
    bytes[0] ^= 1;
    fs::write(bad, bytes).unwrap();
    let part = store::salvage(&dir, &backup).unwrap();
    assert_eq!((part.backup.objects, part.lost.len()), (98, 1));
    assert_eq!(&part.lost[0].0, bad);
    let target = root.path().join("two");
    store::restore(&backup, tiny(&target)).unwrap();
    let after = dump(&disk(tiny(&target)).await);
    assert!(after.iter().all(|line| before.contains(line)) && after.len() == 98);
}

#[tokio::test]
async fn a_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let store = disk(tiny(dir.path())).await;
    assert!(matches!(try_open(dir.path()).await, Err(EngineError::Locked(_))));
    store.close().await;
    assert!(try_open(dir.path()).await.is_ok());
}

#[tokio::test]
async fn files_shrink_after_churn_and_stay_bounded_under_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = disk(tiny(dir.path())).await;
    // A file may go between being listed and being looked at.
    let length = |file: &PathBuf| fs::metadata(file).map_or(0, |file| file.len());
    let size = || files(dir.path()).iter().map(length).sum::<u64>();
    for i in 0..3000 {
        let key = pod("x", &format!("p{}", i % 20));
        store.commit(put(key, &format!("{i} {}", "y".repeat(200)))).await.unwrap();
        assert!(size() < 60 << 10, "{} after {i}", size());
    }
    for i in 0..200 {
        store.commit(put(pod("x", &format!("q{i}")), &"z".repeat(500))).await.unwrap();
    }
    let big = size();
    for i in 0..200 {
        store.commit(Write::delete(pod("x", &format!("q{i}")), Expect::Any)).await.unwrap();
    }
    let before = dump(&store);
    store.close().await;
    let store = disk(tiny(dir.path())).await;
    assert_eq!(dump(&store), before);
    // One more round trip lets housekeeping, which starts on its own, come to rest.
    for _ in 0..200 {
        store.snapshot_all().await.unwrap();
        if size() <= 40 << 10 {
            break;
        }
    }
    assert!(size() <= 40 << 10 && size() < big / 3, "{} of {big}", size());
    store.close().await;
}

#[tokio::test]
async fn a_failing_disk_gives_errors_and_recovers() {
    for bad in [DiskOp::Write, DiskOp::Sync] {
        let dir = tempfile::tempdir().unwrap();
        let broken = Arc::new(AtomicBool::new(false));
        let switch = Arc::clone(&broken);
        let fault = move |op| match switch.load(Ordering::SeqCst) {
            true if op == bad => Err(io::Error::from_raw_os_error(28)),
            _ => Ok(()),
        };
        let store = disk(DiskOptions { fault: Some(Arc::new(fault)), ..tiny(dir.path()) }).await;
        store.commit(put(pod("x", "a"), "1")).await.unwrap();
        broken.store(true, Ordering::SeqCst);
        for _ in 0..3 {
            let failed = store.commit(put(pod("x", "a"), "2")).await;
            assert!(matches!(failed, Err(CommitError::Engine(_))), "{failed:?}");
        }
        let shown = store.get(&pod("x", "a")).unwrap();
        assert_eq!(&shown.json[..], json(1, "1").as_bytes(), "nothing uncommitted is shown");
        let copy = tempfile::tempdir().unwrap();
        for file in files(dir.path()) {
            fs::copy(&file, copy.path().join(file.file_name().unwrap())).unwrap();
        }
        assert_eq!(dump(&disk(tiny(copy.path())).await), dump(&store), "{bad:?}: nor after a crash");
        broken.store(false, Ordering::SeqCst);
        store.commit(put(pod("x", "b"), "3")).await.unwrap();
        let before = dump(&store);
        store.close().await;
        let store = disk(tiny(dir.path())).await;
        assert_eq!(dump(&store), before, "{bad:?}");
    }
}

#[tokio::test]
async fn only_the_owner_can_read_what_is_stored() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("store");
    let store = disk(tiny(&dir)).await;
    store.commit(put(pod("x", "a"), "secret")).await.unwrap();
    store.backup(&root.path().join("backup")).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&files(&dir)[0]), 0o600);
    assert_eq!(mode(&root.path().join("backup")), 0o600);
}

#[tokio::test]
async fn a_slow_disk_delays_writes_only() {
    let dir = tempfile::tempdir().unwrap();
    let slow = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&slow);
    let fault = move |op| {
        while op == DiskOp::Sync && switch.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    };
    let store = disk(DiskOptions { fault: Some(Arc::new(fault)), ..tiny(dir.path()) }).await;
    store.commit(put(pod("x", "a"), "1")).await.unwrap();
    slow.store(true, Ordering::SeqCst);
    let writer = store.clone();
    let mut write = tokio::task::JoinSet::new();
    write.spawn(async move { writer.commit(put(pod("x", "a"), "2")).await });
    for _ in 0..100 {
        tokio::task::yield_now().await;
        assert_eq!(store.get(&pod("x", "a")).unwrap().revision, 1);
        assert_eq!(store.snapshot("pods").len(), 1);
    }
    assert!(write.try_join_next().is_none());
    slow.store(false, Ordering::SeqCst);
    assert_eq!(write.join_next().await.unwrap().unwrap().unwrap().revision, 2);
}

#[tokio::test]
async fn a_backup_is_whole_and_restores_ahead_of_every_revision_seen() {
    let dir = tempfile::tempdir().unwrap();
    let store = disk(tiny(&dir.path().join("one"))).await;
    for i in 0..50 {
        let key = Key::new(if i % 2 == 0 { "pods" } else { "apps/deployments" }, "x", format!("p{i}"));
        store.commit(Write::create(key, draft(&"y".repeat(200)), on_node("n2"))).await.unwrap();
    }
    let file = dir.path().join("backup");
    let summary = store.backup(&file).await.unwrap();
    assert_eq!((summary.revision, summary.objects), (50, 50));
    assert_eq!(summary.bytes, fs::metadata(&file).unwrap().len());
    let before = dump(&store);
    store.commit(put(pod("x", "late"), "1")).await.unwrap();

    let target = dir.path().join("two");
    let whole = fs::read(&file).unwrap();
    for cut in [0, 63, 64, 100, whole.len() - 1] {
        fs::write(&file, &whole[..cut]).unwrap();
        assert!(store::restore(&file, tiny(&target)).is_err(), "cut at {cut}");
        assert!(!target.exists());
    }
    fs::write(&file, &whole).unwrap();
    store::restore(&file, tiny(&target)).unwrap();
    assert!(matches!(store::restore(&file, tiny(&target)), Err(EngineError::NotEmpty(_))));
    let restored = disk(tiny(&target)).await;
    assert_eq!(dump(&restored), before);
    assert_eq!(restored.revision(), 50 + RESTORE_JUMP);
    let watch = restored.watch("pods", Interest::All, WatchFrom::Revision(51));
    assert!(matches!(watch.unwrap_err(), HistoryError::Compacted { .. }));
}
