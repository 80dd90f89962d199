//! How the programs end: as PID 1, as in a container, where a signal without a handler is ignored.
//!
//! Needs user namespaces; where they are not permitted, a line says that the tests were skipped.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use reqwest_wi_auth::testing::Kubelet;
use support::{AUDIENCE, Program, strings, text};
use tower_oidc_guard::testing::TestIssuer;

const SERVER: &str = env!("CARGO_BIN_EXE_auth-server");
const CLIENT: &str = env!("CARGO_BIN_EXE_auth-client");
const DEMO: &str = env!("CARGO_BIN_EXE_demo");
/// The bit of SIGTERM in a mask of signals.
const SIGTERM_BIT: u64 = 1 << 14;

/// Returns whether a program can be PID 1 of a namespace of its own here.
fn is_permitted(more: &[&str]) -> bool {
    let mut unshare = Command::new("unshare");
    unshare.args(["-Urpf", "--mount-proc"]).args(more);
    let status = unshare.stdout(Stdio::null()).stderr(Stdio::null()).status();
    let permitted = status.is_ok_and(|status| status.success());
    if !permitted {
        println!("skipped: user namespaces are not permitted here");
    }
    permitted
}

/// A program that is PID 1 of its namespace.
struct PidOne {
    unshare: Program,
    id: u32,
}

impl PidOne {
    /// Starts the program and waits until it handles SIGTERM.
    async fn start(binary: &str, arguments: &[&str]) -> Self {
        Self::start_by(&[], binary, arguments).await
    }

