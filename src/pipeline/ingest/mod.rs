//! The Store SCP: associations, messages, and the spool that makes an instance durable before success is told.
