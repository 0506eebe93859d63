//! They mostly wait: `lab/test` runs several of them at once.

mod killed;
mod succession;
