//! A projected volume that a fake kubelet writes.

use reqwest_wi_auth::testing::Kubelet;
use tempfile::TempDir;

use super::token;

/// Returns an empty volume, and the directory that contains it.
pub fn empty_volume() -> (TempDir, Kubelet) {
    let directory = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(directory.path().join("volume")).unwrap();
    (directory, kubelet)
}

/// Returns a volume with a token named "0" in the file `token`, and the directory that contains it.
pub fn token_volume() -> (TempDir, Kubelet) {
    let (directory, kubelet) = empty_volume();
    kubelet.write([("token", token("0", 600))]).unwrap();
    (directory, kubelet)
}
