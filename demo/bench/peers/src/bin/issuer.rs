//! An issuer on loopback that also creates the tokens for the load generators.
//!
//! `issuer <folder> <tokens>` writes the given number of tokens of each kind to the files `good`, `wrong-signature`,
//! `unknown-key`, `huge` and `garbage`, one per line. The tokens of the file `google` are good ones for verifiers that accept
//! nothing but Google's tokens: they name Google as their issuer. Files with one token each are `wrong-audience`, `expired`,
//! `google-wrong-audience` and `google-expired`. It then prints the URL of the issuer. For each line on standard input it prints how
//! often its keys have been fetched. It exits at the end of standard input.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bench_peers::{ACCOUNT, AUDIENCE, AnyResult, arguments};
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};
use tower_oidc_guard::testing::{TestIssuer, TokenSpec};

const LIFETIME: Duration = Duration::from_secs(6 * 3600);
/// The issuer of Google's tokens.
const GOOGLE: &str = "https://accounts.google.com";
const OTHER_AUDIENCE: &str = "https://other-server.example";
/// Longer than the guard accepts, and shorter than the limit of the HTTP server.
const HUGE: usize = 20_000;

#[tokio::main]
async fn main() -> AnyResult {
    let [folder, tokens] = arguments("<folder> <tokens>")?;
    let (folder, tokens): (_, usize) = (Path::new(&folder), tokens.parse()?);
    let issuer = TestIssuer::start().await?;
    // Some of the measured guards ask for key sets as `application/json` alone.
    issuer.ignore_accept();
    let token = || {
        let (namespace, name) = ACCOUNT;
        let spec = issuer.token().audience(AUDIENCE).lifetime(LIFETIME);
        spec.service_account(namespace, name)
    };
    // The claims are the same, except that Google's tokens name their audience in a string.
    let google = |audience: &str| token().claim("iss", GOOGLE).claim("aud", audience);
    let write_lines = |name: &str, lines, make: &dyn Fn(usize) -> String| -> AnyResult {
        let mut text = String::new();
        for number in 0..lines {
            writeln!(text, "{}", make(number))?;
        }
        Ok(std::fs::write(folder.join(name), text)?)
    };
    let write = |name: &str, make: &dyn Fn(usize) -> String| write_lines(name, tokens, make);
    let write_one = |name: &str, token: TokenSpec| write_lines(name, 1, &|_| token.mint());
    let unknown = |spec: TokenSpec, number| spec.header("kid", format!("made-up-{number}"));
    write("good", &|_| token().mint())?;
    write("wrong-signature", &|_| token().bad_signature().mint())?;
    write("unknown-key", &|number| unknown(token(), number).mint())?;
    let good = token().mint();
    write("huge", &|number| format!("{number:x}{good:A>HUGE$}"))?;
    write("garbage", &|number| format!("{number}.not-a.token"))?;
    write("google", &|_| google(AUDIENCE).mint())?;
    let expired = SystemTime::now() - 2 * LIFETIME;
    write_one("wrong-audience", issuer.token().audience(OTHER_AUDIENCE))?;
    write_one("expired", token().issued_at(expired))?;
    write_one("google-wrong-audience", google(OTHER_AUDIENCE))?;
    write_one("google-expired", google(AUDIENCE).issued_at(expired))?;
    println!("{}", issuer.url());
    let mut lines = BufReader::new(stdin()).lines();
    while lines.next_line().await?.is_some() {
        println!("{}", issuer.key_fetches());
    }
    Ok(())
}
