//! A gRPC service without generated code, and a client for it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::uri::PathAndQuery;
use tokio_stream::StreamExt as _;
use tonic::server::NamedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::{BoxError, Service, service_fn};
use tower_oidc_guard::Identity;

/// The service `shop.Orders`, as `tonic-prost-build` generates services: generic over the body, and infallible.
///
/// `Caller` responds with the subject of the caller, `Slow` never responds, and `Panic` panics.
#[derive(Debug, Clone)]
pub struct Orders;

impl NamedService for Orders {
    const NAME: &'static str = "shop.Orders";
}

impl<B> Service<http::Request<B>> for Orders
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + Send,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        Box::pin(async move {
            let method = request.uri().path().to_owned();
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<String, String>::default());
            let respond = service_fn(move |request| respond(method.clone(), request));
            Ok(grpc.unary(respond, request).await)
        })
    }
}

async fn respond(method: String, request: Request<String>) -> Result<Response<String>, Status> {
    match &*method {
        "/shop.Orders/Caller" => {
            let caller = request.extensions().get::<Identity>();
            let caller = caller.map_or("nobody", Identity::subject);
            Ok(Response::new(caller.to_owned()))
        }
        "/shop.Orders/Slow" => std::future::pending().await,
        "/shop.Orders/Panic" => panic!("a panic of the service"),
        _ => Err(Status::unimplemented(method)),
    }
}

/// The service `shop.Feed`: `Get` returns its message, `Watch` sends a message and never ends, `Upload` reads until the end, and
/// `Echo` returns what it receives.
#[derive(Debug, Clone)]
pub struct Feed;

impl NamedService for Feed {
    const NAME: &'static str = "shop.Feed";
}

impl<B> Service<http::Request<B>> for Feed
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + Send,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<String, String>::default());
            Ok(match request.uri().path() {
                "/shop.Feed/Get" => {
                    let get = service_fn(async |request: Request<String>| {
                        Ok(Response::new(request.into_inner()))
                    });
                    grpc.unary(get, request).await
                }
                "/shop.Feed/Watch" => {
                    let watch = service_fn(async |_: Request<String>| {
                        let first = tokio_stream::once(Ok("first".to_owned()));
                        Ok(Response::new(first.chain(tokio_stream::pending())))
                    });
                    grpc.server_streaming(watch, request).await
                }
                "/shop.Feed/Upload" => {
                    let upload = service_fn(async |request: Request<Streaming<String>>| {
                        let mut messages = request.into_inner();
                        while messages.message().await?.is_some() {}
                        Ok(Response::new("complete".to_owned()))
                    });
                    grpc.client_streaming(upload, request).await
                }
                _ => {
                    let echo = service_fn(async |request: Request<Streaming<String>>| {
                        Ok(Response::new(request.into_inner()))
                    });
                    grpc.streaming(echo, request).await
                }
            })
        })
    }
}

/// Calls a method of [`Orders`].
pub async fn call(
    origin: &str,
    method: &'static str,
    token: Option<&str>,
) -> Result<String, Status> {
    let channel = Channel::from_shared(origin.to_owned()).unwrap();
    let mut client = tonic::client::Grpc::new(channel.connect().await.unwrap());
    client.ready().await.unwrap();
    let mut request = Request::new(String::new());
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    let path = PathAndQuery::from_static(method);
    let response = client.unary(request, path, ProstCodec::<String, String>::default());
    response.await.map(Response::into_inner)
}

/// Calls the health service without a token and returns the status code.
pub async fn health(origin: &str) -> Code {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let channel = Channel::from_shared(origin.to_owned()).unwrap();
    let mut client = HealthClient::new(channel.connect().await.unwrap());
    let response = client.check(HealthCheckRequest::default()).await;
    response.map_or_else(|status| status.code(), |_| Code::Ok)
}
