#![forbid(unsafe_code)]
//! Runs two servers and a client for a long time while everything around them changes, and checks that each request gets the expected
//! answer and that memory, descriptors, threads and tasks do not grow. `demo/soak.sh` builds and runs it.

mod callers;
mod client;
mod connections;
mod disturbances;
mod environment;
mod growth;
mod issuer;
mod pace;
mod plot;
mod programs;
mod record;
mod report;
mod samples;
mod tokens;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::Parser;
use demo::output::print_line;
use demo::signals::{self, Shutdown};
use demo::{arguments, error_chain};
use tokio::task::JoinSet;

use self::client::ClientOutput;
use self::environment::{
    Admits, CERTIFICATE_FILE, CONFIGURATION_FILE, Ca, Environment, KEY_FILE, POLICY_FILE,
    SHADOW_POLICY_FILE, Server, TOKEN_FILE, Volumes, configuration, policy,
};
use self::issuer::{Answers, Issuer};
use self::programs::{Program, program_path};
use self::record::Record;
use self::report::Report;
use self::samples::{Quantity, Sample, Series, processor_seconds};
use self::tokens::{AUDIENCE, Tokens};

/// Any error that ends the run.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How long the run may take to end after a signal.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(20);
/// How long the servers may take to fetch the keys at their start, and the client to send its first requests.
const START_LIMIT: Duration = Duration::from_secs(60);
/// The time after the load at which the programs are sampled, if they are at rest.
const REST: Duration = Duration::from_secs(10);
/// The longest time until connections are closed and tasks have ended after the load.
const REST_LIMIT: Duration = Duration::from_secs(60);
/// The pause between two polls of the client.
const CLIENT_INTERVAL: &str = "0.1";
/// A connection that misbehaves is opened for so many requests.
const REQUESTS_PER_CONNECTION: f64 = 12.0;

