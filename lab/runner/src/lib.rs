//! Runs containerlab topologies in network namespaces, and the scenarios on them
