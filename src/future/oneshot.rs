//! One answer from a thread to a task.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

enum State<T> {
    Waiting(Option<Waker>),
    Sent(T),
    /// The sender is gone, or the answer was taken.
    Over,
}

/// Sends once. Dropped without sending, it leaves the receiver with nothing.
pub struct Sender<T>(Arc<Mutex<State<T>>>);

/// A future of what is sent; `None` if the sender went without.
pub struct Receiver<T>(Arc<Mutex<State<T>>>);

pub fn oneshot<T>() -> (Sender<T>, Receiver<T>) {
    let state = Arc::new(Mutex::new(State::Waiting(None)));
    (Sender(Arc::clone(&state)), Receiver(state))
}

impl<T> Sender<T> {
    pub fn send(self, answer: T) {
        self.end(State::Sent(answer));
    }

    fn end(&self, state: State<T>) {
        let before = {
            let mut now = self.0.lock();
            match *now {
                State::Waiting(_) => std::mem::replace(&mut *now, state),
                State::Sent(_) | State::Over => return,
            }
        };
        // Outside the lock: waking may poll at once.
        if let State::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.end(State::Over);
    }
}

impl<T> Future for Receiver<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.lock();
        match std::mem::replace(&mut *state, State::Over) {
            State::Sent(answer) => Poll::Ready(Some(answer)),
            State::Over => Poll::Ready(None),
            State::Waiting(waker) => {
                let waker = match waker {
                    Some(waker) if waker.will_wake(context.waker()) => waker,
                    _ => context.waker().clone(),
                };
                *state = State::Waiting(Some(waker));
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll<T>(receiver: &mut Receiver<T>, count: &Arc<Count>) -> Poll<Option<T>> {
        let waker = Waker::from(Arc::clone(count));
        Pin::new(receiver).poll(&mut Context::from_waker(&waker))
    }

    #[test]
    fn the_last_task_that_asked_is_woken_once() {
        let (sender, mut receiver) = oneshot();
        let (first, last) = (Arc::new(Count::default()), Arc::new(Count::default()));
        assert_eq!(poll(&mut receiver, &first), Poll::Pending);
        assert_eq!(poll(&mut receiver, &last), Poll::Pending);
        sender.send(7);
        assert_eq!(first.0.load(Ordering::SeqCst), 0);
        assert_eq!(last.0.load(Ordering::SeqCst), 1);
        assert_eq!(poll(&mut receiver, &last), Poll::Ready(Some(7)));
    }

    #[test]
    fn a_sender_that_goes_without_sending_wakes_too() {
        let (sender, mut receiver) = oneshot::<u8>();
        let count = Arc::new(Count::default());
        assert_eq!(poll(&mut receiver, &count), Poll::Pending);
        drop(sender);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!(poll(&mut receiver, &count), Poll::Ready(None));
    }
}
