//! `BearerAuth::for_each_origin`: one client for many services, whose audiences a function returns.
#![cfg(unix)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use crate::support::log::Log;
use crate::support::process::is_child_process;
use crate::support::recorder::{Body, Recorder};
use crate::support::server::{SERVERLESS, Server};
use crate::support::sources::{FailingSource, Tokens};
use crate::support::{bearer, client, token, token_from};
use http::{Method, Request};
use reqwest_wi_auth::testing::{FakeMetadataServer, Fault};
use reqwest_wi_auth::{
    BearerAuth, Error, MetadataServer, SendError, SkipToken, Token, TokenClientBuilder,
    TokenProvider, TokenSource, UseSource,
};
use tower::{Layer as _, Service as _, ServiceBuilder, ServiceExt as _};
use tower_http::follow_redirect::FollowRedirectLayer;

/// A provider of sources whose token has the audience as its name. Clones share the records.
#[derive(Clone, Default)]
struct Provider {
    created: Arc<Mutex<Vec<Created>>>,
    is_failing: Arc<AtomicBool>,
}

/// The audience of a source, and whether it still exists.
struct Created(String, Weak<Tokens>);

impl Provider {
    /// Returns the audiences for which sources were created, in order.
    fn created(&self) -> Vec<String> {
        let created = self.created.lock().unwrap();
        created.iter().map(|created| created.0.clone()).collect()
    }

    /// Returns the audiences of the sources that exist.
    fn existing(&self) -> Vec<String> {
        let created = self.created.lock().unwrap();
        let existing = created
            .iter()
            .filter(|created| created.1.strong_count() > 0);
        existing.map(|created| created.0.clone()).collect()
    }
}

impl TokenProvider for Provider {
    fn token_source(&self, audience: &str) -> Result<Arc<dyn TokenSource>, Error> {
        if self.is_failing.load(Ordering::SeqCst) {
            return Err(Token::new("").unwrap_err());
        }
        let (old, new) = (named(audience), named(&format!("{audience} renewed")));
        let source = Arc::new(Tokens::two(&old, &new));
        let created = Created(audience.to_owned(), Arc::downgrade(&source));
        self.created.lock().unwrap().push(created);
        Ok(source)
    }
}

/// Returns a token with a name, which is the same at each call.
fn named(name: &str) -> String {
    token_from(name, 1_700_000_000, 3_000_000_000)
}

/// Returns the token that a request to a URL carries, by its name.
fn has_token(auth: &BearerAuth, url: &str, name: &str) -> bool {
    let token = auth.token_for(url).unwrap();
    token.is_some_and(|token| token == Token::new(named(name)).unwrap())
}

/// Sends a request through the tower layer, and returns its `Authorization` header.
async fn send(auth: &BearerAuth, request: Request<Body>) -> Option<String> {
    let recorder = Recorder::default();
    auth.layer(recorder.clone()).oneshot(request).await.unwrap();
    recorder.authorization().remove(0)
}

fn get(uri: &str) -> Request<Body> {
    Request::get(uri).body(Body::new()).unwrap()
}

/// Creates a middleware whose audiences are the origins.
fn own_audience(provider: &Provider) -> BearerAuth {
    BearerAuth::for_each_origin(provider.clone(), |origin| Some(origin.to_owned()))
}

#[tokio::test]
async fn each_service_gets_a_token_for_its_own_audience() {
    let (orders, stock) = (Server::start().await, Server::start().await);
    let provider = Provider::default();
    let client = client(own_audience(&provider));
    for _ in 0..3 {
        for server in [&orders, &stock] {
            client.get(&server.url).send().await.unwrap();
            let path = format!("{}/path?query", server.url);
            client.get(path).send().await.unwrap();
        }
    }
    for server in [&orders, &stock] {
        assert_eq!(
            server.take_authorization(),
            vec![bearer(&named(&server.url)); 6]
        );
    }
    assert_eq!(provider.created(), [orders.url, stock.url]);
}

