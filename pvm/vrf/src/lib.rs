//! Customer RIB of a port VM: best path, export to the CVM, FIB contents
