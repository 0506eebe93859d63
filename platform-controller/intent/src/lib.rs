//! Desired state: model, validation, plan
