//! Memory that is allocated while a token is rejected.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use serde_json::json;
use tower_oidc_guard::{JwkSet, OidcGuard};

use crate::support::signer::{Signer, base64url, jwk_set};
use crate::support::{HEADER, claims, guard_builder_with_keys, guard_with_keys, issuer_settings};

thread_local! {
    /// Bytes that this thread has allocated and not freed, and the maximum of that number.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
    /// The number of allocations of this thread.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

fn count(bytes: isize) {
    if bytes > 0 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
    }
    let _ = HELD.try_with(|held| {
        let now = held.get().0 + bytes;
        held.set((now, held.get().1.max(now)));
    });
}

// SAFETY: forwards every call unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller upholds the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller upholds the same contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller upholds the same contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Returns the number of allocations of this thread that a function makes.
pub(crate) fn allocations(run: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    run();
    ALLOCATIONS.get() - before
}

/// Returns the maximum number of bytes that are allocated at a time while a token is rejected.
fn peak_bytes(keys: &JwkSet, token: &[u8]) -> isize {
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
    let keys = jwk_set(&[Signer::new().jwk()]);
    for size in [CAP + 1, 100_000, 1_000_000] {
        for byte in [b'.', b'A', b'\0', b'{'] {
            assert_eq!(peak_bytes(&keys, &vec![byte; size]), 0, "{size} of {byte}");
        }
        let header = [base64url(HEADER.as_bytes()).as_bytes(), &vec![b'.'; size]].concat();
        assert_eq!(peak_bytes(&keys, &header), 0);
    }
}

/// The limit of allocated bytes per byte of a token, whatever the token contains.
///
/// The decoded payload takes three quarters of a byte. The names of members are stored to find duplicates: 24 bytes for a
/// name, which takes at least 9 bytes of the token, in a vector of which up to a half is unused. A string with escapes is
/// stored twice while it is decoded. Valid tokens may have any number of members and escapes, so the memory for a rejected
/// token is limited to a multiple of its length.
const PER_BYTE: usize = 6;

/// Bytes that are allocated independently of the length: the first allocation of each vector, and errors.
const BASE: usize = 1024;

/// Asserts that this many bytes are within the limit for this token, which starts like this.
fn assert_linear(held: isize, token: &str, start: &str) {
    let limit = (PER_BYTE * token.len() + BASE) as isize;
    let length = token.len();
    assert!(held <= limit, "{held} bytes for {length} bytes: {start}");
}

/// Returns JSON members of about this many bytes, one text for each kind of member that allocates memory.
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
    let keys = jwk_set(&[Signer::new().jwk()]);
    for length in [1000, 4000, CAP] {
        for members in members(length * 3 / 4 - 100) {
            let header = base64url(format!(r#"{{"alg":"ES256",{members}}}"#).as_bytes());
            let token = format!("{header}.e30.AA");
            assert!(token.len() <= CAP, "{}", token.len());
            let start = &members[..members.len().min(40)];
            assert_linear(peak_bytes(&keys, token.as_bytes()), &token, start);
        }
        let part = base64url(&vec![b'x'; length / 8 * 3]);
        let header = base64url(HEADER.as_bytes());
        let token = format!(
            "{header}.{}.{}",
            &part[..length / 2 - 40],
            &part[..length / 2 - 40]
        );
        assert_linear(peak_bytes(&keys, token.as_bytes()), &token, "any bytes");
    }
    for token in [
        "..".repeat(CAP / 2),
        "A".repeat(CAP),
        "e30.".repeat(CAP / 4),
    ] {
        let held = peak_bytes(&keys, token.as_bytes());
        assert!(held <= CAP as isize, "{held}");
    }
}

/// Returns the maximum number of bytes that are allocated at a time while a guard rejects a token.
fn peak_bytes_of_guard(guard: &OidcGuard, token: &str) -> isize {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.unwrap();
    runtime.block_on(async {
        guard.ready().await.unwrap();
        // A first verification allocates what is initialized at the first use.
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
    let valid = claims(json!({}));
    let with = |members: String| format!("{},{members}}}", valid.strip_suffix('}').unwrap());
    for bytes in [1000, 4000, 12_000, 100_000, 700_000] {
        for members in members(bytes) {
            let start = members[..members.len().min(40)].to_owned();
            // Signed with another key, so that a token whose claims are valid is rejected too.
            let token = other.sign(HEADER, &with(members));
            assert_linear(peak_bytes_of_guard(&guard, &token), &token, &start);
        }
    }
}

#[test]
fn verifier_allocates_nothing_for_a_token_over_the_size_limit() {
    let guard = guard_with_keys(&[Signer::new().jwk()]);
    for size in [CAP + 1, 1_000_000] {
        assert_eq!(peak_bytes_of_guard(&guard, &".".repeat(size)), 0, "{size}");
    }
}
