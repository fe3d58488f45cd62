//! Waiting for a condition, not for a time.

use std::time::Duration;

use tokio::time::{sleep, timeout};

/// How long anything may take. Generous: only a hang reaches it, on the slowest machine.
pub const HANG: Duration = Duration::from_secs(120);

/// How often a condition is looked at that nobody announces.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `condition` holds.
///
/// # Panics
/// If it never does.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let held = async {
        while !condition().await {
            sleep(LOOK_EVERY).await;
        }
    };
    if timeout(HANG, held).await.is_err() {
        panic!("waited {HANG:?} in vain until {what}");
    }
}

/// What `future` gives, within [`HANG`].
///
/// # Panics
/// If it hangs.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(HANG, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {HANG:?} in vain for {what}"),
    }
}