    /// Starts the program by another command, which becomes it.
    async fn start_by(command: &[&str], binary: &str, arguments: &[&str]) -> Self {
        let unshare = ["-Urpf", "--mount-proc", "--kill-child"];
        let flags = if command.is_empty() {
            &[][..]
        } else {
            &["-mn"]
        };
        let all = [&unshare[..], flags, command, &[binary], arguments].concat();
        let unshare = Program::start("unshare", &strings(&all));
        for _ in 0..2000 {
            if let Some(id) = child_of(unshare.id()).filter(|&id| handles_sigterm(id, binary)) {
                return Self { unshare, id };
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("the program does not handle SIGTERM: {:?}", unshare.lines());
    }

    fn terminate(&self) {
        // It may have ended by itself in between, for another reason.
        let _ = Command::new("kill")
            .args(["-TERM", &self.id.to_string()])
            .status();
    }

    /// Returns the exit code, which is that of the program.
    async fn ended(&mut self) -> Option<i32> {
        self.unshare.ended().await
    }
}

fn child_of(parent: u32) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").unwrap();
    let mut ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.find(|id: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // The name, in parentheses, may have spaces.
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

fn server_arguments<'a>(issuer: &'a TestIssuer, more: &[&'a str]) -> Vec<&'a str> {
    let arguments = [
        "--address",
        "127.0.0.1",
        "--port",
        "0",
        "--insecure-loopback-http",
        "--audience",
        AUDIENCE,
        "--issuer",
        issuer.url(),
    ];
    [&arguments[..], more].concat()
}

/// A listener that accepts no connection: its backlog is full, so packets to it are dropped.
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
    panic!("the backlog is never full");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_program_ends_at_a_signal_right_after_its_start() {
    if !is_permitted(&["true"]) {
        return;
    }
    let issuer = TestIssuer::start().await.unwrap();
    for _ in 0..5 {
        let mut server = PidOne::start(SERVER, &server_arguments(&issuer, &[])).await;
        server.terminate();
        assert_eq!(
            server.ended().await,
            Some(0),
            "{:?}",
            server.unshare.lines()
        );
        let waiting = [
            "--service-url",
            "https://a.example",
            "--token-path",
            "/nowhere/gke-sa",
        ];
        let mut client = PidOne::start(CLIENT, &waiting).await;
        client.terminate();
        assert_eq!(client.ended().await, Some(1));
        let mut demo = PidOne::start(DEMO, &["--story", "full", "--duration", "600"]).await;
        demo.terminate();
        assert_eq!(demo.ended().await, Some(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_ends_while_it_waits_for_its_token_and_while_a_file_is_stuck() {
    if !is_permitted(&["true"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let fifo = text(folder.path().join("fifo"));
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    for arguments in [
        &[
            "--service-url",
            "https://a.example",
            "--token-path",
            "/nowhere/gke-sa",
        ][..],
        &[
            "--service-url",
            "https://a.example",
            "--identity",
            "none",
            "--ca-file",
            &fifo,
        ],
    ] {
        let mut client = PidOne::start(CLIENT, arguments).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        client.terminate();
        assert_eq!(client.ended().await, Some(1));
        assert!(
            client.unshare.lines().is_empty(),
            "{:?}",
            client.unshare.lines()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_drops_a_request_that_hangs_at_the_end_of_its_grace_period() {
    if !is_permitted(&["true"]) {
        return;
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let (_filling, _full, dropped_url) = blackhole();
    for url in [&silent_url, &dropped_url] {
        for grace in ["0", "1"] {
            let arguments = [
                "--identity",
                "none",
                "--service-url",
                url,
                "--grace-seconds",
                grace,
            ];
            let mut client = PidOne::start(CLIENT, &arguments).await;
            client.unshare.line("##### client without a token").await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            client.terminate();
            client
                .unshare
                .line("dropped at the end of the grace period")
                .await;
            assert_eq!(client.ended().await, Some(1));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_ends_while_a_name_is_being_looked_up() {
    // A nameserver whose answers never come: packets to it are dropped at the other end of the pair.
    let network = "ip link set lo up && ip link add v0 type veth peer name v1 && ip addr add 192.0.2.1/24 dev v0 \
         && ip link set v0 up && ip link set v1 up \
         && ip neigh replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev v0 nud permanent \
         && mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    let folder = tempfile::tempdir().unwrap();
    let resolver = text(folder.path().join("resolv.conf"));
    std::fs::write(&resolver, "nameserver 192.0.2.2\n").unwrap();
    let command = ["sh", "-c", network, &resolver];
    if !is_permitted(&[&["-mn"][..], &command, &["true"]].concat()) {
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
    let mut client = PidOne::start_by(&command, CLIENT, &arguments).await;
    client.unshare.line("##### client without a token").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        client.unshare.lines().len(),
        1,
        "{:?}",
        client.unshare.lines()
    );
    client.terminate();
    assert_eq!(client.ended().await, Some(1));
    let lines = client.unshare.lines();
    assert!(
        !lines.iter().any(|line| line.contains("failed")),
        "{lines:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_ends_between_two_rounds_with_the_result_of_the_last_one() {
    if !is_permitted(&["true"]) {
        return;
    }
    let issuer = TestIssuer::start().await.unwrap();
    let (_server, address) = support::server(&server_arguments(&issuer, &[])[4..]).await;
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path()).unwrap();
    let token = issuer
        .token()
        .audience(AUDIENCE)
        .service_account("id-namespace", "gke-sa");
    kubelet.write([("gke-sa", token.mint())]).unwrap();
    let (url, path) = (format!("http://{address}"), text(kubelet.path("gke-sa")));
    let arguments = [
        "--service-url",
        &url,
        "--token-path",
        &path,
        "--interval",
        "3600",
    ];
    let mut client = PidOne::start(CLIENT, &arguments).await;
    client.unshare.line("GET /private: 200").await;
    client.terminate();
    assert_eq!(client.ended().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_drops_requests_that_hang_at_the_end_of_its_grace_period() {
    use std::io::Write as _;
    if !is_permitted(&["true"]) {
        return;
    }
    let issuer = TestIssuer::start().await.unwrap();
    let limits = ["--header-timeout-seconds", "3600", "--grace-seconds", "1"];
    for drain in ["0", "1"] {
        let more = [&limits[..], &["--drain-seconds", drain]].concat();
        let mut server = PidOne::start(SERVER, &server_arguments(&issuer, &more)).await;
        let line = server.unshare.line("listening").await;
        let address = line
            .split("address=")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n").unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.terminate();
        server
            .unshare
            .line("not done within the grace period")
            .await;
        assert_eq!(server.ended().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_program_at_once() {
    use std::io::Write as _;
    if !is_permitted(&["true"]) {
        return;
    }
    let issuer = TestIssuer::start().await.unwrap();
    for (more, line) in [
        (
            &["--drain-seconds", "1800"][..],
            "takes no more connections soon",
        ),
        (
            &[
                "--header-timeout-seconds",
                "3600",
                "--grace-seconds",
                "1800",
            ],
            "finishes what is under way",
        ),
    ] {
        let mut server = PidOne::start(SERVER, &server_arguments(&issuer, more)).await;
        let listening = server.unshare.line("listening").await;
        let address = listening
            .split("address=")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n").unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.terminate();
        server.unshare.line(line).await;
        server.terminate();
        assert_eq!(server.ended().await, Some(143));
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let arguments = [
        "--identity",
        "none",
        "--service-url",
        &url,
        "--grace-seconds",
        "3600",
    ];
    let mut client = PidOne::start(CLIENT, &arguments).await;
    client.unshare.line("##### client without a token").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    client.terminate();
    tokio::time::sleep(Duration::from_millis(500)).await;
    client.terminate();
    assert_eq!(client.ended().await, Some(143));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_ends_at_a_signal_with_its_summary() {
    if !is_permitted(&["true"]) {
        return;
    }
    for (arguments, line) in [
        (&["--duration", "600"][..], "let in as id-namespace/gke-sa"),
        (
            &["--story", "full", "--duration", "12"],
            "guarded twice, with one token",
        ),
    ] {
        let mut demo = PidOne::start(DEMO, arguments).await;
        demo.unshare.line(line).await;
        demo.terminate();
        let code = demo.ended().await;
        let last = demo.unshare.line(" unexpected answers").await;
        assert!(
            last.starts_with("demo: ") && last.ends_with(", 0 unexpected answers"),
            "{last}"
        );
        assert!(code == Some(0) || code == Some(1), "{code:?}");
    }
}
