//! An issuer on loopback that also creates the tokens for the load generators.
//!
//! `issuer <folder> <tokens>` writes the given number of tokens of each kind to the files `good`, `wrong-signature`,
//! `unknown-key`, `huge` and `garbage`, one per line, and then prints the URL of the issuer. For each line on standard
//! input it prints how often its keys have been fetched. It exits at the end of standard input.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use bench_peers::{ACCOUNT, AUDIENCE, AnyResult, arguments};
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};
use tower_oidc_guard::testing::{TestIssuer, TokenSpec};

const LIFETIME: Duration = Duration::from_secs(6 * 3600);
/// Longer than the guard accepts, and shorter than the limit of the HTTP server.
const HUGE: usize = 20_000;

#[tokio::main]
async fn main() -> AnyResult {
    let [folder, tokens] = arguments("<folder> <tokens>")?;
    let (folder, tokens) = (Path::new(&folder), tokens.parse()?);
    let issuer = TestIssuer::start().await?;
    // Some of the measured guards ask for key sets as `application/json` alone.
    issuer.ignore_accept();
    let token = || {
        let (namespace, name) = ACCOUNT;
        let spec = issuer.token().audience(AUDIENCE).lifetime(LIFETIME);
        spec.service_account(namespace, name)
    };
    let write = |name: &str, make: &dyn Fn(usize) -> String| -> AnyResult {
        let mut lines = String::new();
        for number in 0..tokens {
            writeln!(lines, "{}", make(number))?;
        }
        Ok(std::fs::write(folder.join(name), lines)?)
    };
    let unknown = |spec: TokenSpec, number| spec.header("kid", format!("made-up-{number}"));
    write("good", &|_| token().mint())?;
    write("wrong-signature", &|_| token().bad_signature().mint())?;
    write("unknown-key", &|number| unknown(token(), number).mint())?;
    let good = token().mint();
    write("huge", &|number| format!("{number:x}{good:A>HUGE$}"))?;
    write("garbage", &|number| format!("{number}.not-a.token"))?;
    println!("{}", issuer.url());
    let mut lines = BufReader::new(stdin()).lines();
    while lines.next_line().await?.is_some() {
        println!("{}", issuer.key_fetches());
    }
    Ok(())
}
