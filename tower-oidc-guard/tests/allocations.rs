//! Refused tokens cost little memory.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use serde_json::json;
use support::forge::{Forge, encode};
use support::{HEADER, claims, guard_of};
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
fn for_a_token_over_the_cap_nothing_is_allocated() {
    let keys = Forge::set(&[Forge::new().jwk()]);
    for size in [CAP + 1, 100_000, 1_000_000] {
        for byte in [b'.', b'A', b'\0', b'{'] {
            assert_eq!(held_for(&keys, &vec![byte; size]), 0, "{size} of {byte}");
        }
        let header = [encode(HEADER.as_bytes()).as_bytes(), &vec![b'.'; size]].concat();
        assert_eq!(held_for(&keys, &header), 0);
    }
}

#[test]
fn for_a_token_under_the_cap_no_more_than_the_cap_is_held() {
    let keys = Forge::set(&[Forge::new().jwk()]);
    let members: String = (0..700)
        .map(|number| format!(r#""{number:x}":0,"#))
        .collect();
    let nested = format!("{}{}", "[".repeat(3000), "]".repeat(3000));
    let long = "x".repeat(6_000);
    let headers = [
        format!(r#"{{"alg":"ES256","x":"{}"}}"#, "x".repeat(12_000)),
        format!(r#"{{{members}"alg":"ES256"}}"#),
        format!(r#"{{"alg":"ES256","x":{nested}}}"#),
        format!(r#"{{"alg":"ES256","kid":"{long}"}}"#),
        format!(r#"{{"alg":"ES256","kid":"{}"}}"#, r"\u0061".repeat(900)),
        HEADER.to_owned(),
    ];
    for header in headers {
        let header = encode(header.as_bytes());
        let rest = CAP.saturating_sub(header.len() + 2);
        let payload = encode(&vec![b'x'; rest / 2 / 4 * 3]);
        let signature = encode(&vec![0; rest / 2 / 4 * 3]);
        let token = format!("{header}.{payload}.{signature}");
        assert!(token.len() <= CAP, "{}", token.len());
        let held = held_for(&keys, token.as_bytes());
        assert!(held <= CAP as isize, "{held} bytes for {:?}", &header[..20]);
    }
    for token in [vec![b'.'; CAP], vec![b'A'; CAP], b"e30.".repeat(CAP / 4)] {
        assert!(held_for(&keys, &token) <= CAP as isize);
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
fn a_whole_verification_that_refuses_a_token_holds_no_more_than_the_cap() {
    let (forge, other) = (Forge::new(), Forge::new());
    let guard = guard_of(&[forge.jwk()]);
    let sound = claims(json!({}));
    let with = |member: String| format!("{},{member}}}", sound.strip_suffix('}').unwrap());
    let payloads = [
        sound.clone(),
        with(format!(r#""x":"{}""#, "y".repeat(11_500))),
        with(format!(r#""x":"{}""#, r"\n".repeat(5_000))),
        with(format!(r#""\u0061{}":1"#, "y".repeat(11_000))),
        with(format!(r#""x":{}{}"#, "[".repeat(5_000), "]".repeat(5_000))),
        with(
            (0..1000)
                .map(|n| format!(r#""{n}":0"#))
                .collect::<Vec<_>>()
                .join(","),
        ),
        claims(json!({ "aud": vec![""; 3_000] })),
        claims(json!({ "aud": (0..60).map(|n| format!("\"{n}")).collect::<Vec<_>>() })),
        claims(json!({ "sub": "\n".repeat(2_500) })),
        claims(json!({ "sub": "\n".repeat(900), "jti": "\n".repeat(900) })),
    ];
    for payload in payloads {
        // By another key, so that even what is read without complaint is refused in the end.
        let token = other.sign(HEADER, &payload);
        assert!(token.len() <= CAP, "{}", token.len());
        let held = held_by_guard(&guard, &token);
        assert!(held <= CAP as isize, "{held} bytes for {}", &payload[..150]);
    }
}

#[test]
fn a_whole_verification_allocates_nothing_for_a_token_over_the_cap() {
    let guard = guard_of(&[Forge::new().jwk()]);
    for size in [CAP + 1, 1_000_000] {
        assert_eq!(held_by_guard(&guard, &".".repeat(size)), 0, "{size}");
    }
}
