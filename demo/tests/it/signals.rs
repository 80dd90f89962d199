//! How the programs end on signals, as PID 1 in a container, where a signal without a handler is ignored.
//!
//! These tests need user namespaces. If they are not permitted, the tests print that they were skipped.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tower_oidc_guard::testing::TestIssuer;

use crate::process::{MAX_POLLS, Process};
use crate::support::{
    AUDIENCE, CLIENT, NO_VARIABLES, ON_LOOPBACK, SERVER, Server, TokenVolume, path_string,
    service_account_token, trusting,
};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
/// The time after which a program is certain to have begun what it was started for.
const STARTED: Duration = Duration::from_millis(200);
/// The flags of a client that waits for a token file that does not appear.
const WAITING_CLIENT: [&str; 4] = [
    "--service-url",
    "https://a.example",
    "--token-path",
    "/nowhere/gke-sa",
];
/// The bit of SIGTERM in a signal mask.
const SIGTERM_BIT: u64 = 1 << 14;

/// Returns whether a program can be started as PID 1 of a new namespace, with these further arguments of `unshare`.
fn can_unshare(more: &[&str]) -> bool {
    let mut unshare = Command::new("unshare");
    unshare.args(["-Urpf", "--mount-proc"]).args(more);
    let status = unshare.stdout(Stdio::null()).stderr(Stdio::null()).status();
    let is_permitted = status.is_ok_and(|status| status.success());
    if !is_permitted {
        println!("skipped: user namespaces are not permitted here");
    }
    is_permitted
}

/// A program that is PID 1 of its namespace.
struct PidOne {
    unshare: Process,
    id: u32,
}

impl PidOne {
    /// Starts the program and waits until it handles SIGTERM.
    async fn start(binary: &str, arguments: &[&str]) -> Self {
        Self::start_in(&[], binary, arguments).await
    }