/// Runs auth-server twice, with a policy file and TLS and with a configuration file, and auth-client, while tokens, keys, policies,
/// configurations and certificates are replaced, the issuer fails, and callers send good and bad tokens or misbehave.
///
/// Prints the requests, the failures, and what each program uses at start and end. The exit code is 0 only if no answer was unexpected
/// and nothing has grown beyond its limit.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// How long the load lasts, in minutes, from 1 to 10080. Start and end take up to a minute in addition.
    #[arg(value_name = "MINUTES", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_080))]
    minutes: u64,

    /// How many requests are sent per second, from 10 to 2000, in addition to those of the client and to connections that misbehave.
    #[arg(long, env = "SOAK_RATE", value_name = "REQUESTS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(10..=2000))]
    rate: u64,

    /// The folder for the timeline, the logs and the figures, which is created if it does not exist.
    #[arg(long, value_name = "FOLDER", default_value = "target/soak")]
    output: PathBuf,
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("soak: {}", error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, Failure> {
    let shutdown = Shutdown::install(1)?;
    let arguments: Arguments = arguments::parse();
    shutdown.set_time_limit(SHUTDOWN_LIMIT);
    signals::block_on(soak(&arguments, &shutdown))?
}

/// The programs, and where their metrics are.
struct Programs {
    all: Vec<(Program, String)>,
    http: reqwest::Client,
}

impl Programs {
    /// Samples each program.
    async fn sample(&self, seconds: f64) -> Result<Vec<Sample>, Failure> {
        let mut samples = Vec::new();
        for (program, metrics) in &self.all {
            let sample = Sample::take(program.id(), metrics, &self.http, seconds).await;
            samples.push(sample.map_err(|error| format!("{}: {error}", program.name))?);
        }
        Ok(samples)
    }

    /// Returns an error if a program has ended.
    fn check(&mut self) -> Result<(), Failure> {
        for (program, _) in &mut self.all {
            if let Some(status) = program.ended() {
                return Err(format!("{} has ended: {status}", program.name).into());
            }
        }
        Ok(())
    }
}

async fn soak(arguments: &Arguments, shutdown: &Shutdown) -> Result<ExitCode, Failure> {
    std::fs::create_dir_all(&arguments.output)?;
    let output = &arguments.output;
    let record = Record::create(&output.join("timeline.log"))?;
    let files = tempfile::tempdir()?;
    let report = measure(arguments, files.path(), &record, shutdown).await?;
    report.print();
    report.save(output)?;
    if !report.is_successful() {
        print_line(&format!(
            "each change and failure is in {}, and what the programs have logged beside it",
            output.join("timeline.log").display()
        ));
    }
    print_line(&report.to_string());
    Ok(if report.is_successful() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// How the load ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Its time is over.
    Complete,
    /// A program or a part of the load has ended.
    Failed,
    /// This process was asked to end.
    Interrupted,
}

/// Starts the programs, disturbs them, and measures. The programs end with this function, however it returns.
async fn measure(
    arguments: &Arguments,
    files: &Path,
    record: &Arc<Record>,
    shutdown: &Shutdown,
) -> Result<Report, Failure> {
    let mut background = JoinSet::new();
    background.spawn(record.clone().measure_lateness());
    let client_output = Arc::new(ClientOutput::new(record.clone()));
    let (environment, mut programs) = tokio::select! {
        started = start(arguments, files, record, &client_output) => started?,
        () = shutdown.requested() => return Err("interrupted".into()),
    };
    let before = programs.sample(0.0).await?;
    let mut series: Vec<Series> = programs
        .all
        .iter()
        .zip(before)
        .map(|((program, _), before)| Series {
            name: program.name,
            before,
            samples: Vec::new(),
            after: before,
        })
        .collect();

    let duration = Duration::from_secs(arguments.minutes * 60);
    let rate = arguments.rate as f64;
    let text = format!(
        "the load begins: {} minutes, {rate} requests per second",
        arguments.minutes
    );
    record.announce("soak", &text);
    let mut load = JoinSet::new();
    load.spawn({
        let environment = environment.clone();
        async move {
            callers::run(environment, rate).await;
            Ok(())
        }
    });
    load.spawn({
        let environment = environment.clone();
        async move {
            connections::run(environment, rate / REQUESTS_PER_CONNECTION).await;
            Ok(())
        }
    });
    load.spawn(disturbances::rotate_tokens(
        environment.clone(),
        client_output.clone(),
    ));
    load.spawn(disturbances::replace_policies(environment.clone()));
    load.spawn(disturbances::replace_configurations(environment.clone()));
    load.spawn(disturbances::replace_certificates(environment.clone()));
    load.spawn(disturbances::disturb_issuer(environment.clone()));

    let began = Instant::now();
    let sample_interval = Duration::from_secs_f64((duration.as_secs_f64() / 1200.0).max(1.0));
    let progress_interval = Duration::from_secs_f64((duration.as_secs_f64() / 12.0).max(10.0));
    let mut next_progress = progress_interval;
    let mut end = loop {
        if began.elapsed() >= duration {
            break End::Complete;
        }
        tokio::select! {
            () = tokio::time::sleep(sample_interval) => {}
            () = shutdown.requested() => break End::Interrupted,
            Some(ended) = load.join_next() => {
                // None of these completes without an error.
                let error = match ended {
                    Ok(Ok(())) => "it has ended".to_owned(),
                    Ok(Err(error)) => error_chain(&*error),
                    Err(error) => error_chain(&error),
                };
                record.failure("a part of the load", &error);
                break End::Failed;
            }
        }
        // A signal from a terminal ends the programs as well.
        if let Err(error) = programs.check()
            && !shutdown.is_requested()
        {
            record.failure("end of a program", &error.to_string());
            break End::Failed;
        }
        match programs.sample(began.elapsed().as_secs_f64()).await {
            Ok(samples) => {
                for (series, sample) in series.iter_mut().zip(samples) {
                    series.samples.push(sample);
                }
            }
            Err(error) => record.failure("sample", &error_chain(&*error)),
        }
        if began.elapsed() >= next_progress {
            next_progress += progress_interval;
            record.announce("soak", &report::progress(record, &series));
        }
    };
    load.shutdown().await;
    environment.issuer.set(Answers::Documents);
    let elapsed = began.elapsed();
    if end == End::Complete {
        end = tokio::select! {
            // First, because a signal from a terminal ends the programs as well.
            biased;
            () = shutdown.requested() => End::Interrupted,
            ended = rest_and_terminate(&mut programs, &mut series, record) => ended,
        };
    }
    let minutes = match end {
        End::Complete => arguments.minutes as f64,
        End::Failed | End::Interrupted => (elapsed.as_secs_f64() / 6.0).round() / 10.0,
    };
    if end == End::Interrupted {
        let text = format!("interrupted after {:.0} s", elapsed.as_secs_f64());
        record.failure("run", &text);
    }
    Ok(Report::new(
        minutes,
        end,
        arguments.rate,
        elapsed,
        record,
        series,
        processor_seconds("self")?,
    ))
}

/// Takes the last samples when the programs are at rest after the load, and terminates them. A failure is recorded, so that there
/// is a report all the same.
async fn rest_and_terminate(
    programs: &mut Programs,
    series: &mut [Series],
    record: &Record,
) -> End {
    if let Err(error) = wait_until_at_rest(programs, series, record).await {
        record.failure("rest after the load", &error_chain(&*error));
        return End::Failed;
    }
    // The client first, so that none of its requests fails because a server has ended.
    while let Some((program, _)) = programs.all.pop() {
        let name = program.name;
        if let Err(error) = program.terminate().await {
            record.failure("end of a program", &format!("{name}: {error}"));
        }
    }
    End::Complete
}

/// Waits until the connections of the load are closed and their tasks have ended, and takes the last samples.
async fn wait_until_at_rest(
    programs: &mut Programs,
    series: &mut [Series],
    record: &Record,
) -> Result<(), Failure> {
    let text = "the load has ended; waiting until the programs are at rest";
    record.announce("soak", text);
    let began = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        programs.check()?;
        let samples = programs.sample(record.elapsed().as_secs_f64()).await?;
        for (series, sample) in series.iter_mut().zip(samples) {
            series.after = sample;
        }
        let are_at_rest = series.iter().all(|series| {
            let quantities = [Quantity::Descriptors, Quantity::Tasks];
            let mut quantities = quantities.iter();
            quantities.all(|quantity| series.is_at_rest(*quantity, &series.after))
        });
        if began.elapsed() > if are_at_rest { REST } else { REST_LIMIT } {
            break;
        }
    }
    let text = format!("at rest after {:.0} s", began.elapsed().as_secs_f64());
    record.event("soak", &text);
    Ok(())
}

/// Starts the issuer, the servers and the client, and waits until they are ready.
async fn start(
    arguments: &Arguments,
    files: &Path,
    record: &Arc<Record>,
    client_output: &Arc<ClientOutput>,
) -> Result<(Arc<Environment>, Programs), Failure> {
    let issuer = Issuer::start().await?;
    let tokens = Tokens::new(&issuer);
    let (volumes, ca) = (Volumes::create(files)?, Ca::new()?);
    let (certificate, key) = ca.issue()?;
    volumes
        .tls
        .write([(CERTIFICATE_FILE, certificate), (KEY_FILE, key)])?;
    let content = policy(&issuer.url, Admits::Yes);
    volumes.policy.write([(POLICY_FILE, &content)])?;
    let content = configuration(&issuer.url, Admits::Yes, 0);
    volumes.configuration.write([
        (CONFIGURATION_FILE, content),
        (SHADOW_POLICY_FILE, policy(&issuer.url, Admits::No)),
    ])?;
    let first = tokens.valid("gke-sa", &ClientOutput::pod(0));
    volumes.token.write([(TOKEN_FILE, first)])?;
    let ca_file = files.join("ca.crt");
    std::fs::write(&ca_file, ca.pem())?;

    let (server, client) = (program_path("auth-server")?, program_path("auth-client")?);
    let path = |path: PathBuf| path.display().to_string();
    let on_loopback = ["--address", "127.0.0.1", "--admin-port", "0"];
    let idle_limit = environment::IDLE_LIMIT.as_secs().to_string();
    let limits = ["--port", "0", "--header-timeout-seconds", &idle_limit];
    let (policy_file, crt, key, cached) = (
        path(volumes.policy.path(POLICY_FILE)),
        path(volumes.tls.path(CERTIFICATE_FILE)),
        path(volumes.tls.path(KEY_FILE)),
        environment::CACHED_TOKENS.to_string(),
    );
    let with_policy = [
        &on_loopback[..],
        &limits,
        &["--insecure-loopback-http", "--leeway", "0"],
        &["--issuer", &issuer.url, "--audience", AUDIENCE],
        &["--policy-file", &policy_file, "--cache-tokens", &cached],
        &["--tls-certificate", &crt, "--tls-key", &key],
    ]
    .concat();
    let (configuration_file, shadow) = (
        path(volumes.configuration.path(CONFIGURATION_FILE)),
        path(volumes.configuration.path(SHADOW_POLICY_FILE)),
    );
    let with_configuration = [
        &on_loopback[..],
        &limits,
        &["--config", &configuration_file, "--shadow-policy", &shadow],
    ]
    .concat();
    let mut all = Vec::new();
    let mut servers = Vec::new();
    for (name, flags, authority) in [
        ("auth-server", with_policy, Some(&ca)),
        ("auth-server-config", with_configuration, None),
    ] {
        let output = &arguments.output;
        let mut program = Program::start(name, &server, &flags, output, record, |_| {})?;
        let address = program.address("listening").await?;
        let admin = program.address("serving /healthz").await?;
        all.push((program, format!("http://{admin}/metrics")));
        servers.push(Server::new(name, address, &admin, authority)?);
    }
    let servers = <[Server; 2]>::try_from(servers).map_err(|_| "there are two servers")?;
    let services = format!("{},{}", servers[0].url, servers[1].url);
    let (token, ca_path) = (path(volumes.token.path(TOKEN_FILE)), path(ca_file));
    let flags = [
        &on_loopback[..],
        &["--service-url", &services, "--token-path", &token],
        &["--ca-file", &ca_path, "--json"],
        &["--interval", CLIENT_INTERVAL],
    ]
    .concat();
    let printed = client_output.clone();
    let on_line = move |line: &str| printed.line(line);
    let name = "auth-client";
    let mut program = Program::start(name, &client, &flags, &arguments.output, record, on_line)?;
    let admin = program.address("serving /metrics").await?;
    all.push((program, format!("http://{admin}/metrics")));
    let environment = Environment {
        record: record.clone(),
        issuer,
        tokens,
        volumes,
        ca,
        servers,
        sends_tokens_of_unknown_keys: AtomicBool::new(true),
    };
    let http = reqwest::Client::builder().no_proxy().timeout(START_LIMIT);
    // A connection that is kept could be closed by the server while it is used for the next sample.
    let http = http.pool_max_idle_per_host(0);
    let mut programs = Programs {
        all,
        http: http.build()?,
    };
    wait_until_ready(&environment, &mut programs, client_output).await?;
    Ok((Arc::new(environment), programs))
}

/// Waits until the servers are ready and the client has received some responses.
async fn wait_until_ready(
    environment: &Environment,
    programs: &mut Programs,
    client: &ClientOutput,
) -> Result<(), Failure> {
    const RESPONSES: u64 = 40;
    let began = Instant::now();
    loop {
        programs.check()?;
        let mut missing = Vec::new();
        for server in &environment.servers {
            let url = format!("{}/readyz", server.admin);
            let response = programs.http.get(url).send().await?;
            if !response.status().is_success() {
                let reason = response.text().await?;
                missing.push(format!("{} is not ready: {}", server.name, reason.trim()));
            }
        }
        let responses = client.responses();
        if responses < RESPONSES {
            missing.push(format!(
                "auth-client has received {responses} of {RESPONSES} responses"
            ));
        }
        if missing.is_empty() {
            return Ok(());
        }
        if began.elapsed() > START_LIMIT {
            return Err(format!("after {START_LIMIT:?}, {}", missing.join(", and ")).into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
