//! Fuzz targets for tokens: the compact serialization, the header, the claims and the signature, as a guard verifies them.

mod oracle;
mod tokens;
