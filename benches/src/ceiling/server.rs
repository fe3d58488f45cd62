//! The process behind the ceilings of the network: null sink, null source and bare TCP. This program
//! again, under a hidden command, on a runtime like the broker's.

use std::{
    io::{self, Write as _},
    net::Ipv4Addr,
};

use clap::Args;
use tokio::{net::TcpListener, runtime::Runtime};

use super::tcp;
use crate::{
    error::{BenchError, Result},
    payload::Batches,
    process::{self, Process},
    units::parse_size,
    wire::null,
    workload::Workload,
};

/// The hidden command.
pub const AS_NULL: &str = "as-null";

/// What the source has to send.
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    /// Bytes of a record
    #[arg(long, value_parser = parse_size)]
    payload: usize,
    /// Bytes of a batch
    #[arg(long, value_parser = parse_size)]
    batch: usize,
    /// Share that is noise
    #[arg(long)]
    entropy: f64,
}

/// The process, from its parent's side.
#[derive(Debug)]
pub struct NullServer {
    process: Process,
    grpc: String,
    tcp: String,
}

// === impl NullServer ===

impl NullServer {
    /// Starts one that serves the batches of `workload`.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(workload: &Workload) -> Result<Self> {
        let command = process::this_program([
            AS_NULL.to_owned(),
            format!("--payload={}", workload.payload_bytes),
            format!("--batch={}", workload.batch_bytes),
            format!("--entropy={}", workload.entropy),
        ])?;
        let (process, said) = Process::start("the null server", command)?;
        let part = |name: &str| {
            let found = said.split(' ').find_map(|part| part.strip_prefix(name));
            found.map(str::to_owned).ok_or_else(|| {
                BenchError::Failed(format!("the null server said {said:?} when ready"))
            })
        };
        Ok(Self { grpc: part("grpc=")?, tcp: part("tcp=")?, process })
    }

    /// Where null sink and null source listen.
    pub fn grpc(&self) -> &str {
        &self.grpc
    }

    /// Where bare TCP listens.
    pub fn tcp(&self) -> &str {
        &self.tcp
    }

    /// Its process.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Ends it.
    ///
    /// # Errors
    /// It did not end in order.
    pub fn stop(self) -> Result<()> {
        self.process.stop()
    }
}

/// Is that process, until SIGTERM.
///
/// # Errors
/// No port, or the server breaks.
pub fn serve(args: &ServerArgs) -> Result<()> {
    process::end_with_parent().map_err(BenchError::io("tying the process to its parent"))?;
    let workload = Workload {
        payload_bytes: args.payload,
        batch_bytes: args.batch,
        entropy: args.entropy,
        ..Workload::default()
    };
    let batches = Batches::encode(&workload)?;
    let runtime = Runtime::new().map_err(BenchError::io("starting threads"))?;
    let served = runtime.block_on(async {
        let listen = || BenchError::io("listening on 127.0.0.1");
        let grpc = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(listen())?;
        let tcp = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(listen())?;
        let told = process::told_to_end()?;
        let grpc_address = grpc.local_addr().map_err(listen())?;
        let tcp_address = tcp.local_addr().map_err(listen())?;
        tcp::serve(tcp, batches.clone())?;
        let _ = writeln!(io::stdout(), "ready grpc={grpc_address} tcp={tcp_address}");
        tokio::select! {
            served = null::serve(grpc, batches.all(), std::future::pending()) => served,
            () = told => Ok(()),
        }
    });
    runtime.shutdown_background();
    served
}
