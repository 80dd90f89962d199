//! The behaviour of an API server that the guard relies on, as one suite for two servers: the fake API server of `testing`,
//! and a real kube-apiserver. So the fake cannot accept what a real one rejects.
//!
//! The real server is tested if the environment variable `KUBE_APISERVER` is the path of a program with the commands of
//! `demo/kubernetes/apiserver.sh`.

#![cfg(unix)]
#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod backend;
mod pod;
#[path = "../support/process.rs"]
mod process;
mod review_steps;
mod steps;
mod token_request_steps;

use self::backend::Backend;

/// Runs every step, in an order that restarts a real server as rarely as possible.
async fn run_contract(server: &mut Backend) {
    macro_rules! steps {
        ($($step:ident),* $(,)?) => {$(
            println!("{}: {}", server.name(), stringify!($step));
            steps::$step(server).await;
        )*};
    }
    steps![
        keys_and_issuer_come_from_the_api_server,
        only_tokens_for_our_audience_are_accepted,
        a_caller_outside_the_policy_is_verified_and_rejected,
        keys_cannot_be_fetched_without_a_valid_token_and_ca,
        responses_depend_on_the_accept_header_and_the_method,
        token_requests_and_reviews_as_raw_requests,
        token_reviews_require_the_role_system_auth_delegator,
        the_token_of_a_deleted_service_account_is_refused_within_the_time_to_live,
        the_token_of_a_deleted_pod_is_refused_within_the_time_to_live,
        the_token_of_a_deleted_node_is_refused_within_the_time_to_live,
        a_program_requests_tokens_with_its_own_one_and_a_role,
        token_requests_as_raw_requests_of_a_service_account,
        auth_server_decides_by_the_caller,
        a_new_key_is_fetched_for_its_first_token_and_the_old_one_stays_in_use,
        a_withdrawn_key_is_rejected_after_the_next_refresh,
        a_key_of_another_algorithm_is_fetched_for_its_first_token,
        keys_stay_in_use_while_the_api_server_is_down,
        a_guard_started_during_an_outage_is_ready_soon_after_it,
        auth_server_started_during_an_outage_is_ready_soon_after_it,
        the_cluster_migrates_to_another_issuer,
    ];
}

#[tokio::test]
async fn the_fake_api_server_fulfils_the_contract() {
    run_contract(&mut Backend::fake().await).await;
}

#[tokio::test]
async fn a_real_api_server_fulfils_the_contract() {
    let Some(program) = std::env::var_os("KUBE_APISERVER").filter(|name| !name.is_empty()) else {
        println!(
            "skipped: no real kube-apiserver; set KUBE_APISERVER=demo/kubernetes/apiserver.sh to run against one"
        );
        return;
    };
    run_contract(&mut Backend::real(program)).await;
}
