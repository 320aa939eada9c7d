//! Work that keeps a thread busy for long, without keeping others waiting.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Does work that takes much longer than it takes to wake a thread, as a signature by RSA. Where there
/// are threads to be had, one takes over what else waits for this one.
pub(crate) fn aside<T>(work: impl FnOnce() -> T) -> T {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    match flavor {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn others_get_on_while_the_only_worker_is_busy() {
        let busy = tokio::spawn(async {
            let (tell, told) = mpsc::channel();
            let other = tokio::spawn(async move { tell.send(()) });
            aside(|| told.recv()).expect("the other task has run");
            other.await
        });
        assert!(busy.await.is_ok());
    }

    #[tokio::test]
    async fn without_other_threads_the_work_is_done_all_the_same() {
        assert_eq!(aside(|| 7), 7);
        assert_eq!(std::thread::spawn(|| aside(|| 7)).join().ok(), Some(7));
    }
}
