//! Typed reading of attributes; errors name keyword, tag and instance.
