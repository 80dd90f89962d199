//! The calls that find the directories on a path. In a [model](crate::sync), another thread may run before each of them.

#[cfg(test)]
pub(super) mod model;

#[cfg(not(test))]
pub(super) use std::fs::{Metadata, metadata, read_link, symlink_metadata};

#[cfg(test)]
pub(super) use self::model::{Metadata, metadata, read_link, symlink_metadata};