#[test]
fn origins_with_the_same_audience_share_a_source() {
    let provider = Provider::default();
    let auth = BearerAuth::for_each_origin(provider.clone(), |origin| {
        origin.ends_with(".shop.example").then(|| "shop".to_owned())
    });
    for host in ["a", "b", "c"] {
        assert!(has_token(
            &auth,
            &format!("https://{host}.shop.example/x"),
            "shop"
        ));
    }
    assert!(auth.token_for("https://other.example").unwrap().is_none());
    assert_eq!(provider.created(), ["shop"]);
}

#[test]
fn the_function_is_called_once_for_each_origin_with_tokens_and_each_time_for_others() {
    let calls = Arc::<Mutex<Vec<String>>>::default();
    let seen = calls.clone();
    let provider = Provider::default();
    let auth = BearerAuth::for_each_origin(provider.clone(), move |origin| {
        seen.lock().unwrap().push(origin.to_owned());
        (origin != "https://none.example").then(|| "audience".to_owned())
    });
    for _ in 0..3 {
        for url in [
            "https://a.example/x",
            "https://b.example",
            "https://none.example/",
        ] {
            let token = auth.token_for(url).unwrap();
            assert_eq!(token.is_some(), !url.contains("none"), "{url}");
        }
    }
    let calls = calls.lock().unwrap();
    let count = |origin: &str| calls.iter().filter(|called| *called == origin).count();
    assert_eq!(count("https://a.example"), 1);
    assert_eq!(count("https://b.example"), 1);
    assert_eq!(count("https://none.example"), 3);
}

#[tokio::test]
async fn the_function_gets_the_origin_in_normal_form_and_no_url_without_one() {
    let calls = Arc::<Mutex<Vec<String>>>::default();
    let seen = calls.clone();
    let record = move |origin: &str| {
        seen.lock().unwrap().push(origin.to_owned());
        Some("audience".to_owned())
    };
    let auth = BearerAuth::for_each_origin(Provider::default(), record);
    for (uri, origin) in [
        ("https://a.example/path?query", "https://a.example"),
        ("https://A.Example:443/", "https://a.example"),
        ("HTTPS://b.EXAMPLE:8443/x", "https://b.example:8443"),
        ("https://c.example:80/", "https://c.example:80"),
        ("https://a.example./", "https://a.example."),
        ("https://[::1]:8443/", "https://[::1]:8443"),
        ("https://10.0.0.1/", "https://10.0.0.1"),
        ("http://localhost:8080/", "http://localhost:8080"),
        ("http://127.0.0.1/", "http://127.0.0.1"),
        ("http://LOCALHOST/", "http://localhost"),
    ] {
        let is_new = !calls.lock().unwrap().iter().any(|known| known == origin);
        let before = calls.lock().unwrap().len();
        assert!(send(&auth, get(uri)).await.is_some(), "{uri}");
        assert!(send(&auth, get(uri)).await.is_some(), "{uri}");
        let calls = calls.lock().unwrap();
        assert_eq!(
            calls.len(),
            before + usize::from(is_new),
            "{uri}: {calls:?}"
        );
        assert!(
            calls.iter().any(|called| called == origin),
            "{uri}: {calls:?}"
        );
    }
    let before = calls.lock().unwrap().len();
    for uri in [
        "http://a.example/",
        "http://10.0.0.1/",
        "http://localhost.example/",
        "wss://a.example/",
        "ftp://a.example/",
        "https://user@a.example/",
        "https://user:password@a.example/",
        "https://a.example@b.example/",
        "https://a.example:99999/",
        "https://a.example:0/",
        // Other spellings of a host, under which the client would connect to another name than the function sees.
        "https://0x7f.1/",
        "https://2130706433/",
        "https://a%2eexample/",
        "https://*.example/",
        "https://a..example/",
        "/path",
        "a.example:443",
    ] {
        // `http::Uri` rejects some of them.
        if let Ok(request) = Request::get(uri).body(Body::new()) {
            assert_eq!(send(&auth, request).await, None, "{uri}");
        }
    }
    assert_eq!(
        calls.lock().unwrap().len(),
        before,
        "{:?}",
        calls.lock().unwrap()
    );
}

