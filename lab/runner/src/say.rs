//! Printing that survives a reader who has gone (`lab/demo | head`): what cannot be said is not said, and the work,
//! above all taking the lab down, goes on.

/// `println!` without the panic.
#[macro_export]
macro_rules! say {
    ($($t:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($t)*);
    }};
}

/// `eprintln!` without the panic.
#[macro_export]
macro_rules! complain {
    ($($t:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($t)*);
    }};
}
