//! The examples do what they say.
#![cfg(all(feature = "testing", feature = "axum", feature = "policy-file", unix))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../examples/axum.rs"]
mod axum_server;
#[path = "../examples/hyper.rs"]
mod hyper_server;
#[path = "../examples/policy_file.rs"]
mod policy_file;
#[path = "../examples/problem_json.rs"]
mod problem_json;
#[path = "../examples/tonic.rs"]
mod tonic_server;

#[tokio::test]
async fn axum_has_a_policy_per_route() {
    axum_server::run().await.unwrap();
}

#[tokio::test]
async fn tonic_has_both_ends() {
    tonic_server::run().await.unwrap();
}

#[tokio::test]
async fn hyper_ends_what_outlives_its_token() {
    hyper_server::run().await.unwrap();
}

#[tokio::test]
async fn refusals_are_problem_details() {
    problem_json::run().await.unwrap();
}

#[tokio::test]
async fn an_operator_changes_the_policy() {
    policy_file::run().await.unwrap();
}
