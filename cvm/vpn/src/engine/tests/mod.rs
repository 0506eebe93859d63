//! The engine as a whole.

use super::*;