    /// Starts the program by a command that sets up its network and then executes it.
    async fn start_in(network: &[&str], binary: &str, arguments: &[&str]) -> Self {
        let unshare = ["-Urpf", "--mount-proc", "--kill-child"];
        let new_network = if network.is_empty() {
            &[][..]
        } else {
            &["-mn"]
        };
        let all = [&unshare[..], new_network, network, &[binary], arguments].concat();
        let unshare = Process::start("unshare", &all, &NO_VARIABLES);
        for _ in 0..MAX_POLLS {
            if let Some(id) = child_of(unshare.id()).filter(|&id| handles_sigterm(id, binary)) {
                return Self { unshare, id };
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("the program does not handle SIGTERM: {:?}", unshare.lines());
    }

    /// Starts a client with this service and these further arguments, and waits until it sends its first request.
    async fn start_requesting_client(url: &str, more: &[&str]) -> Self {
        let arguments = ["--identity", "none", "--service-url", url];
        let client = Self::start(CLIENT, &[&arguments[..], more].concat()).await;
        client.wait_for_line("##### client without a token").await;
        tokio::time::sleep(STARTED).await;
        client
    }

    /// Starts a server with these further arguments, and sends it a part of a request's head.
    async fn start_server_with_request_in_flight(
        issuer: &TestIssuer,
        more: &[&str],
    ) -> (Self, TcpStream) {
        let server = Self::start(SERVER, &server_arguments(issuer, more)).await;
        let address = server.unshare.wait_for_address().await;
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n").unwrap();
        tokio::time::sleep(STARTED).await;
        (server, stream)
    }

    /// Sends SIGTERM.
    fn terminate(&self) {
        // An error is ignored, since the program may have ended in between.
        let _ = Command::new("kill")
            .args(["-TERM", &self.id.to_string()])
            .status();
    }

    async fn wait_for_line(&self, text: &str) -> String {
        self.unshare.wait_for_line(text).await
    }

    fn lines(&self) -> Vec<String> {
        self.unshare.lines()
    }

    /// Waits until the program has ended, and returns its exit code.
    async fn wait_for_exit(&mut self) -> Option<i32> {
        self.unshare.wait_for_exit().await
    }
}

fn server_arguments<'a>(issuer: &'a TestIssuer, more: &[&'a str]) -> Vec<&'a str> {
    [&ON_LOOPBACK[..], &trusting(issuer.url(), more)].concat()
}

fn child_of(parent: u32) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").unwrap();
    let mut ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.find(|id: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // The name, in parentheses, may contain spaces.
        let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        rest.split(' ').nth(1) == Some(parent.to_string().as_str())
    })
}

fn handles_sigterm(id: u32, binary: &str) -> bool {
    let is_program = std::fs::read_link(format!("/proc/{id}/exe"))
        .is_ok_and(|exe| exe.file_name() == Path::new(binary).file_name());
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let caught = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    is_program && caught.is_some_and(|mask| mask & SIGTERM_BIT != 0)
}

/// Returns a listener that accepts no connection, because its backlog is full: packets to it are dropped. Also returns the
/// connections that fill the backlog, and its URL.
fn blackhole() -> (Vec<TcpStream>, TcpListener, String) {
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let listener: TcpListener = listener.into();
    let address = listener.local_addr().unwrap();
    let mut filling = Vec::new();
    for _ in 0..64 {
        match TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            Ok(stream) => filling.push(stream),
            Err(_) => return (filling, listener, format!("http://{address}")),
        }
    }
    panic!("the backlog does not fill up");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_program_ends_on_a_signal_during_its_start() {
    if !can_unshare(&["true"]) {
        return;
    }
    let issuer = TestIssuer::start().await.unwrap();
    for _ in 0..5 {
        let mut server = PidOne::start(SERVER, &server_arguments(&issuer, &[])).await;
        server.terminate();
        let code = server.wait_for_exit().await;
        assert_eq!(code, Some(0), "{:?}", server.lines());
        let mut client = PidOne::start(CLIENT, &WAITING_CLIENT).await;
        client.terminate();
        assert_eq!(client.wait_for_exit().await, Some(1));
        let mut demo = PidOne::start(DEMO, &["--story", "full", "--duration", "600"]).await;
        demo.terminate();
        assert_eq!(demo.wait_for_exit().await, Some(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_ends_while_it_waits_for_its_token_or_a_blocked_read() {
    if !can_unshare(&["true"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let fifo = path_string(folder.path().join("fifo"));
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let reading_fifo = [
        "--service-url",
        "https://a.example",
        "--identity",
        "none",
        "--ca-file",
        &fifo,
    ];
    for arguments in [&WAITING_CLIENT[..], &reading_fifo] {
        let mut client = PidOne::start(CLIENT, arguments).await;
        tokio::time::sleep(STARTED).await;
        client.terminate();
        assert_eq!(client.wait_for_exit().await, Some(1));
        assert!(client.lines().is_empty(), "{:?}", client.lines());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_drops_a_request_in_flight_at_the_end_of_its_grace_period() {
    if !can_unshare(&["true"]) {
        return;
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let (_filling, _full, unreachable_url) = blackhole();
    for url in [&silent_url, &unreachable_url] {
        for grace in ["0", "1"] {
            let more = ["--grace-seconds", grace];
            let mut client = PidOne::start_requesting_client(url, &more).await;
            client.terminate();
            let line = "dropped at the end of the grace period";
            client.wait_for_line(line).await;
            assert_eq!(client.wait_for_exit().await, Some(1));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_ends_during_a_dns_lookup() {
    // Responses of this name server never arrive: packets to it are dropped at the other end of the pair of interfaces.
    let network = "ip link set lo up && ip link add v0 type veth peer name v1 && ip addr add 192.0.2.1/24 dev v0 \
         && ip link set v0 up && ip link set v1 up \
         && ip neigh replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev v0 nud permanent \
         && mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    let folder = tempfile::tempdir().unwrap();
    let resolver = path_string(folder.path().join("resolv.conf"));
    std::fs::write(&resolver, "nameserver 192.0.2.2\n").unwrap();
    let command = ["sh", "-c", network, &resolver];
    if !can_unshare(&[&["-mn"][..], &command, &["true"]].concat()) {
        return;
    }
    let arguments = [
        "--identity",
        "none",
        "--service-url",
        "https://auth-server.example",
        "--grace-seconds",
        "0",
    ];
    let mut client = PidOne::start_in(&command, CLIENT, &arguments).await;
    client.wait_for_line("##### client without a token").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(client.lines().len(), 1, "{:?}", client.lines());
    client.terminate();
    assert_eq!(client.wait_for_exit().await, Some(1));
    let lines = client.lines();
    assert!(
        !lines.iter().any(|line| line.contains("failed")),
        "{lines:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_ends_between_two_polls_with_the_result_of_the_last_one() {
    if !can_unshare(&["true"]) {
        return;
    }
    let issuer = TestIssuer::start().await.unwrap();
    let server = Server::start(issuer.url(), &[]).await;
    let volume = TokenVolume::new(&service_account_token(&issuer, AUDIENCE).mint());
    let arguments = [
        "--service-url",
        &server.url(""),
        "--token-path",
        &volume.token_path(),
        "--interval",
        "3600",
    ];
    let mut client = PidOne::start(CLIENT, &arguments).await;
    client.wait_for_line("GET /private: 200").await;
    client.terminate();
    assert_eq!(client.wait_for_exit().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_drops_requests_in_flight_at_the_end_of_its_grace_period() {
    if !can_unshare(&["true"]) {
        return;
    }
    let issuer = TestIssuer::start().await.unwrap();
    let limits = ["--header-timeout-seconds", "3600", "--grace-seconds", "1"];
    for drain in ["0", "1"] {
        let more = [&limits[..], &["--drain-seconds", drain]].concat();
        let (mut server, _request) =
            PidOne::start_server_with_request_in_flight(&issuer, &more).await;
        server.terminate();
        let line = "dropped at the end of the grace period";
        server.wait_for_line(line).await;
        assert_eq!(server.wait_for_exit().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_program_at_once() {
    if !can_unshare(&["true"]) {
        return;
    }
    let issuer = TestIssuer::start().await.unwrap();
    let draining = ["--drain-seconds", "1800"];
    let finishing = [
        "--header-timeout-seconds",
        "3600",
        "--grace-seconds",
        "1800",
    ];
    for (more, line) in [
        (&draining[..], "still accepting connections"),
        (&finishing, "finishing the requests in flight"),
    ] {
        let (mut server, _request) =
            PidOne::start_server_with_request_in_flight(&issuer, more).await;
        server.terminate();
        server.wait_for_line(line).await;
        server.terminate();
        assert_eq!(server.wait_for_exit().await, Some(143));
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let more = ["--grace-seconds", "3600"];
    let mut client = PidOne::start_requesting_client(&url, &more).await;
    client.terminate();
    tokio::time::sleep(Duration::from_millis(500)).await;
    client.terminate();
    assert_eq!(client.wait_for_exit().await, Some(143));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_prints_its_summary_on_a_signal() {
    if !can_unshare(&["true"]) {
        return;
    }
    for (arguments, line) in [
        (
            &["--duration", "600"][..],
            "admitted as id-namespace/gke-sa",
        ),
        (
            &["--story", "full", "--duration", "12"],
            "gate and guard: one token",
        ),
    ] {
        let mut demo = PidOne::start(DEMO, arguments).await;
        demo.wait_for_line(line).await;
        demo.terminate();
        let code = demo.wait_for_exit().await;
        let last = demo.wait_for_line(" unexpected answers").await;
        assert!(
            last.starts_with("demo: ") && last.ends_with(", 0 unexpected answers"),
            "{last}"
        );
        assert!(code == Some(0) || code == Some(1), "{code:?}");
    }
}
