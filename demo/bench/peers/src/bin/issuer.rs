//! An issuer on loopback, and tokens for the loads. Prints its URL once the files are written; then, for each line on
//! standard input, how often its keys have been fetched. Ends with standard input.
//!
//! `issuer <folder> <tokens>`: writes so many tokens of each kind to `good`, `wrong-signature`, `unknown-key`, `huge`
//! and `garbage`, one a line.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use bench_peers::{ACCOUNT, AUDIENCE, Anything, arguments};
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};
use tower_oidc_guard::testing::{TestIssuer, TokenSpec};

const LIFETIME: Duration = Duration::from_secs(6 * 3600);
/// Above what the guard reads, and below what the server takes for a request.
const HUGE: usize = 20_000;

#[tokio::main]
async fn main() -> Anything {
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
    let write = |name: &str, make: &dyn Fn(usize) -> String| -> Anything {
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
