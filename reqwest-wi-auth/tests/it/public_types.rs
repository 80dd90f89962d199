//! Properties that all public types have, according to the Rust API guidelines.

use reqwest_wi_auth::{
    BearerAuth, BearerAuthLayer, BearerAuthService, Changes, CommandToken, Error, FetchedToken,
    FileError, FileHealth, FixedToken, MetadataError, MetadataServer, ProjectedToken,
    ProjectedTokenBuilder, SendError, SkipToken, Token, TokenClientBuilder, TokenFormatError,
    TokenHealth, UseSource, WatchedFile, WatchedFileBuilder,
};

#[test]
fn public_types_are_send_sync_and_debug() {
    fn assert_traits<T: Send + Sync + std::fmt::Debug + 'static>() {}
    #[cfg(feature = "federation")]
    {
        assert_traits::<reqwest_wi_auth::Ambient>();
        assert_traits::<reqwest_wi_auth::AmbientBuilder>();
        assert_traits::<reqwest_wi_auth::AmbientHealth>();
        assert_traits::<reqwest_wi_auth::AmbientToken>();
    }
    assert_traits::<BearerAuth>();
    assert_traits::<BearerAuthLayer>();
    assert_traits::<BearerAuthService<()>>();
    assert_traits::<Changes<Token>>();
    assert_traits::<CommandToken>();
    assert_traits::<FileHealth>();
    assert_traits::<FixedToken>();
    assert_traits::<FetchedToken>();
    assert_traits::<MetadataServer>();
    assert_traits::<ProjectedToken>();
    assert_traits::<ProjectedTokenBuilder>();
    assert_traits::<SkipToken>();
    assert_traits::<Token>();
    assert_traits::<TokenClientBuilder>();
    assert_traits::<TokenHealth>();
    assert_traits::<UseSource>();
    assert_traits::<WatchedFile<String>>();
    assert_traits::<WatchedFileBuilder<String>>();
}

#[cfg(feature = "federation")]
#[test]
fn public_types_of_federation_are_send_sync_and_debug() {
    fn assert_traits<T: Send + Sync + std::fmt::Debug + 'static>() {}
    assert_traits::<reqwest_wi_auth::TokenExchange>();
    assert_traits::<reqwest_wi_auth::TokenExchangeBuilder>();
    assert_traits::<reqwest_wi_auth::TokenType>();
    assert_traits::<reqwest_wi_auth::testing::FakeTokenEndpoint>();
    assert_traits::<reqwest_wi_auth::testing::HttpFault>();
    assert_traits::<reqwest_wi_auth::testing::TokenEndpointFault>();
    assert_traits::<reqwest_wi_auth::testing::TokenEndpointRequest>();
}

#[test]
fn errors_are_send_sync_and_static() {
    fn assert_error<E: std::error::Error + Send + Sync + 'static>() {}
    assert_error::<Error>();
    assert_error::<FileError>();
    assert_error::<MetadataError>();
    assert_error::<SendError>();
    assert_error::<TokenFormatError>();
}
