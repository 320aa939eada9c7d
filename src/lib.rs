//! mailrail
