//! What goes into the root of a VM, named by content

#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    #[error("{path}: {error}")]
    Io { path: String, error: std::io::Error },
}
