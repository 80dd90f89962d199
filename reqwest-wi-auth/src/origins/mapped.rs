//! Origins whose audience a function returns, and the sources that are created for these audiences on demand.
//!
//! The sources of the latest origins are in a sorted list that is replaced as a whole, so a request to one of them takes no lock
//! and allocates nothing. Everything else happens under a lock: sources are created and dropped, and origins are added.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::time::Instant;

use super::{Origin, OriginRef, PlainHttp};
use crate::error::Error;
use crate::source::{TokenProvider, TokenSource};
use crate::telemetry;
use crate::token::Token;

/// The default for the number of sources that exist at a time.
const DEFAULT_MAX_AUDIENCES: usize = 100;

/// The number of origins whose source is found without the lock. Above it, origins are removed from the list at random, so
/// that many made-up origins do not displace the same one each time.
const MAX_ORIGINS: usize = 1000;

/// How many sources can be created at once in addition to `max_audiences`.
const EXTRA_CREATIONS: usize = 100;

/// The time in which `max_audiences` further sources can be created.
const CREATION_PERIOD: Duration = Duration::from_secs(60);

/// Returns the audience of the tokens for an origin, or `None` if no tokens are sent to it.
pub(crate) type AudienceFn = dyn Fn(&str) -> Option<String> + Send + Sync;

/// The origins whose audience a function returns. Clones of a `BearerAuth` share them.
pub(crate) struct MappedOrigins {
    provider: Arc<dyn TokenProvider>,
    audience: Arc<AudienceFn>,
    plain_http: PlainHttp,
    max_audiences: usize,
    /// The latest origins, in the order of [`Origin::compare`].
    known: ArcSwap<Vec<Arc<KnownOrigin>>>,
    /// The number of times that another source was used than the one before.
    uses: AtomicU64,
    sources: Mutex<Sources>,
}

/// An origin to which requests were sent, and the source of their tokens.
struct KnownOrigin {
    origin: Origin,
    source: Arc<AudienceSource>,
}

/// The source of the tokens for an audience.
struct AudienceSource {
    source: Arc<dyn TokenSource>,
    /// The value of [`MappedOrigins::uses`] at the last use.
    last_used: AtomicU64,
}

struct Sources {
    by_audience: HashMap<String, Arc<AudienceSource>>,
    creations: Allowance,
}

/// Limits how often something happens: a number of times at once, which is replenished over time.
struct Allowance {
    capacity: usize,
    per_period: usize,
    available: f64,
    updated: Instant,
    /// Whether the limit was reached since the allowance was last full.
    is_exceeded: bool,
}

/// Whether this is the first time that a limit is exceeded since it was last far from being reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exceeded {
    First,
    Again,
}

/// An origin for which the function has returned an audience.
pub(crate) struct MappedOrigin<'o> {
    origins: &'o MappedOrigins,
    state: State,
}

enum State {
    Known(Arc<dyn TokenSource>),
    New { origin: Origin, audience: String },
}

impl MappedOrigins {
    pub(crate) fn new(
        provider: Arc<dyn TokenProvider>,
        audience: Arc<AudienceFn>,
        plain_http: PlainHttp,
    ) -> Self {
        Self::with_limit(provider, audience, plain_http, DEFAULT_MAX_AUDIENCES)
    }

    fn with_limit(
        provider: Arc<dyn TokenProvider>,
        audience: Arc<AudienceFn>,
        plain_http: PlainHttp,
        max_audiences: usize,
    ) -> Self {
        let max_audiences = max_audiences.max(1);
        Self {
            provider,
            audience,
            plain_http,
            max_audiences,
            known: ArcSwap::default(),
            // A new source has the value 0, which is not that of the latest use.
            uses: AtomicU64::new(1),
            sources: Mutex::new(Sources {
                by_audience: HashMap::new(),
                creations: Allowance::new(
                    max_audiences.saturating_add(EXTRA_CREATIONS),
                    max_audiences,
                ),
            }),
        }
    }

    /// Returns the same provider and function with another limit, and without sources.
    pub(crate) fn with_max_audiences(&self, max_audiences: usize) -> Self {
        Self::with_limit(
            self.provider.clone(),
            self.audience.clone(),
            self.plain_http,
            max_audiences,
        )
    }

