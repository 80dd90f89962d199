//! Measures how the cost of a token grows with the number of configured origins, and with the length of the token.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use reqwest_wi_auth::{BearerAuth, FixedToken, Token};

fn origins(c: &mut Criterion) {
    let mut group = c.benchmark_group("token_for_by_origins");
    for count in [1, 10, 100, 1000] {
        let token = FixedToken::new(Token::opaque("token").expect("a token"));
        let mut auth =
            BearerAuth::for_origin("https://0.example", token.clone()).expect("an origin");
        for number in 1..count {
            let origin = format!("https://{number}.example");
            auth = auth.and_origin(&origin, token.clone()).expect("an origin");
        }
        let url = format!("https://{}.example/private", count - 1);
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| black_box(auth.token_for(black_box(&url))));
        });
    }
    group.finish();
}

fn sizes(c: &mut Criterion) {
    let mut group = c.benchmark_group("header_clone_by_token_bytes");
    for bytes in [512, 1200, 4096, 16384] {
        let token = Token::opaque("x".repeat(bytes)).expect("a token");
        group.bench_function(BenchmarkId::from_parameter(bytes), |b| {
            b.iter(|| black_box(token.header().clone()));
        });
    }
    group.finish();
}

criterion_group!(benches, origins, sizes);
criterion_main!(benches);