#[test]
fn plain_http_is_possible_with_the_variant_that_is_named_insecure() {
    let provider = Provider::default();
    let audience = |origin: &str| Some(origin.to_owned());
    let url = "http://orders.shop.svc/1";
    let secure = BearerAuth::for_each_origin(provider.clone(), audience);
    assert!(secure.token_for(url).unwrap().is_none());
    let partner = || Tokens::one(&named("partner"));
    let partner_origin = "https://partner.example";
    for auth in [
        BearerAuth::insecure_http_for_each_origin(provider.clone(), audience),
        BearerAuth::for_origin(partner_origin, partner())
            .unwrap()
            .and_insecure_http_for_each_other_origin(provider.clone(), audience),
    ] {
        assert!(has_token(&auth, url, "http://orders.shop.svc"));
        assert!(has_token(&auth, "https://a.example", "https://a.example"));
    }
}

#[test]
fn listed_origins_have_their_own_source_whatever_the_order() {
    let provider = Provider::default();
    let audience = |origin: &str| Some(origin.to_owned());
    let partner = || Tokens::one(&named("partner"));
    let url = "https://partner.example";
    let first = BearerAuth::for_origin(url, partner())
        .unwrap()
        .and_each_other_origin(provider.clone(), audience);
    let last = BearerAuth::for_each_origin(provider.clone(), audience)
        .and_origin(url, partner())
        .unwrap();
    let after_any = BearerAuth::any_origin(Tokens::one(&named("any")))
        .and_each_other_origin(provider.clone(), audience)
        .and_origin(url, partner())
        .unwrap();
    for auth in [first, last, after_any] {
        assert!(has_token(&auth, "https://partner.example/x", "partner"));
        assert!(has_token(&auth, "https://a.example/x", "https://a.example"));
    }
    assert_eq!(provider.created(), ["https://a.example"; 3]);
    let none = BearerAuth::any_origin(Tokens::one(&named("any")))
        .and_each_other_origin(provider, |_| None);
    assert!(none.token_for("https://a.example").unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_first_requests_cause_one_fetch() {
    let metadata = FakeMetadataServer::start().await.unwrap();
    let server = Server::start().await;
    let provider = MetadataServer::with_host(metadata.host()).unwrap();
    let audiences = Arc::new(AtomicUsize::new(0));
    let calls = audiences.clone();
    let auth = BearerAuth::for_each_origin(provider, move |_| {
        calls.fetch_add(1, Ordering::SeqCst);
        Some("https://orders.example".to_owned())
    });
    let client = client(auth);
    let requests: Vec<_> = (0..100)
        .map(|_| tokio::spawn(client.get(&server.url).send()))
        .collect();
    for request in requests {
        request.await.unwrap().unwrap();
    }
    let received = server.take_authorization();
    assert_eq!(received.len(), 100);
    assert!(received[0].is_some());
    assert!(received.iter().all(|token| *token == received[0]));
    assert_eq!(metadata.request_count(), 1);
    assert!(audiences.load(Ordering::SeqCst) <= 100);
    client.get(&server.url).send().await.unwrap();
    let before = audiences.load(Ordering::SeqCst);
    client.get(&server.url).send().await.unwrap();
    assert_eq!(audiences.load(Ordering::SeqCst), before, "it is remembered");
}

#[tokio::test]
async fn the_error_of_a_provider_reaches_the_request_and_is_not_remembered() {
    let server = Server::start().await;
    let provider = Provider::default();
    provider.is_failing.store(true, Ordering::SeqCst);
    let auth = own_audience(&provider);
    let client = client(auth.clone());
    for _ in 0..200 {
        let error = client.get(&server.url).send().await.unwrap_err();
        let error = Error::find(&error);
        assert!(
            matches!(error, Some(Error::InvalidToken { .. })),
            "{error:?}"
        );
    }
    let error = auth.token_for("https://a.example");
    assert!(
        matches!(error, Err(Error::InvalidToken { .. })),
        "{error:?}"
    );
    let layered = auth.layer(Recorder::default());
    let error = layered.oneshot(get("https://a.example/")).await;
    assert!(
        matches!(&error, Err(SendError::Token(Error::InvalidToken { .. }))),
        "{error:?}"
    );
    assert!(server.take_authorization().is_empty());
    provider.is_failing.store(false, Ordering::SeqCst);
    client.get(&server.url).send().await.unwrap();
    assert_eq!(server.take_authorization(), [bearer(&named(&server.url))]);
    assert!(has_token(&auth, "https://a.example", "https://a.example"));
}

#[tokio::test]
async fn an_outage_of_the_token_server_fails_the_request_until_it_ends() {
    let metadata = FakeMetadataServer::start().await.unwrap();
    let server = Server::start().await;
    let provider = MetadataServer::with_host(metadata.host()).unwrap();
    let client = client(BearerAuth::for_each_origin(provider, |origin| {
        Some(origin.to_owned())
    }));
    metadata.set_fault(Some(Fault::NoResponse));
    let limited = tokio::time::timeout(Duration::from_millis(50), client.get(&server.url).send());
    assert!(limited.await.is_err(), "it waits for the token");
    metadata.set_fault(None);
    client.get(&server.url).send().await.unwrap();
    assert!(server.take_authorization()[0].is_some());
}

#[test]
fn the_source_that_was_used_least_recently_is_dropped() {
    let provider = Provider::default();
    let auth = own_audience(&provider).max_audiences(3);
    let use_hosts = |hosts: &str| {
        for host in hosts.chars() {
            let origin = format!("https://{host}.example");
            assert!(has_token(&auth, &origin, &origin));
        }
    };
    let existing = || {
        let existing = provider.existing();
        let hosts = existing.iter().map(|audience| &audience[8..9]);
        let mut hosts: Vec<_> = hosts.map(str::to_owned).collect();
        hosts.sort();
        hosts.concat()
    };
    use_hosts("abc");
    assert_eq!(existing(), "abc");
    use_hosts("abcabca");
    assert_eq!(provider.created().len(), 3);
    use_hosts("d");
    assert_eq!(existing(), "acd", "b was used least recently");
    use_hosts("ccaab");
    assert_eq!(existing(), "abc", "d was used least recently");
    use_hosts("e");
    assert_eq!(existing(), "abe", "c was used least recently");
    use_hosts("a");
    assert_eq!(provider.created().len(), 6);
}

#[test]
fn a_limit_of_zero_keeps_one_source() {
    let provider = Provider::default();
    let auth = own_audience(&provider).max_audiences(0);
    for host in ["a", "a", "b"] {
        let origin = format!("https://{host}.example");
        assert!(has_token(&auth, &origin, &origin));
    }
    assert_eq!(provider.existing(), ["https://b.example"]);
}

#[test]
fn clones_share_their_sources() {
    let provider = Provider::default();
    let auth = own_audience(&provider);
    for auth in [auth.clone(), auth.clone().without_resend(), auth] {
        assert!(has_token(&auth, "https://a.example", "https://a.example"));
    }
    assert_eq!(provider.created().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn many_made_up_hosts_create_a_limited_number_of_sources() {
    let provider = Provider::default();
    let auth = own_audience(&provider).max_audiences(10);
    let known = "https://known.example";
    let mut refused = 0;
    let mut request = |host: usize| {
        let url = format!("https://made-up-{host}.example/");
        match auth.token_for(&url) {
            Ok(token) => assert!(token.is_some()),
            Err(Error::TooManyAudiences { max_audiences, .. }) => {
                assert_eq!(max_audiences, 10);
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
        assert!(has_token(&auth, known, known), "{host}");
        assert!(provider.existing().len() <= 10);
    };
    for host in 0..2000 {
        request(host);
    }
    assert_eq!(provider.created().len(), 110);
    assert_eq!(refused, 2000 - 109);
    tokio::time::advance(Duration::from_secs(60)).await;
    for host in 2000..2100 {
        let url = format!("https://made-up-{host}.example/");
        let _ = auth.token_for(&url);
        assert!(has_token(&auth, known, known), "{host}");
    }
    assert_eq!(provider.created().len(), 120, "ten more after a minute");
    let created = provider.created();
    assert_eq!(
        created.iter().filter(|audience| *audience == known).count(),
        1
    );
}

#[test]
fn the_error_for_too_many_audiences_states_what_to_do_and_is_transient() {
    let provider = Provider::default();
    let auth = own_audience(&provider).max_audiences(1);
    let error = (0..1000)
        .find_map(|host| {
            let url = format!("https://made-up-{host}.example:8443/");
            auth.token_for(&url).err()
        })
        .unwrap();
    assert!(error.is_transient());
    let text = error.to_string();
    assert!(
        text.contains("\"https://made-up-101.example:8443\"")
            && text.contains("raise `max_audiences`")
            && text.contains("at most 1 at a time"),
        "{text}"
    );
}

#[tokio::test]
async fn too_many_audiences_are_one_warning() {
    if !is_child_process("for_each_origin::too_many_audiences_are_one_warning") {
        return;
    }
    let log = Log::default();
    let _subscribed = log.subscribe(tracing::Level::INFO);
    let auth = own_audience(&Provider::default()).max_audiences(1);
    for host in 0..200 {
        let _ = auth.token_for(&format!("https://made-up-{host}.example"));
    }
    let text = log.text();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        text.contains("WARN") && text.contains("max_audiences=1"),
        "{text}"
    );
    assert!(
        text.contains("origin=\"https://made-up-101.example\""),
        "{text}"
    );
}

#[test]
fn many_hosts_with_one_audience_need_one_source() {
    let provider = Provider::default();
    let auth = BearerAuth::for_each_origin(provider.clone(), |_| Some("all".to_owned()));
    for host in 0..3000 {
        assert!(has_token(
            &auth,
            &format!("https://host-{host}.example"),
            "all"
        ));
    }
    assert_eq!(provider.created(), ["all"]);
}

#[tokio::test]
async fn a_request_that_carries_no_token_or_another_one_creates_no_source() {
    let provider = Provider::default();
    let auth = own_audience(&provider);
    let request = |method: Method, header: Option<(&str, &str)>| {
        let mut request = Request::builder().method(method).uri("https://a.example/x");
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        request.body(Body::new()).unwrap()
    };
    let mut skipped = request(Method::GET, None);
    skipped.extensions_mut().insert(SkipToken);
    assert_eq!(send(&auth, skipped).await, None);
    assert_eq!(send(&auth, request(Method::CONNECT, None)).await, None);
    let other_host = request(Method::GET, Some(("host", "b.example")));
    assert_eq!(send(&auth, other_host).await, None);
    let own = request(Method::GET, Some(("authorization", "Basic x")));
    assert_eq!(send(&auth, own).await.as_deref(), Some("Basic x"));
    let admin = || UseSource::new(Tokens::one(&named("admin")));
    let mut replaced = request(Method::GET, None);
    replaced.extensions_mut().insert(admin());
    assert_eq!(send(&auth, replaced).await, bearer(&named("admin")));
    assert!(provider.created().is_empty(), "{:?}", provider.created());

    let none = BearerAuth::for_each_origin(provider, |_| None);
    let mut replaced = request(Method::GET, None);
    replaced.extensions_mut().insert(admin());
    assert_eq!(
        send(&none, replaced).await,
        None,
        "no tokens are sent there"
    );
}

#[tokio::test]
async fn a_layer_for_one_origin_uses_its_source_even_if_it_was_dropped_meanwhile() {
    let provider = Provider::default();
    let auth = BearerAuth::for_each_origin(provider.clone(), |origin| {
        (!origin.contains("none")).then(|| origin.to_owned())
    })
    .max_audiences(1);
    for origin in ["https://none.example", "http://a.example", "a.example", ""] {
        let error = auth.layer_for_origin(origin).unwrap_err();
        assert!(matches!(error, Error::InvalidOrigin { .. }), "{error}");
    }
    let layer = auth.layer_for_origin("https://A.example:443").unwrap();
    assert!(provider.created().is_empty(), "at the first request");
    let recorder = Recorder::default();
    let mut service = layer.layer(recorder.clone());
    for _ in 0..3 {
        let ready = service.ready().await.unwrap();
        ready
            .call(get("/grpc.health.v1.Health/Check"))
            .await
            .unwrap();
        assert!(has_token(&auth, "https://b.example", "https://b.example"));
        assert_eq!(provider.existing().len(), 1);
    }
    let ready = service.ready().await.unwrap();
    ready.call(get("https://b.example/x")).await.unwrap();
    let expected = bearer(&named("https://a.example"));
    let expected = [expected.clone(), expected.clone(), expected, None];
    assert_eq!(recorder.authorization(), expected);
}

#[tokio::test]
async fn a_token_that_does_not_exist_yet_is_awaited_by_the_tower_layer() {
    let metadata = FakeMetadataServer::start().await.unwrap();
    let provider = MetadataServer::with_host(metadata.host()).unwrap();
    let auth = BearerAuth::for_each_origin(provider, |origin| Some(origin.to_owned()));
    assert!(matches!(
        auth.token_for("https://a.example"),
        Err(Error::NotFetched { .. })
    ));
    let first = send(&auth, get("https://a.example/")).await;
    assert!(first.is_some());
    assert_eq!(send(&auth, get("https://a.example/")).await, first);
    assert_ne!(send(&auth, get("https://b.example/")).await, first);
    assert_eq!(metadata.request_count(), 2);
}

#[tokio::test]
async fn after_a_401_the_request_is_sent_again_with_a_newer_token_of_its_audience() {
    let server = Server::start().await;
    let provider = Provider::default();
    let auth = own_audience(&provider);
    let (old, new) = (
        named(&server.url),
        named(&format!("{} renewed", server.url)),
    );
    server.accept_only(&new);
    let response = client(auth).get(&server.url).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(server.take_authorization(), [bearer(&old), bearer(&new)]);
    server.accept_only("another");
    let never = own_audience(&provider).without_resend();
    let response = client(never).get(&server.url).send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(server.take_authorization(), [bearer(&old)]);
}

#[tokio::test]
async fn a_redirect_does_not_carry_the_token_to_another_origin() {
    let (server, other) = (Server::start().await, Server::start().await);
    let provider = Provider::default();
    let client = client(own_audience(&provider));
    client
        .get(server.redirect_to(&other.url))
        .send()
        .await
        .unwrap();
    assert_eq!(server.take_authorization(), [bearer(&named(&server.url))]);
    assert_eq!(other.take_authorization(), [None]);

    let recorder = Recorder::with_redirects([("/away", "https://other.example/end")]);
    let service = ServiceBuilder::new()
        .layer(FollowRedirectLayer::new())
        .layer(own_audience(&provider))
        .service(recorder.clone());
    service
        .oneshot(get("https://a.example/away"))
        .await
        .unwrap();
    assert_eq!(
        recorder.authorization(),
        [
            bearer(&named("https://a.example")),
            bearer(&named("https://other.example"))
        ],
        "below the layer for redirects, each origin gets a token for its own audience"
    );
}

#[tokio::test]
async fn tokens_in_two_headers_have_audiences_of_two_functions() {
    let server = Server::start().await;
    let provider = Provider::default();
    let with_prefix = |prefix: &'static str| {
        BearerAuth::for_each_origin(provider.clone(), move |origin| {
            Some(format!("{prefix} {origin}"))
        })
    };
    let http = reqwest::Client::builder().no_proxy();
    let client = TokenClientBuilder::new(http)
        .header(SERVERLESS, with_prefix("platform"))
        .authorization(with_prefix("application"))
        .build()
        .unwrap();
    let renewed = named(&format!("platform {} renewed", server.url));
    server.accept_only(&renewed);
    assert_eq!(client.get(&server.url).send().await.unwrap().status(), 200);
    let received = server.take_received();
    let application = named(&format!("application {}", server.url));
    assert_eq!(received[0].authorization, bearer(&application));
    let platform = named(&format!("platform {}", server.url));
    assert_eq!(received[0].serverless, bearer(&platform));
    assert_eq!(received[1].serverless, bearer(&renewed));
}

#[tokio::test]
async fn a_source_that_was_dropped_completes_the_requests_that_use_it() {
    let metadata = FakeMetadataServer::start().await.unwrap();
    let server = Server::start().await;
    let provider = MetadataServer::with_host(metadata.host()).unwrap();
    let auth =
        BearerAuth::for_each_origin(provider, |origin| Some(origin.to_owned())).max_audiences(1);
    let first = client(auth.clone());
    let url = server.url.clone();
    metadata.set_fault(Some(Fault::NoResponse));
    let waiting = tokio::spawn(async move { first.get(&url).send().await });
    while metadata.request_count() == 0 {
        tokio::task::yield_now().await;
    }
    // The source of the waiting request is dropped for this one.
    assert!(auth.token_for("https://other.example").is_err());
    metadata.set_fault(None);
    waiting.await.unwrap().unwrap();
    assert!(server.take_authorization()[0].is_some());
}

#[test]
fn a_function_or_provider_that_panics_does_not_affect_later_requests() {
    struct Panicking(AtomicBool, Provider);
    impl TokenProvider for Panicking {
        fn token_source(&self, audience: &str) -> Result<Arc<dyn TokenSource>, Error> {
            assert!(self.0.load(Ordering::SeqCst), "as expected");
            self.1.token_source(audience)
        }
    }
    let works = Arc::new(AtomicBool::new(false));
    let provider = Arc::new(Panicking(AtomicBool::new(false), Provider::default()));
    let (function_works, shared) = (works.clone(), provider.clone());
    let auth = BearerAuth::for_each_origin(shared, move |origin| {
        assert!(function_works.load(Ordering::SeqCst), "as expected");
        Some(origin.to_owned())
    });
    let is_panic = || {
        let auth = std::panic::AssertUnwindSafe(&auth);
        std::panic::catch_unwind(|| auth.token_for("https://a.example")).is_err()
    };
    assert!(is_panic());
    works.store(true, Ordering::SeqCst);
    assert!(is_panic());
    provider.0.store(true, Ordering::SeqCst);
    assert!(has_token(&auth, "https://a.example", "https://a.example"));
}

#[test]
fn debug_output_contains_the_number_of_sources_but_no_token() {
    let provider = Provider::default();
    let auth = own_audience(&provider).max_audiences(7);
    assert!(has_token(&auth, "https://a.example", "https://a.example"));
    let text = format!("{auth:?}");
    assert!(text.contains("1 of at most 7 sources"), "{text}");
    for part in named("https://a.example").split('.') {
        assert!(!text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn a_source_that_fails_does_not_affect_other_audiences() {
    struct OneFails;
    impl TokenProvider for OneFails {
        fn token_source(&self, audience: &str) -> Result<Arc<dyn TokenSource>, Error> {
            Ok(match audience {
                "https://a.example" => Arc::new(FailingSource::transient()),
                _ => Arc::new(Tokens::one(&token("0", 600))),
            })
        }
    }
    let auth = BearerAuth::for_each_origin(OneFails, |origin| Some(origin.to_owned()));
    for _ in 0..2 {
        assert!(auth.token_for("https://a.example").is_err());
        assert!(auth.token_for("https://b.example").unwrap().is_some());
    }
}