    /// Returns an origin if tokens are sent to it. Creates no source.
    pub(crate) fn find(&self, origin: OriginRef<'_>) -> Option<MappedOrigin<'_>> {
        let state = match self.known_source(origin) {
            Some(source) => State::Known(source),
            None => {
                let origin = Origin::from_request(origin, self.plain_http)?;
                let audience = (self.audience)(&origin.to_string())?;
                State::New { origin, audience }
            }
        };
        Some(MappedOrigin {
            origins: self,
            state,
        })
    }

    fn known_source(&self, origin: OriginRef<'_>) -> Option<Arc<dyn TokenSource>> {
        let known = self.known.load();
        let index = known
            .binary_search_by(|known| known.origin.compare(origin))
            .ok()?;
        let source = &known[index].source;
        self.record_use(source);
        Some(source.source.clone())
    }

    /// Records that a source is the latest one in use.
    fn record_use(&self, source: &AudienceSource) {
        // While one source is used by all requests, nothing is written.
        if source.last_used.load(Ordering::Relaxed) != self.uses.load(Ordering::Relaxed) {
            let uses = self.uses.fetch_add(1, Ordering::Relaxed) + 1;
            source.last_used.store(uses, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the source of the tokens for an audience, and remembers it for the origin. Creates it if there is none.
    fn add(&self, origin: Origin, audience: String) -> Result<Arc<dyn TokenSource>, Error> {
        let mut sources = self.lock();
        let (source, dropped) = match sources.by_audience.get(&audience) {
            Some(source) => (source.clone(), None),
            None => self.create(&mut sources, &origin, audience)?,
        };
        self.record_use(&source);
        let mut known = Vec::clone(&self.known.load());
        if let Some(dropped) = &dropped {
            known.retain(|known| !Arc::ptr_eq(&known.source, dropped));
        }
        let added = Arc::new(KnownOrigin {
            origin,
            source: source.clone(),
        });
        insert(&mut known, added);
        self.known.store(Arc::new(known));
        drop(sources);
        // Dropped without the lock: the destructor of a source may take time.
        drop(dropped);
        Ok(source.source.clone())
    }

    /// Creates a source. If there are too many, removes and returns the one that was used least recently.
    fn create(
        &self,
        sources: &mut Sources,
        origin: &Origin,
        audience: String,
    ) -> Result<(Arc<AudienceSource>, Option<Arc<AudienceSource>>), Error> {
        if let Err(exceeded) = sources.creations.check(Instant::now()) {
            if exceeded == Exceeded::First {
                telemetry::too_many_audiences(&origin.to_string(), &audience, self.max_audiences);
            }
            return Err(Error::TooManyAudiences {
                origin: origin.to_string(),
                audience,
                max_audiences: self.max_audiences,
            });
        }
        // Under the lock, so that concurrent requests do not create several sources.
        let source = self.provider.token_source(&audience)?;
        // Failed attempts do not count, so that their error stays visible.
        sources.creations.take();
        telemetry::audience_added(&origin.to_string(), &audience);
        let dropped = (sources.by_audience.len() >= self.max_audiences)
            .then(|| sources.remove_least_recently_used())
            .flatten();
        let created = Arc::new(AudienceSource {
            source,
            last_used: AtomicU64::new(0),
        });
        sources.by_audience.insert(audience, created.clone());
        Ok((created, dropped))
    }
}

/// Adds an origin to a sorted list, or replaces it. If there are too many, removes another one at random.
fn insert(known: &mut Vec<Arc<KnownOrigin>>, added: Arc<KnownOrigin>) {
    if known.len() >= MAX_ORIGINS {
        known.remove(fastrand::usize(..known.len()));
    }
    let added_origin = added.origin.borrow();
    match known.binary_search_by(|known| known.origin.compare(added_origin)) {
        Ok(index) => known[index] = added,
        Err(index) => known.insert(index, added),
    }
}

impl Sources {
    fn remove_least_recently_used(&mut self) -> Option<Arc<AudienceSource>> {
        let last_used = |source: &AudienceSource| source.last_used.load(Ordering::Relaxed);
        let (audience, _) = self
            .by_audience
            .iter()
            .min_by_key(|(_, source)| last_used(source))?;
        let audience = audience.clone();
        telemetry::audience_dropped(&audience);
        self.by_audience.remove(&audience)
    }
}

impl Allowance {
    fn new(capacity: usize, per_period: usize) -> Self {
        Self {
            capacity,
            per_period,
            available: capacity as f64,
            updated: Instant::now(),
            is_exceeded: false,
        }
    }

    /// Returns an error if the limit is reached.
    fn check(&mut self, now: Instant) -> Result<(), Exceeded> {
        let periods =
            now.duration_since(self.updated).as_secs_f64() / CREATION_PERIOD.as_secs_f64();
        self.updated = now;
        self.available += periods * self.per_period as f64;
        if self.available >= self.capacity as f64 {
            self.available = self.capacity as f64;
            self.is_exceeded = false;
        }
        if self.available >= 1.0 {
            return Ok(());
        }
        let was_exceeded = std::mem::replace(&mut self.is_exceeded, true);
        Err(if was_exceeded {
            Exceeded::Again
        } else {
            Exceeded::First
        })
    }

    fn take(&mut self) {
        self.available -= 1.0;
    }
}

impl MappedOrigin<'_> {
    /// Returns the source of the tokens for this origin, and creates it if there is none. If that fails, returns a source that
    /// returns the error.
    pub(crate) fn into_source(self) -> Arc<dyn TokenSource> {
        match self.state {
            State::Known(source) => source,
            State::New { origin, audience } => match self.origins.add(origin, audience) {
                Ok(source) => source,
                Err(error) => Arc::new(Unavailable(error)),
            },
        }
    }
}

/// The source of a request for whose audience no source could be created.
struct Unavailable(Error);

#[async_trait]
impl TokenSource for Unavailable {
    fn current(&self) -> Result<Token, Error> {
        Err(self.0.clone())
    }

    async fn refresh(&self, _rejected: Option<&Token>) -> Result<Token, Error> {
        self.current()
    }
}

impl fmt::Display for MappedOrigins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.plain_http {
            PlainHttp::LoopbackOnly => "https",
            PlainHttp::Allowed => "http and https",
        };
        let sources = self.lock().by_audience.len();
        write!(
            f,
            "each {scheme} origin with an audience ({sources} of at most {} sources)",
            self.max_audiences
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_replenished_up_to_its_capacity() {
        let start = Instant::now();
        let mut allowance = Allowance::new(3, 2);
        allowance.updated = start;
        let after = |seconds| start + Duration::from_secs(seconds);
        for _ in 0..3 {
            assert_eq!(allowance.check(after(0)), Ok(()));
            allowance.take();
        }
        assert_eq!(allowance.check(after(0)), Err(Exceeded::First));
        assert_eq!(allowance.check(after(29)), Err(Exceeded::Again));
        assert_eq!(allowance.check(after(31)), Ok(()));
        allowance.take();
        assert_eq!(allowance.check(after(31)), Err(Exceeded::Again));
        assert_eq!(allowance.check(after(3600)), Ok(()));
        for _ in 0..3 {
            allowance.take();
        }
        assert_eq!(allowance.check(after(3600)), Err(Exceeded::First));
    }

    #[test]
    fn origins_are_found_in_a_sorted_list_regardless_of_case() {
        let origins: Vec<_> = [
            "https://b.example",
            "https://a.example:8443",
            "https://longer.example",
            "http://localhost",
            "https://localhost:80",
            "https://a.example",
            "https://[::1]",
        ]
        .map(|url| Origin::parse(url, PlainHttp::LoopbackOnly).unwrap())
        .into();
        let source = Arc::new(AudienceSource {
            source: Arc::new(Unavailable(Error::invalid_origin("", ""))),
            last_used: AtomicU64::new(0),
        });
        let mut known = Vec::new();
        for origin in origins.iter().chain(&origins) {
            let (origin, source) = (origin.clone(), source.clone());
            insert(&mut known, Arc::new(KnownOrigin { origin, source }));
        }
        assert_eq!(known.len(), origins.len());
        let find = |uri: &str| {
            let uri: http::Uri = uri.parse().unwrap();
            let origin = OriginRef::from_uri(&uri).unwrap();
            let found = known.binary_search_by(|known| known.origin.compare(origin));
            found.ok().map(|index| known[index].origin.to_string())
        };
        for origin in &origins {
            let text = origin.to_string();
            assert_eq!(find(&text), Some(text.clone()));
            assert_eq!(find(&text.to_ascii_uppercase()), Some(text));
        }
        for other in [
            "https://c.example",
            "http://a.example",
            "https://a.example:1",
        ] {
            assert_eq!(find(other), None, "{other}");
        }
    }
}
