//! Token sources for tests.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use reqwest_wi_auth::{Error, Token, TokenSource};

/// A source of a sequence of tokens. After the last one, it stays at that.
#[derive(Clone)]
pub struct Tokens {
    tokens: Arc<Mutex<VecDeque<Token>>>,
    advance: Advance,
}

/// When a source advances to the next token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Advance {
    AtRefresh,
    AtEachUse,
}

impl Tokens {
    /// Creates a source of one token.
    pub fn one(text: &str) -> Self {
        Self::new(&[text.to_owned()], Advance::AtRefresh)
    }

    /// Creates a source of two tokens, which advances to the second one at a refresh.
    pub fn two(first: &str, second: &str) -> Self {
        Self::new(&[first.to_owned(), second.to_owned()], Advance::AtRefresh)
    }

    /// Creates a source that advances to the next token at each use.
    pub fn advancing(texts: &[String]) -> Self {
        Self::new(texts, Advance::AtEachUse)
    }

    fn new(texts: &[String], advance: Advance) -> Self {
        let tokens = texts.iter().map(|text| Token::new(text).unwrap()).collect();
        Self {
            tokens: Arc::new(Mutex::new(tokens)),
            advance,
        }
    }

    fn front(&self) -> Token {
        self.tokens.lock().unwrap().front().unwrap().clone()
    }

    fn advance(&self) {
        let mut tokens = self.tokens.lock().unwrap();
        if tokens.len() > 1 {
            tokens.pop_front();
        }
    }
}

#[async_trait::async_trait]
impl TokenSource for Tokens {
    fn current(&self) -> Result<Token, Error> {
        let token = self.front();
        if self.advance == Advance::AtEachUse {
            self.advance();
        }
        Ok(token)
    }

    async fn refresh(&self, _: Option<&Token>) -> Result<Token, Error> {
        self.advance();
        Ok(self.front())
    }
}

/// A source that always returns an error.
#[derive(Clone)]
pub struct FailingSource(pub Error);

impl FailingSource {
    /// Creates a source that returns an error that is not transient.
    pub fn permanent() -> Self {
        Self(Token::new("").unwrap_err())
    }

    /// Creates a source that returns a transient error.
    pub fn transient() -> Self {
        Self(not_fetched())
    }
}

#[async_trait::async_trait]
impl TokenSource for FailingSource {
    fn current(&self) -> Result<Token, Error> {
        Err(self.0.clone())
    }

    async fn refresh(&self, _: Option<&Token>) -> Result<Token, Error> {
        self.current()
    }
}

/// Returns the error of a source that has no token yet.
pub fn not_fetched() -> Error {
    Error::NotFetched {
        location: "a test source".to_owned(),
    }
}
