//! The RTSTRUCT: what it says, its modules (PS3.3 A.19), its bytes, its conformance, and reading others.
