//! Waiting on conditions with a deadline. Nothing in the lab sleeps in the hope that something has happened.

use anyhow::{Result, bail};
use std::{
    thread,
    time::{Duration, Instant},
};

/// How often a condition is looked at.
const EVERY: Duration = Duration::from_millis(20);

/// Asks until the answer is `Ok(Ok(value))`. `Ok(Err(why))` means "not yet", and the last `why` is part of the error
/// when the deadline passes; an outer `Err` ends the wait at once.
pub fn until<T>(what: &str, deadline: Duration, mut ask: impl FnMut() -> Result<Result<T, String>>) -> Result<T> {
    let start = Instant::now();
    loop {
        match ask()? {
            Ok(value) => return Ok(value),
            Err(why) if start.elapsed() >= deadline => bail!("{what}: not within {:.1} s ({why})", deadline.as_secs_f64()),
            Err(_) => thread::sleep(EVERY),
        }
    }
}

/// [`until`] for a plain yes or no.
pub fn until_true(what: &str, deadline: Duration, mut ask: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, deadline, || Ok(if ask()? { Ok(()) } else { Err("still not so".into()) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait_and_one_that_does_not_says_why() {
        let mut n = 0;
        let got = until("n", Duration::from_secs(5), || {
            n += 1;
            Ok(if n == 3 { Ok(n) } else { Err(format!("n is {n}")) })
        });
        assert_eq!(got.unwrap(), 3);
        let error = until::<()>("never", Duration::ZERO, || Ok(Err("because".into()))).unwrap_err();
        assert_eq!(error.to_string(), "never: not within 0.0 s (because)");
    }
}
