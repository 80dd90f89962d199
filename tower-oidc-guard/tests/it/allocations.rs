//! Refused tokens cost little memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use crate::support::signer::{Signer, base64url};
use crate::support::{HEADER, claims, guard_builder_with_keys, guard_with_keys, issuer_settings};
use serde_json::json;
use tower_oidc_guard::{JwkSet, OidcGuard};

thread_local! {
    /// Bytes held by this thread, and the most there were.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

struct Counting;

fn count(bytes: isize) {
    let _ = HELD.try_with(|held| {
        let now = held.get().0 + bytes;
        held.set((now, held.get().1.max(now)));
    });
}

// SAFETY: hands every call on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller's promises are the same.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that are held at a time while a token is refused.
fn held_for(keys: &JwkSet, token: &[u8]) -> isize {
    let before = HELD.with(|held| {
        held.set((held.get().0, held.get().0));
        held.get().0
    });
    assert!(keys.verify_jws(token).is_err());
    HELD.with(|held| held.get().1 - before)
}

const CAP: usize = 16 * 1024;

#[test]
fn verify_jws_allocates_nothing_for_a_token_over_the_size_limit() {
    let keys = Signer::set(&[Signer::new().jwk()]);
    for size in [CAP + 1, 100_000, 1_000_000] {
        for byte in [b'.', b'A', b'\0', b'{'] {
            assert_eq!(held_for(&keys, &vec![byte; size]), 0, "{size} of {byte}");
        }
        let header = [base64url(HEADER.as_bytes()).as_bytes(), &vec![b'.'; size]].concat();
        assert_eq!(held_for(&keys, &header), 0);
    }
}

/// The most bytes that are held at a time for each byte of a token, whatever is in it. Three quarters are the decoded
/// payload. The names of members are remembered, to find repeated ones: 24 bytes for a name, which takes 9 bytes of the
/// token at least, in a vector of which up to a half is not used yet. A string with escapes is held twice while it is
/// read. Sound tokens may have any number of members and escapes, so the memory that a refused one takes is bounded by a
/// multiple of its length.
const PER_BYTE: usize = 6;

/// What is held whatever the length: the first allocation of each vector, and errors.
const BASE: usize = 1024;

fn assert_linear(held: isize, token: &str, start: &str) {
    let limit = (PER_BYTE * token.len() + BASE) as isize;
    let length = token.len();
    assert!(held <= limit, "{held} bytes for {length} bytes: {start}");
}

/// Members that fill about so many bytes, of every kind that takes memory to read.
fn members(bytes: usize) -> Vec<String> {
    let names = |escaped: &str| {
        let width = escaped.len() + 9;
        let name = |n: usize| format!(r#""{escaped}{n:x}":0"#);
        let names: Vec<_> = (0..bytes / width).map(name).collect();
        names.join(",")
    };
    let repeated =
        |text: &str, around: usize| text.repeat(bytes.saturating_sub(around) / text.len());
    vec![
        format!(r#""x":"{}""#, repeated("y", 6)),
        format!(r#""x":"{}""#, repeated(r"\n", 6)),
        format!(r#""x":"{}""#, repeated(r"\u0061", 6)),
        format!(r#""\u0061{}":1"#, repeated("y", 11)),
        format!(r#""{}":1"#, repeated(r"\u0061", 5)),
        format!(
            r#""x":{}{}"#,
            "[".repeat(bytes / 2 - 2),
            "]".repeat(bytes / 2 - 2)
        ),
        format!(r#""x":{}"#, repeated(r#"{"":"#, 4)),
        names(""),
        names(r"\u0061"),
        names("x").replace("x0", "x1"),
        format!(r#""aud":[{}""]"#, repeated(r#""","#, 10)),
        format!(r#""aud":[{}""]"#, repeated(r#""\n","#, 10)),
        format!(r#""sub":"{}""#, repeated(r"\n", 8)),
        format!(r#""jti":"{}""#, repeated(r"\ud83d\ude00", 8)),
        format!(r#""kid":"{}""#, repeated("k", 8)),
        format!(r#""kid":"{}""#, repeated(r"\u006b", 8)),
        format!(r#""typ":"{}""#, repeated(r"\/", 8)),
    ]
}

#[test]
fn memory_for_a_rejected_jws_is_proportional_to_its_length() {
    let keys = Signer::set(&[Signer::new().jwk()]);
    for length in [1000, 4000, CAP] {
        for members in members(length * 3 / 4 - 100) {
            let header = base64url(format!(r#"{{"alg":"ES256",{members}}}"#).as_bytes());
            let token = format!("{header}.e30.AA");
            assert!(token.len() <= CAP, "{}", token.len());
            let start = &members[..members.len().min(40)];
            assert_linear(held_for(&keys, token.as_bytes()), &token, start);
        }
        let part = base64url(&vec![b'x'; length / 8 * 3]);
        let header = base64url(HEADER.as_bytes());
        let token = format!(
            "{header}.{}.{}",
            &part[..length / 2 - 40],
            &part[..length / 2 - 40]
        );
        assert_linear(held_for(&keys, token.as_bytes()), &token, "any bytes");
    }
    for token in [
        "..".repeat(CAP / 2),
        "A".repeat(CAP),
        "e30.".repeat(CAP / 4),
    ] {
        let held = held_for(&keys, token.as_bytes());
        assert!(held <= CAP as isize, "{held}");
    }
}

/// The most bytes that are held at a time while a whole verification refuses a token.
fn held_by_guard(guard: &OidcGuard, token: &str) -> isize {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.unwrap();
    runtime.block_on(async {
        guard.ready().await.unwrap();
        // Once before, so that what is made at the first use is there.
        let _ = guard.verifier().verify("a.b.c").await;
        let before = HELD.with(|held| {
            held.set((held.get().0, held.get().0));
            held.get().0
        });
        assert!(guard.verifier().verify(token).await.is_err());
        HELD.with(|held| held.get().1 - before)
    })
}

#[test]
fn memory_for_a_rejected_token_is_proportional_to_its_length() {
    let (signer, other) = (Signer::new(), Signer::new());
    let settings =
        guard_builder_with_keys(&[signer.jwk()], issuer_settings()).max_token_bytes(1 << 20);
    let guard = settings.any_verified_caller().build().unwrap();
    let sound = claims(json!({}));
    let with = |members: String| format!("{},{members}}}", sound.strip_suffix('}').unwrap());
    for bytes in [1000, 4000, 12_000, 100_000, 700_000] {
        for members in members(bytes) {
            let start = members[..members.len().min(40)].to_owned();
            // By another key, so that even what is read without complaint is refused in the end.
            let token = other.sign(HEADER, &with(members));
            assert_linear(held_by_guard(&guard, &token), &token, &start);
        }
    }
}

#[test]
fn verifier_allocates_nothing_for_a_token_over_the_size_limit() {
    let guard = guard_with_keys(&[Signer::new().jwk()]);
    for size in [CAP + 1, 1_000_000] {
        assert_eq!(held_by_guard(&guard, &".".repeat(size)), 0, "{size}");
    }
}
