//! A fuzz target for token files and their replacement: a model of what a file contains is compared with the token in use.
//!
//! For any sequence of operations on the file:
//!
//! - The token in use is always one that was written as a whole: never a mix, a part, or nothing. A second thread checks that all the
//!   time.
//! - After an operation and a read, it is the token in the file, if there is a valid one that does not expire earlier than the one in use.
//!   Otherwise, the token in use stays, and the error is the file's last one.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bolero::generator::produce;
use bolero::{TypeGenerator, check};
use tokio::runtime::Builder;

use super::*;
use crate::fuzz::edits::NOW;

/// The number of random sequences, each of which uses threads and the file system, unless `BOLERO_RANDOM_ITERATIONS` is set.
const ITERATIONS: usize = 50;

/// An operation on the file or on one of the directories on its path. A number selects a token.
#[derive(Debug, Clone, Copy, TypeGenerator)]
enum Operation {
    /// Replaces the volume as the kubelet does: a new directory, and a rename of the link to it.
    SwapDirectory(u8),
    /// Renames another file over it.
    Rename(u8),
    /// Writes the whole token in place.
    Overwrite(u8),
    Truncate,
    /// Writes the beginning of a token in place, as a writer that has not finished yet.
    WritePart(u8, u8),
    /// Replaces the link to the file by one to another file.
    LinkElsewhere(u8),
    Delete,
    DeleteDirectory,
    /// Puts a directory where the file was.
    MakeDirectory,
    WriteGarbage(u8),
    /// Adds white space, which does not belong to the token.
    WriteWithLineBreak(u8),
    /// Reads without a change.
    Nothing,
}

/// Returns a token. Each number stands for another token, with an expiry that is not in the order of the numbers.
fn token(number: u8) -> String {
    let number = number % 8;
    let expiry = NOW + 600 + u64::from(number * 5 % 8) * 10;
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#);
    let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{expiry},"n":{number}}}"#));
    let signature = URL_SAFE_NO_PAD.encode([number; 64]);
    format!("{header}.{claims}.{signature}")
}

/// The volume of a pod: `token` links to `..data/token`, and `..data` to a directory.
struct Volume<'p> {
    root: &'p Path,
    generation: u32,
}

impl Volume<'_> {
    fn file(&self) -> PathBuf {
        self.root.join("token")
    }

    /// Applies an operation. One that is impossible, such as deleting what does not exist, changes nothing.
    fn apply(&mut self, operation: Operation) {
        let file = self.file();
        let in_place = |bytes: &[u8]| drop(fs::write(&file, bytes));
        match operation {
            Operation::SwapDirectory(number) => {
                self.generation += 1;
                let name = format!("..{}", self.generation);
                let directory = self.root.join(&name);
                fs::create_dir(&directory).unwrap();
                fs::write(directory.join("token"), token(number)).unwrap();
                let link = self.root.join("..data_tmp");
                symlink(&name, &link).unwrap();
                fs::rename(link, self.root.join("..data")).unwrap();
                self.replace(|temporary| symlink("..data/token", temporary).unwrap());
            }
            Operation::Rename(number) => {
                self.replace(|temporary| fs::write(temporary, token(number)).unwrap())
            }
            Operation::Overwrite(number) => in_place(token(number).as_bytes()),
            Operation::Truncate => in_place(b""),
            Operation::WritePart(number, length) => {
                let token = token(number);
                in_place(&token.as_bytes()[..usize::from(length) % token.len()]);
            }
            Operation::LinkElsewhere(number) => {
                self.generation += 1;
                let other = self.root.join(format!("other-{}", self.generation));
                fs::write(&other, token(number)).unwrap();
                self.replace(|temporary| symlink(&other, temporary).unwrap());
            }
            Operation::Delete => drop(fs::remove_file(&file)),
            Operation::DeleteDirectory => drop(fs::remove_dir_all(
                self.root.join(format!("..{}", self.generation)),
            )),
            Operation::MakeDirectory => {
                let _ = fs::remove_file(&file);
                let _ = fs::create_dir(&file);
            }
            Operation::WriteGarbage(byte) => in_place(&[byte; 100]),
            Operation::WriteWithLineBreak(number) => {
                in_place(format!(" {}\r\n", token(number)).as_bytes())
            }
            Operation::Nothing => {}
        }
    }

    /// Renames what `create` creates over the file.
    fn replace(&self, create: impl FnOnce(&Path)) {
        let temporary = self.root.join("temporary");
        create(&temporary);
        // A directory cannot be replaced by a rename.
        let _ = fs::remove_dir(self.file());
        fs::rename(temporary, self.file()).unwrap();
    }

    /// Returns the number of the token that the file contains.
    fn content(&self) -> Option<u8> {
        let content = fs::read_to_string(self.file()).ok()?;
        (0..8).find(|number| content.trim_ascii() == token(*number))
    }
}

#[test]
fn operations_on_a_token_file() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let runtime = std::panic::AssertUnwindSafe(runtime);
    check!()
        .with_iterations(ITERATIONS)
        .with_generator(produce::<Vec<Operation>>().with().len(0usize..12))
        .for_each(|operations| runtime.block_on(run(operations)));
}

async fn run(operations: &[Operation]) {
    let directory = tempfile::tempdir().unwrap();
    let mut volume = Volume {
        root: directory.path(),
        generation: 0,
    };
    volume.apply(Operation::SwapDirectory(0));
    let source = ProjectedToken::builder(volume.file())
        .clock(|| SystemTime::UNIX_EPOCH + Duration::from_secs(NOW))
        .open()
        .await
        .unwrap();
    let known: Vec<Token> = (0..8)
        .map(|number| Token::new(token(number)).unwrap())
        .collect();
    let has_ended = EndOnDrop::default();
    let reader = std::thread::spawn({
        let (source, known, has_ended) = (source.clone(), known.clone(), has_ended.0.clone());
        move || {
            while !has_ended.load(Ordering::Relaxed) {
                let current = source.current().unwrap();
                assert!(
                    known.contains(&current),
                    "the token in use was never written"
                );
                std::thread::yield_now();
            }
        }
    });
    check_each(operations, &mut volume, &source, &known).await;
    drop(has_ended);
    reader.join().unwrap();
    source.shutdown().await;
}

/// Ends the thread that reads, also after a failed assertion.
#[derive(Default)]
struct EndOnDrop(Arc<AtomicBool>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn check_each(
    operations: &[Operation],
    volume: &mut Volume<'_>,
    source: &ProjectedToken,
    known: &[Token],
) {
    let mut expected = 0;
    for operation in operations {
        volume.apply(*operation);
        let in_file = volume.content();
        let is_accepted = in_file
            .is_some_and(|number| !known[usize::from(number)].expires_before(&known[expected]));
        if let (true, Some(number)) = (is_accepted, in_file) {
            expected = number.into();
        }
        let read = source.file().reread().await;
        assert_eq!(read.is_ok(), is_accepted, "{operation:?}");
        let current = source.current().unwrap();
        let found = known.iter().position(|token| *token == current);
        assert_eq!(found, Some(expected), "{operation:?}");
        assert_eq!(source.health().last_error.is_none(), is_accepted);
    }
}
