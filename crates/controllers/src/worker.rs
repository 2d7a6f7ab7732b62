//! Workers of controllers that must ask the server while they work, and so cannot be pure: namespaces, garbage
//! collection, quotas. They take keys from a queue like the others.

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use base::Tasks;
use client::{ClientError, Queue};

/// Starts `workers` tasks that hand keys to `work`. It returns when to look again; a failure is tried again
/// with back-off.
pub fn start<T, W, F>(name: &'static str, queue: Queue<T>, workers: usize, tasks: &Tasks, work: W)
where
    T: Ord + Clone + Display + Send + Sync + 'static,
    W: Fn(T) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Option<Duration>, ClientError>> + Send,
{
    let work = Arc::new(work);
    for _ in 0..workers {
        let (queue, work) = (queue.clone(), work.clone());
        tasks.spawn(name, async move {
            loop {
                let key = queue.next().await;
                match work(key.clone()).await {
                    Ok(again) => {
                        queue.forget(&key);
                        if let Some(delay) = again {
                            queue.add_after(key.clone(), delay);
                        }
                    }
                    Err(error) => {
                        tracing::debug!(controller = name, %key, %error, "failed; trying again");
                        queue.add_failed(key.clone());
                    }
                }
                queue.done(&key);
            }
        });
    }
}
