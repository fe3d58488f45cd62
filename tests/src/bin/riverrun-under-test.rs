//! The product's binary, built with the scenarios so that they never run a stale one.

use std::{env, process::ExitCode};

use riverrun_broker::{config::Config, server::Server, telemetry};

fn main() -> ExitCode {
    let mut flags = Vec::new();
    let mut arguments = env::args().skip(2);
    while let (Some(_set), Some(value)) = (arguments.next(), arguments.next()) {
        flags.push(value);
    }
    let config = Config::load(None, [], flags).expect("valid");
    telemetry::init_logging(&config.telemetry).expect("once");
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    runtime.block_on(async {
        let server = match Server::start(config).await {
            Ok(server) => server,
            Err(error) => {
                eprintln!("error: the broker does not start: {error}");
                return ExitCode::FAILURE;
            }
        };
        println!("ready grpc={} http={}", server.grpc_address(), server.http_address());
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .expect("signals");
        term.recv().await;
        match server.stop().await.clean {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    })
}
