//! A guarded endpoint of poem, a web framework whose endpoints are no tower services.
//!
//! [`OidcGuard::admit`] decides on the method, the URI and the headers of a request as the tower layer does, so this works with
//! any framework. Run it with `cargo run -p tower-oidc-guard --example poem_server --features testing`.

use std::error::Error;

use poem::listener::{Acceptor as _, Listener as _, TcpListener};
use poem::web::Data;
use poem::{Endpoint, EndpointExt as _, IntoResponse, Response, Route, Server, get, handler};
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Identity, Issuer, OidcGuard, Policy, http};

const AUDIENCE: &str = "https://orders.example";

/// Responds with the caller's subject.
#[handler]
fn orders(Data(caller): Data<&Identity>) -> String {
    caller.subject().to_owned()
}

#[handler]
fn healthz() -> &'static str {
    "ok"
}

/// Puts the guard in front of an endpoint.
fn guarded<E: Endpoint + 'static>(guard: OidcGuard, endpoint: E) -> impl Endpoint {
    endpoint.around(move |endpoint, mut request| {
        let guard = guard.clone();
        async move {
            // The guard needs everything but the body.
            let mut copy = http::Request::new(());
            *copy.method_mut() = request.method().clone();
            *copy.uri_mut() = request.uri().clone();
            *copy.headers_mut() = request.headers().clone();
            // The guard removes an identity that is already there.
            *copy.extensions_mut() = std::mem::take(request.extensions_mut());
            if let Err(rejected) = guard.admit(&mut copy).await {
                let (parts, body) = rejected.into_parts();
                let mut response = Response::from((parts.status, body));
                *response.headers_mut() = parts.headers;
                return Ok(response);
            }
            // The token's header is marked as sensitive in the copy, so that logs do not show it, or removed by `strip_token`.
            *request.headers_mut() = std::mem::take(copy.headers_mut());
            *request.extensions_mut() = std::mem::take(copy.extensions_mut());
            endpoint
                .call(request)
                .await
                .map(IntoResponse::into_response)
        }
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let issuer = TestIssuer::start().await?;
    let trusted = Issuer::kubernetes(issuer.url()).insecure_loopback_http();
    let guard = OidcGuard::builder()
        .issuer(trusted.audience(AUDIENCE))
        .policy(Policy::members(["system:serviceaccount:shop:web"]))
        .build()?;
    let app = Route::new()
        .at("/orders", guarded(guard, get(orders)))
        .at("/healthz", get(healthz));
    let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await?;
    let address = acceptor.local_addr().remove(0);
    let address = address.as_socket_addr().copied().ok_or("no address")?;
    tokio::spawn(Server::new_with_acceptor(acceptor).run(app));

    let token = |name: &str| {
        let spec = issuer.token().audience(AUDIENCE);
        spec.service_account("shop", name)
    };
    let client = reqwest::Client::builder().no_proxy().build()?;
    for (path, token, expected) in [
        ("/healthz", None, 200),
        ("/orders", None, 401),
        ("/orders", Some(token("web").bad_signature()), 401),
        ("/orders", Some(token("blog")), 403),
        ("/orders", Some(token("web")), 200),
    ] {
        let mut request = client.get(format!("http://{address}{path}"));
        if let Some(token) = token {
            request = request.bearer_auth(token.mint());
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        assert_eq!(status, expected, "{path}");
        let has_challenge = response.headers().contains_key("www-authenticate");
        assert_eq!(has_challenge, matches!(status, 401 | 403));
        println!("GET {path}: {status} {}", response.text().await?);
    }
    Ok(())
}
