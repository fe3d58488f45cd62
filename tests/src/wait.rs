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
pub async fn until(what: &str, condition: impl AsyncFnMut() -> bool) {
    if !within_a_hang(condition).await {
        panic!("waited {HANG:?} in vain until {what}");
    }
}

/// Whether `condition` comes to hold; for those who have more to say if it never does.
pub async fn within_a_hang(mut condition: impl AsyncFnMut() -> bool) -> bool {
    let held = async {
        while !condition().await {
            sleep(LOOK_EVERY).await;
        }
    };
    timeout(HANG, held).await.is_ok()
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
