//! The lab: brings containerlab topologies up in network namespaces without Docker, and proves on them what EdgePlex
//! promises. See ../DESIGN.md.

pub mod bench;
pub mod demo;
pub mod foreign;
pub mod guest;
pub mod interop;
pub mod lab;
pub mod launch;
pub mod leftovers;
pub mod net;
pub mod node;
pub mod process;
pub mod resilience;
pub mod ring;
pub mod say;
pub mod scenarios;
pub mod state;
pub mod streams;
pub mod suite;
pub mod supervise;
pub mod tools;
pub mod topology;
pub mod traffic;
pub mod vpns;
pub mod wait;
