//! What the guard relies on at an API server, as one suite that runs against the fake of `testing` and against a real
//! kube-apiserver, so that the fake is never kinder than what it stands for.
//!
//! The real half runs if `KUBE_APISERVER` names a program with the commands of `demo/kubernetes/apiserver.sh`.
#![cfg(unix)]
#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod backend;
mod pod;
mod steps;
#[path = "../support/mod.rs"]
mod support;

use self::backend::Backend;

/// Runs every step, in an order that restarts a real server as seldom as possible.
async fn the_contract(server: &mut Backend) {
    macro_rules! steps {
        ($($step:ident),* $(,)?) => {$(
            println!("{}: {}", server.name(), stringify!($step));
            steps::$step(server).await;
        )*};
    }
    steps![
        keys_and_issuer_come_from_the_api_server,
        only_tokens_for_our_audience_are_accepted,
        a_stranger_is_verified_and_refused_by_the_policy,
        without_a_token_with_a_wrong_one_and_with_a_wrong_ca_there_are_no_keys,
        the_documents_are_negotiated_by_type_and_method,
        token_requests_and_reviews_as_raw_requests,
        auth_server_as_a_process_answers_by_the_caller,
        a_rotated_key_is_known_at_its_first_token_and_the_old_one_stays,
        a_withdrawn_key_is_out_of_use_after_the_next_refresh,
        another_algorithm_is_known_at_its_first_token,
        keys_stay_in_use_while_the_api_server_is_away,
        a_guard_that_started_without_the_api_server_is_ready_soon_after_its_return,
        auth_server_that_started_without_the_api_server_is_ready_soon_after_its_return,
        a_second_issuer_is_put_in_front,
    ];
}

#[tokio::test]
async fn the_contract_holds_on_the_fake_api_server() {
    the_contract(&mut Backend::fake().await).await;
}

#[tokio::test]
async fn the_contract_holds_on_a_real_api_server() {
    let Some(program) = std::env::var_os("KUBE_APISERVER").filter(|name| !name.is_empty()) else {
        println!(
            "skipped: no real kube-apiserver; set KUBE_APISERVER=demo/kubernetes/apiserver.sh to run against one"
        );
        return;
    };
    the_contract(&mut Backend::real(program)).await;
}
