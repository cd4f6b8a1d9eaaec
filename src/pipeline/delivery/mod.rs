//! Sending: C-STORE and C-ECHO as SCU, and the outbox that survives a restart.
