#![forbid(unsafe_code)]
//! In the making.
