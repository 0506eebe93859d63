//! HTTP API of the platform controller: resources and client
